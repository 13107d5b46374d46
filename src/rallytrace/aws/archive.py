"""model.tar.gz: what a training job leaves and an endpoint is given. It may come from a stranger."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from rallytrace.errors import ModelError, OutputError
from rallytrace.files import AtomicFile, make_folder

NAME = "model.tar.gz"
MAX_FILES, MAX_BYTES = 1000, 4 << 30  # of an artefact, unpacked


def unpack(archive: Path, folder: Path, *, max_bytes: int = MAX_BYTES) -> Path:
    """All files of the archive in `folder`, which appears whole or not at all; nothing in it is run.

    Only plain files and folders with relative names are taken, at most MAX_FILES of them and `max_bytes` together.
    Raises ModelError for anything else, OutputError where `folder` exists.
    """
    if folder.exists():
        raise OutputError(f"{folder} exists already: unpack {archive.name} to another name")
    make_folder(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack.") as partial:
        inside = Path(partial) / "model"
        inside.mkdir()
        try:
            with tarfile.open(archive, "r|gz") as tar:
                _extract(tar, archive, inside, max_bytes)
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise ModelError(f"{archive} is not a whole .tar.gz archive: {str(error).splitlines()[0]}") from error
        inside.rename(folder)
    return folder


def _extract(tar: tarfile.TarFile, archive: Path, out: Path, max_bytes: int) -> None:
    total = 0
    for count, member in enumerate(tar, 1):
        name = PurePosixPath(member.name)
        if not (member.isfile() or member.isdir()):
            raise ModelError(f"{archive}: {member.name!r} is a link or a device, expected plain files only")
        if name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
            raise ModelError(f"{archive}: {member.name!r} leads out of the archive")
        total += member.size
        if count > MAX_FILES or total > max_bytes:
            raise ModelError(f"{archive}: more than {MAX_FILES} files or {max_bytes} bytes, which no model of ours has")
        path = out / name
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        source = tar.extractfile(member)
        assert source is not None
        with source, path.open("wb") as file:
            shutil.copyfileobj(source, file)


def pack(onnx: Path, archive: Path) -> Path:
    """A network as an endpoint wants it, with no owner or time inside: equal files make equal archives."""
    member = tarfile.TarInfo("ball.onnx")
    member.size = onnx.stat().st_size
    with (
        AtomicFile(archive, "wb") as file,
        gzip.GzipFile(fileobj=file, filename="", mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
        onnx.open("rb") as source,
    ):
        tar.addfile(member, source)
    return archive


def model_in(folder: Path) -> Path:
    """The network in a folder that a job was given: an .onnx file, a checkpoint, or either inside of model.tar.gz.

    Raises ModelError.
    """
    if (folder / NAME).is_file():
        inside = Path(tempfile.mkdtemp(prefix="rallytrace-model-")) / "model"
        return model_in(unpack(folder / NAME, inside))
    found = sorted(folder.glob("*.onnx")) or [path.parent for path in sorted(folder.rglob("model.json"))]
    if not found:
        raise ModelError(f"{folder} holds no .onnx file, no checkpoint and no {NAME}")
    return found[0]
