"""Processes killed at random points: nothing half-made is ever under its name, and a rerun does the rest only."""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rallytrace import RallyOptions, Trajectory, cli, make_clip, video
from rallytrace.checkpoint import load_checkpoint, load_torch
from rallytrace.features import load_features
from rallytrace.names import RECORD

from ..often import often

CONTEXT = multiprocessing.get_context("forkserver")
VERBS = [f"rallytrace.cli.{name}" for name in ("features", "learn", "store", "video")]
CONTEXT.set_forkserver_preload([*VERBS, "rallytrace.train", "rallytrace.scale.batch"])
FRAMES = 45
TRAIN = (
    "--size",
    "256x144",
    "--steps",
    "8",
    "--batch",
    "2",
    "--val-every",
    "4",
    "--save-every",
    "1",
    "--log-every",
    "1",
)


def _main(arguments: tuple[str, ...]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.argv = ["rallytrace", *arguments]
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    cli.main()


def run(arguments: tuple[str, ...], kill_after_s: float | None = None) -> int | None:
    """The exit code, None where it was killed. Forked from a process that has imported all, so it starts at once."""
    process = CONTEXT.Process(target=_main, args=(arguments,))
    process.start()
    process.join(120 if kill_after_s is None else kill_after_s)
    if process.is_alive():
        assert kill_after_s is not None, f"{arguments} takes too long"
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        return None
    return process.exitcode


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for seed, name in enumerate(("one", "two", "three")):
        make_clip(folder / f"{name}.mp4", RallyOptions(seconds=FRAMES / 30, wh=(256, 144), seed=seed))
    (folder / "index.csv").write_text("clip,match,split\none,a,train\ntwo,b,val\nthree,c,train\n")
    return folder


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def visible(folder: Path) -> Iterator[Path]:
    """What a reader sees: temporary names begin with a dot."""
    return (
        p for p in folder.rglob("*") if p.is_file() and not any(x.startswith(".") for x in p.relative_to(folder).parts)
    )


def kill_often(arguments: tuple[str, ...], out: Path, kills: int, check: Callable[[Path], None]) -> None:
    """Kill a command `kills` times at points spread over its time, look at what it left, then let it finish."""
    rng = random.Random(arguments[0])
    assert run(("models",)) == 0  # the process that others are forked from takes seconds to begin
    began = time.monotonic()
    assert run(arguments) == 0
    lasts_s = time.monotonic() - began
    check(out)
    shutil.rmtree(out)
    done = 0
    while done < kills:
        killed = run(arguments, rng.uniform(0.02, 1) * lasts_s) is None
        done += killed
        if out.exists():
            check(out)
            if not killed:  # it had nothing left to do
                shutil.rmtree(out)
    assert run(arguments) == 0
    check(out)


def test_add(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.mkdir()
    for n in range(4):
        (big / f"{n}.mp4").write_bytes(random.Random(n).randbytes(9_000_000))
    want = {path.name: digest(path) for path in big.iterdir()}

    def check(out: Path) -> None:
        for path in visible(out):
            if path.suffix == ".mp4":
                assert digest(path) == want[path.name]

    out = tmp_path / "out"
    kill_often(("add", str(big), "--to", str(out)), out, often(4, 14), check)
    assert want.keys() <= {path.name for path in visible(out)}


def test_prepare(clips: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    command = ("prepare", str(clips), "--size", "256x144", "--out")
    assert run((*command, str(reference))) == 0
    want = {path.relative_to(reference): digest(path) for path in visible(reference)}

    def check(out: Path) -> None:
        for path in visible(out):
            assert digest(path) == want[path.relative_to(out)], path
        if (out / "manifest.json").exists():
            assert len(load_features(out)) == 3

    out = tmp_path / "out"
    kill_often((*command, str(out), "--overwrite"), out, often(4, 13), check)
    assert {path.relative_to(out) for path in visible(out)} == want.keys()


def test_track(clips: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    command = ("track", str(clips), "--model", "fast", "--threads", "1", "--out")
    assert run((*command, str(reference))) == 0
    want = {path.name: digest(path) for path in reference.glob("*.csv")}

    def check(out: Path) -> None:
        for path in visible(out):
            if path.suffix == ".csv":
                assert digest(path) == want[path.name]
                assert len(Trajectory.from_csv(path)) == FRAMES
            elif path.name.endswith(RECORD):
                assert json.loads(path.read_text())
            else:
                with video.read(path) as reader:
                    assert sum(1 for _ in reader) == FRAMES

    out = tmp_path / "out"
    kill_often((*command, str(out), "--overwrite"), out, often(4, 13), check)
    assert {path.name for path in out.glob("*.csv")} == want.keys()


def test_train(clips: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    command = ("train", "--data", str(clips), "--cache", str(cache), "--workers", "0", *TRAIN, "--out")
    reference = tmp_path / "reference"
    assert run((*command, str(reference))) == 0
    want = load_checkpoint(reference / "last")[0].state_dict()

    def check(out: Path) -> None:
        for folder in ("best", "last"):
            if (out / folder / "model.json").exists():
                load_checkpoint(out / folder)
        if (out / "state.pt").exists():
            assert 1 <= load_torch(out / "state.pt")["step"] <= 8

    out = tmp_path / "out"
    kill_often((*command, str(out)), out, often(3, 10), check)
    got = load_checkpoint(out / "last")[0].state_dict()
    assert all((got[name] == value).all() for name, value in want.items())
