"""`track` from pipes and by URL: what a shell hands over, and errors that say what would work."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rallytrace import RallyOptions, make_clip, video
from rallytrace.cli import app
from rallytrace.errors import InputError, VideoError
from rallytrace.scale.inputs import local


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.mp4"
    make_clip(path, RallyOptions(wh=(160, 96), seconds=0.4))
    return path


@pytest.fixture(scope="module")
def expected(small: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("expected")
    track(small, "--out", out, "--no-video")
    return (out / "small.csv").read_bytes()


def track(*words: object) -> None:
    app(["track", "--model", "fast", *map(str, words)], standalone_mode=False)


@contextmanager
def fifo(path: Path, content: bytes) -> Iterator[Path]:
    """Written to by another program, as soon as somebody reads."""
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(content,), daemon=True)
    writer.start()
    yield path
    writer.join(10)


def shell(*words: object, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "rallytrace", "track", "--model", "fast", *map(str, words)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def test_standard_input(small: Path, expected: bytes, tmp_path: Path) -> None:
    done = shell("-", "--out", tmp_path, stdin=small.read_bytes())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stdin.csv").read_bytes() == expected
    assert (tmp_path / "stdin.tracked.mp4").exists()
    done = shell("-", "--out", tmp_path, "--name", "cut", stdin=b"no video")
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("error: standard input cannot be opened as a video")
    assert not list(tmp_path.glob("cut*"))


def test_standard_input_as_it_comes(small: Path, tmp_path: Path) -> None:
    """A camera's program writes Matroska or a transport stream into the pipe."""
    stream = tmp_path / "small.ts"
    command = ["ffmpeg", "-v", "error", "-i", str(small), "-c", "copy", str(stream)]
    subprocess.run(command, check=True)
    done = shell("--live", "-", "--out", tmp_path / "out", "--json", stdin=stream.read_bytes())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b'"pts_s"') == 12
    assert (tmp_path / "out" / "stdin.tracked.mp4").exists()


def test_a_fifo_is_read_once(small: Path, expected: bytes, tmp_path: Path) -> None:
    with fifo(tmp_path / "match", small.read_bytes()) as path:
        track(path, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "match.csv").read_bytes() == expected
    with fifo(tmp_path / "empty", b"") as path, pytest.raises(InputError, match="empty came to its end without"):
        track(path, "--out", tmp_path / "out")


def test_a_fifo_without_a_writer_can_be_given_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "silent")
    stop = threading.Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt), local(str(tmp_path / "silent"), stop=stop):
        pass


def test_a_reader_takes_pipes_and_file_urls(small: Path, tmp_path: Path) -> None:
    with fifo(tmp_path / "match", small.read_bytes()) as path, video.read(path) as reader:
        assert reader.info.is_live
        assert sum(1 for _ in reader) == 12
    spaced = tmp_path / "a b.mp4"
    spaced.write_bytes(small.read_bytes())
    assert video.probe(f"file://{tmp_path}/a%20b.mp4").wh == (160, 96)
    with pytest.raises(VideoError, match="of this machine"):
        video.probe("file://elsewhere/a.mp4")


def test_errors_name_what_was_typed_and_what_works(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        track("foo://cam/x", "--out", tmp_path)
    for scheme in (*video.SCHEMES, "s3", "gs", "az", "file"):
        assert f"{scheme}://" in str(caught.value)
    with pytest.raises(VideoError, match=r"rtmps://.*camera:0"):
        video.probe("foo://cam/x")


def test_srt_where_ffmpeg_has_it(tmp_path: Path) -> None:
    """Nobody listens: whether this FFmpeg knows the protocol or not, the error is about that and nothing else."""
    with pytest.raises(VideoError, match=r"has no srt://|check the address|gave no answer"):
        video.probe("srt://127.0.0.1:9?connect_timeout=200")
