"""`rallytrace run`: the whole road by one file, what is up to date is skipped, what was cut goes on."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from rallytrace import RallyOptions, Trajectory, make_clip, registry
from rallytrace.errors import InputError
from rallytrace.pipeline import Pipeline, _fingerprint

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
CONFIG = """
name = "club"
work = "work"
[add]
videos = ["raw/*.mp4"]
[label]
source = "raw"
[prepare]
val = 0.5
size = "256x144"
[train]
size = "256x144"
steps = 4
batch = 2
val-every = 4
save-every = 1
log-every = 1
workers = 0
[register]
stage = "staging"
min-f1 = 0
[track]
videos = ["raw/one.mp4"]
no-video = true
"""


def rallytrace(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "rallytrace", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)


def states(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return {event["step"]: event["state"] for event in map(json.loads, done.stdout.splitlines())}


@contextmanager
def begin(config: Path) -> "Iterator[subprocess.Popen[str]]":
    """`rallytrace run` and all that it starts, gone with the block."""
    command = [sys.executable, "-m", "rallytrace", "run", str(config), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True) as run:
        try:
            yield run
        finally:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, seed in (("one", 1), ("two", 2)):
        make_clip(raw / f"{name}.mp4", RallyOptions(seconds=1, wh=(256, 144), seed=seed))
    path = tmp_path / "pipeline.toml"
    path.write_text(CONFIG)
    return path


def test_killed_between_two_videos_then_whole_then_what_changed(config: Path) -> None:
    config.write_text(CONFIG.replace('"raw/one.mp4"', '"raw/*.mp4"'))
    make_clip(config.parent / "raw" / "two.mp4", RallyOptions(seconds=20, wh=(256, 144), seed=2))
    work = config.parent / "work"
    one, two = work / "tracked" / "one.csv", work / "tracked" / "two.csv"
    with begin(config) as process:
        while not one.exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert not two.exists()
    assert len(Trajectory.from_csv(one)) == 30
    whole = one.stat()

    again = states(rallytrace("run", config, "--json"))
    assert again == {**dict.fromkeys(("add", "label", "prepare", "train", "register"), "up to date"), "track": "done"}
    assert (one.stat().st_ino, one.stat().st_mtime_ns) == (whole.st_ino, whole.st_mtime_ns)
    assert len(Trajectory.from_csv(two)) == 600
    version = registry.find(work / "models", "club@staging")
    assert version.lineage["data"][0]["name"] == "features"
    assert (work / "features" / "manifest.json").exists()

    assert set(states(rallytrace("run", config, "--json")).values()) == {"up to date"}

    config.write_text(config.read_text().replace("steps = 4", "steps = 8"))
    assert states(rallytrace("run", config, "--json")) == {
        "add": "up to date",
        "label": "up to date",
        "prepare": "up to date",
        "train": "done",
        "register": "done",
        "track": "done",
    }
    assert len(registry.versions(work / "models", "club")) == 2
    assert one.stat().st_mtime_ns > whole.st_mtime_ns  # by other weights


def test_only_what_is_new_and_good_goes_on(config: Path) -> None:
    """Four steps of training find nothing; files that were touched, and labels that say the same, train nothing."""
    text, _, _ = CONFIG.partition("[track]")
    config.write_text(text.replace("min-f1 = 0\n", ""))
    raw, models = config.parent / "raw", config.parent / "work" / "models"
    done = rallytrace("run", config, "--json")
    assert done.returncode == 1
    assert "step register" in done.stderr
    assert "does not become staging: on the same clips it has F1 0.000, expected 0.5 or more" in done.stderr
    (version,) = registry.versions(models, "club")
    assert version.stages == ()

    config.write_text(text)
    for path in raw.iterdir():  # as a copy or a checkout does
        os.utime(path)
    again = states(rallytrace("run", config, "--json"))
    assert again == {**dict.fromkeys(("add", "label", "prepare", "train"), "up to date"), "register": "done"}
    assert registry.find(models, "club@staging").version == version.version

    table = raw / "one_ball.csv"
    table.write_bytes(table.read_bytes().replace(b"\n", b"\r\n"))
    relabelled = states(rallytrace("run", config, "--json"))
    assert {step for step, state in relabelled.items() if state == "done"} == {"label", "prepare"}


def test_killed_in_training_it_goes_on_there(config: Path) -> None:
    config.write_text(CONFIG.replace("steps = 4", "steps = 400").replace("val-every = 4", "val-every = 400"))
    with begin(config) as first:
        assert first.stdout
        next(line for line in first.stdout if '"step 5/' in line)
    assert not (config.parent / "work" / "models").exists()
    with begin(config) as second:
        assert second.stdout
        for event in map(json.loads, second.stdout):
            if event["step"] != "train":
                assert event["state"] == "up to date"
            elif event["about"].startswith("step "):
                assert int(event["about"].split()[1].partition("/")[0]) > 4
                break


def test_it_waits_for_labels_and_says_who_is_to_do_what(config: Path) -> None:
    config.write_text(CONFIG.replace('source = "raw"', 'source = "labels.csv"'))
    done = rallytrace("run", config)
    assert done.returncode == 1
    assert "step label waits" in done.stderr
    assert "rallytrace label" in done.stderr


def test_what_a_label_server_has_just_written_is_seen(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "book.sqlite")) as server:
        server.execute("PRAGMA journal_mode=WAL")
        server.execute("CREATE TABLE event (x)")
        server.commit()
        before = _fingerprint(str(tmp_path))
        assert _fingerprint(str(tmp_path)) == before
        server.execute("INSERT INTO event VALUES (1)")
        server.commit()
        after = _fingerprint(str(tmp_path))
        assert after != before
    assert _fingerprint(str(tmp_path)) == after


def test_a_step_that_fails_says_why_and_what_is_done_stays_done(config: Path) -> None:
    config.write_text(CONFIG.replace('size = "256x144"\nsteps', 'size = "small"\nsteps'))
    done = rallytrace("run", config, "--json")
    assert done.returncode == 1
    assert "step train" in done.stderr
    assert "'small'" in done.stderr
    config.write_text(CONFIG)
    with begin(config) as again:
        assert again.stdout
        events = map(json.loads, again.stdout)
        assert next(event for event in events if event["step"] == "prepare")["state"] == "up to date"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is no pipeline"),
        ("name = 'a'\nwork = 'w'", "missing \\['add', 'label'\\]"),
        (CONFIG + "[retrain]\n", "unknown \\['retrain'\\]"),
        (CONFIG.replace("videos = ", "films = "), "\\[add\\] needs videos"),
        (CONFIG.replace('["raw/*.mp4"]', '"raw/*.mp4"'), "a list of texts, got 'raw"),
        (CONFIG.replace('"raw"', "3"), "a text, got 3"),
        ("deploy = 1\n" + CONFIG, "deploy must be a section"),
        (CONFIG.replace('"club"', '"../club"'), "name '../club'"),
        (CONFIG.replace('"staging"', '"a/b"'), "stage 'a/b'"),
        (CONFIG.replace("min-f1 = 0", "min-f1 = 50"), "has 50, expected stage, and min-f1 from 0 to 1"),
        (CONFIG.replace("min-f1 = 0", "score = 1"), "has \\['score'\\], expected stage"),
        ("on = 'spark'\n" + CONFIG, "on = 'spark', expected local, ray"),
        ("on = 'aws'\n" + CONFIG, "with on = 'aws' it must be s3://"),
    ],
)
def test_a_wrong_file_is_one_clear_error(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(InputError, match=message):
        Pipeline.read(config)
