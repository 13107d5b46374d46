"""model.tar.gz of strangers: bounded, inside its folder, whole or not at all."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallytrace.aws import archive
from rallytrace.errors import ModelError, OutputError


def tar_of(path: Path, *members: tuple[str, bytes | str, bytes]) -> Path:
    """(name, content or link target, kind) each."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if isinstance(content, str):
                member.linkname = content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


FILE, LINK, HARD, FIFO, DIR = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("../evil", b"x", FILE)], "leads out"),
        ([("a/../../evil", b"x", FILE)], "leads out"),
        ([("/etc/evil", b"x", FILE)], "leads out"),
        ([("..\\evil", b"x", FILE)], "leads out"),
        ([("a", "/etc", LINK), ("a/evil", b"x", FILE)], "link or a device"),
        ([("a", "../../evil", HARD)], "link or a device"),
        ([("a", b"", FIFO)], "link or a device"),
        ([("a", b"x", FILE), ("a/b", b"x", FILE)], "not a whole"),
        ([(f"{n}", b"", FILE) for n in range(1001)], "more than 1000 files"),
        ([("big", bytes(200_001), FILE)], "200000 bytes"),
        ([("a", bytes(150_000), FILE), ("b", bytes(150_000), FILE)], "200000 bytes"),
    ],
)
def test_hostile_archives_are_refused_and_leave_nothing(
    members: list[tuple[str, bytes | str, bytes]], said: str, tmp_path: Path
) -> None:
    path = tar_of(tmp_path / "model.tar.gz", *members)
    with pytest.raises(ModelError, match=said):
        archive.unpack(path, tmp_path / "inner" / "model", max_bytes=200_000)
    assert [p.name for p in tmp_path.rglob("*")] in (["model.tar.gz", "inner"], ["inner", "model.tar.gz"])


def test_a_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    """100 MB of zeros in 100 kB: what is unpacked is what the header says, and that is counted."""
    path = tmp_path / "model.tar.gz"
    header = tarfile.TarInfo("bomb")
    header.size = 10
    with gzip.open(path, "wb") as packed:
        packed.write(header.tobuf())
        for _ in range(100):
            packed.write(bytes(1 << 20))
    archive.unpack(path, tmp_path / "model", max_bytes=1000)
    assert sum(p.stat().st_size for p in (tmp_path / "model").iterdir()) == 10


@given(data=st.binary(max_size=400), cut=st.integers(1, 200))
def test_broken_archives_are_one_clear_error(data: bytes, cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("broken")
    whole = tar_of(folder / "whole.tar.gz", ("ball.onnx", bytes(range(256)) * 20, FILE)).read_bytes()
    for number, bad in enumerate((data, whole[:-cut], gzip.compress(data))):
        (folder / f"{number}.tar.gz").write_bytes(bad)
        try:
            archive.unpack(folder / f"{number}.tar.gz", folder / f"out{number}")
        except ModelError:
            assert not (folder / f"out{number}").exists()


def test_what_is_packed_comes_out_again(tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(b"network")
    one, two = (archive.pack(tmp_path / "mine.onnx", tmp_path / name) for name in ("1.tar.gz", "2.tar.gz"))
    assert one.read_bytes() == two.read_bytes()
    archive.unpack(one, tmp_path / "out")
    assert (tmp_path / "out" / "ball.onnx").read_bytes() == b"network"
    with pytest.raises(OutputError, match="exists already"):
        archive.unpack(one, tmp_path / "out")


def test_the_network_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no"):
        archive.model_in(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model.json").touch()
    assert archive.model_in(tmp_path) == tmp_path / "checkpoint"
    (tmp_path / "ball.onnx").touch()
    assert archive.model_in(tmp_path) == tmp_path / "ball.onnx"
    archive.pack(tmp_path / "ball.onnx", tmp_path / "model.tar.gz")
    found = archive.model_in(tmp_path)
    assert found.name == "ball.onnx"
    assert found.parent != tmp_path
