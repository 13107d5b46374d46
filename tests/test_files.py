"""Whole files or none: between threads, and through a crash of the machine."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from rallytrace.errors import OutputError
from rallytrace.files import AtomicFile, write_text


def test_threads_that_write_one_file_leave_one_of_their_texts(tmp_path: Path) -> None:
    """Each has a name of its own until the file is whole."""
    path = tmp_path / "stages.json"
    texts = [f"{n}" * 5000 for n in range(4)]
    errors: list[BaseException] = []
    start = threading.Barrier(len(texts))

    def write(text: str) -> None:
        try:
            for _ in range(25):
                start.wait()
                write_text(path, text, durable=False)
                assert path.read_text() in texts
        except BaseException as error:  # told by the test, not by the thread
            errors.append(error)
            start.abort()

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [each.name for each in tmp_path.iterdir()] == ["stages.json"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """A crash after the name is given must not leave an empty file under it; then the folder is told, too."""
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def note_sync(number: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{number}") else f"file {os.fstat(number).st_size}")
        sync(number)

    def note_replace(old: Path, new: Path) -> None:
        done.append("name")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_text(tmp_path / "labels.csv", "Frame", durable=durable)
    assert done == (["file 5", "name", "folder"] if durable else ["name"])


def test_a_disk_that_fails_at_the_end_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> None:
        raise OSError(5, "Input/output error")

    path = tmp_path / "labels.csv"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=r"cannot write .*labels\.csv: Input/output error"), AtomicFile(path) as file:
        file.write("new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["labels.csv"]
