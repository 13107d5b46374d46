"""`track` with sources whose names are unusual, and consoles that cannot print them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rallytrace import RallyOptions, make_clip
from rallytrace.cli import app
from rallytrace.errors import InputError, OutputError

from .test_track_video import run


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.mp4"
    make_clip(path, RallyOptions(wh=(160, 96), seconds=0.2))
    return path


def copies(small: Path, folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in names]
    for path in paths:
        path.write_bytes(small.read_bytes())
    return paths


def track(*words: object) -> None:
    app(["track", "--model", "fast", *map(str, words)], standalone_mode=False)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_second_run_does_not_track_the_first_one_s_results(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    copies(small, tmp_path, "a.mp4", "._a.mp4")
    monkeypatch.chdir(tmp_path)
    track(".")
    first = names_in(tmp_path)
    assert {"a.csv", "a.tracked.mp4"} < set(first)
    capfd.readouterr()
    track(".", "--overwrite")
    assert names_in(tmp_path) == first
    assert "left out 1 result of track (a.tracked.mp4), 1 hidden file (._a.mp4)" in capfd.readouterr().err
    track("a.csv", "a.mp4", "a.tracked.mp4", "--overwrite", "--no-video")  # what a shell makes of *
    assert names_in(tmp_path) == first
    assert "a.tracked.mp4 is left out: it is the result of a.mp4" in capfd.readouterr().err


def test_names_survive(small: Path, tmp_path: Path) -> None:
    long = "🏸" * 60
    for path in copies(small, tmp_path / "in", "who won?.mp4", "दिल्ली 👩‍👧.mp4", "[bold] {x}.mp4", f"{long}.mp4"):
        track(path, "--out", tmp_path / "out")
    videos = {name.removesuffix(".tracked.mp4") for name in names_in(tmp_path / "out") if name.endswith(".mp4")}
    assert videos == {"who won?", "दिल्ली 👩‍👧", "[bold] {x}", long}
    assert not [name for name in names_in(tmp_path / "out") if "partial" in name]


def test_a_name_of_one_s_own(small: Path, tmp_path: Path) -> None:
    a, b = copies(small, tmp_path / "in", "a.mp4", "b.mp4")
    track(a, "--name", "final v1.2", "--out", tmp_path / "out")
    assert {"final v1.2.csv", "final v1.2.tracked.mp4"} <= set(names_in(tmp_path / "out"))
    with pytest.raises(InputError, match="for one source, but 2"):
        track(a, b, "--name", "x", "--out", tmp_path / "two")
    for wrong in ("a/b", "", ".."):
        with pytest.raises(InputError, match="cannot be the name"):
            track(a, "--name", wrong, "--out", tmp_path / "two")
    [too_long] = copies(small, tmp_path / "in", f"{'x' * 250}.mp4")
    with pytest.raises(InputError, match=r"longer than the 255 bytes .* --name"):
        track(too_long, "--out", tmp_path / "two")
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_console_that_cannot_print_a_name(encoding: str, small: Path, tmp_path: Path) -> None:
    names = ("दिल्ली.mp4", os.fsdecode(b"caf\xe9.mp4"), "a.mp4")
    paths = copies(small, tmp_path / "in", *names)
    (tmp_path / "in" / "🏸 broken.mp4").write_text("no video")
    command = [sys.executable, "-m", "rallytrace", "track", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([*command, "--no-video"], env=environment, capture_output=True, check=False)
    said = done.stderr.decode(encoding)
    assert done.returncode == 1
    assert "Traceback" not in said
    assert "1 of 4 videos could not be tracked" in said
    assert done.stdout.decode(encoding).count("ball found") == 3
    csvs = {name for name in names_in(tmp_path / "out") if name.endswith(".csv")}
    assert csvs == {path.stem + ".csv" for path in paths}


def test_a_fault_of_ours_costs_one_video(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    copies(small, tmp_path / "in", "a.mp4", "b.mp4")
    whole = __import__("rallytrace.scale.batch", fromlist=["track_video"]).track_video

    def broken(source: object, *words: object, **options: object) -> object:
        if "a.mp4" in str(source):
            raise KeyError("unforeseen\nthing")
        return whole(source, *words, **options)

    monkeypatch.setattr("rallytrace.scale.batch.track_video", broken)
    with pytest.raises(InputError, match="1 of 2 videos"):
        track(tmp_path / "in", "--out", tmp_path / "out", "--no-video")
    assert "b.csv" in names_in(tmp_path / "out")
    [line] = [line for line in capfd.readouterr().err.splitlines() if "KeyError" in line]
    assert line.startswith(f"error: {tmp_path / 'in' / 'a.mp4'}: KeyError: ")


def test_existing_results_are_named(small: Path, tmp_path: Path) -> None:
    [path] = copies(small, tmp_path, "a.mp4")
    track(path, "--out", tmp_path, "--no-video", "--name", "mine")
    with pytest.raises(OutputError, match=r"mine\.csv exists already"):
        track(path, "--out", tmp_path, "--no-video", "--name", "mine")


def test_a_file_url(small: Path, tmp_path: Path) -> None:
    copies(small, tmp_path / "in put", "a b.mp4")
    track(f"file://{tmp_path}/in%20put/a%20b.mp4", "--out", f"file://{tmp_path}/out%20put", "--no-video")
    assert "a b.csv" in names_in(tmp_path / "out put")
    assert run("track", "file://elsewhere/a.mp4").stderr.startswith("error: file://elsewhere/a.mp4: a file:// URL")
