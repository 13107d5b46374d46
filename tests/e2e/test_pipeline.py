"""`rallytrace run`: the whole road by one file, what is up to date is skipped, what was cut goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rallytrace import RallyOptions, Trajectory, make_clip, registry
from rallytrace.errors import InputError
from rallytrace.pipeline import Pipeline

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


@pytest.fixture
def config(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, seed in (("one", 1), ("two", 2)):
        make_clip(raw / f"{name}.mp4", RallyOptions(seconds=1, wh=(256, 144), seed=seed))
    path = tmp_path / "pipeline.toml"
    path.write_text(CONFIG)
    return path


def test_all_steps_once_then_none_then_what_changed(config: Path) -> None:
    config.write_text(CONFIG.replace('"raw/one.mp4"', '"raw/*.mp4"'))
    first = states(rallytrace("run", config, "--json"))
    assert first == dict.fromkeys(("add", "label", "prepare", "train", "register", "track"), "done")
    work = config.parent / "work"
    assert len(Trajectory.from_csv(work / "tracked" / "one.csv")) == 30
    version = registry.find(work / "models", "club@staging")
    manifest = work / "features" / "manifest.json"
    assert version.lineage["data"][0]["name"] == "features"
    assert manifest.exists()

    assert set(states(rallytrace("run", config, "--json")).values()) == {"up to date"}

    # What a kill leaves between the first video and the second, which then is all that is done.
    note, one, two = work / "pipeline" / "track.json", work / "tracked" / "one.csv", work / "tracked" / "two.csv"
    note.write_text(json.dumps({"begun": json.loads(note.read_text())["key"]}))
    two.unlink()
    whole = one.stat()
    again = states(rallytrace("run", config, "--json"))
    assert again == {**dict.fromkeys(first, "up to date"), "track": "done"}
    assert (one.stat().st_ino, one.stat().st_mtime_ns) == (whole.st_ino, whole.st_mtime_ns)
    assert len(Trajectory.from_csv(two)) == 30

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


def test_killed_in_training_it_goes_on_there(config: Path) -> None:
    config.write_text(CONFIG.replace("steps = 4", "steps = 400").replace("val-every = 4", "val-every = 400"))
    command = [sys.executable, "-m", "rallytrace", "run", str(config), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True)
    assert process.stdout
    for line in process.stdout:
        event = json.loads(line)
        if event["step"] == "train" and event["about"].startswith("step 5/"):
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait()
    assert not (config.parent / "work" / "models").exists()
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True)
    assert second.stdout
    steps = []
    for line in second.stdout:
        event = json.loads(line)
        if event["step"] != "train":
            assert event["state"] == "up to date"
        elif event["about"].startswith("step "):
            steps.append(int(event["about"].split()[1].partition("/")[0]))
            break
    os.killpg(second.pid, signal.SIGKILL)
    second.wait()
    assert steps[0] > 4


def test_it_waits_for_labels_and_says_who_is_to_do_what(config: Path) -> None:
    config.write_text(CONFIG.replace('source = "raw"', 'source = "labels.csv"'))
    done = rallytrace("run", config)
    assert done.returncode == 1
    assert "step label waits" in done.stderr
    assert "rallytrace label" in done.stderr


def test_a_step_that_fails_says_why_and_what_is_done_stays_done(config: Path) -> None:
    config.write_text(CONFIG.replace('size = "256x144"\nsteps', 'size = "small"\nsteps'))
    done = rallytrace("run", config, "--json")
    assert done.returncode == 1
    assert "step train" in done.stderr
    assert "'small'" in done.stderr
    config.write_text(CONFIG)
    assert states(rallytrace("run", config, "--json"))["prepare"] == "up to date"


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
        ("on = 'spark'\n" + CONFIG, "on = 'spark', expected local, ray"),
        ("on = 'aws'\n" + CONFIG, "with on = 'aws' it must be s3://"),
    ],
)
def test_a_wrong_file_is_one_clear_error(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(InputError, match=message):
        Pipeline.read(config)
