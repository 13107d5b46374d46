"""The other verbs, and what all have in common."""

import json
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rallytrace
from rallytrace.cli import EXTRAS, app
from rallytrace.cli.common import VERBS, load_verb

from .test_track_video import assert_one_clear_line, run


def test_version() -> None:
    assert run("--version").stdout.strip() == rallytrace.__version__


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb: str) -> None:
    told = CliRunner().invoke(app, [verb, "--help"])
    assert told.exit_code == 0
    assert VERBS[verb][1][:40] in told.output


@pytest.mark.parametrize("verb", VERBS)
def test_the_overview_says_of_a_verb_what_its_own_help_says(verb: str) -> None:
    assert load_verb(verb).help.split("\n\n")[0].replace("\n", " ") == VERBS[verb][1]


def test_every_verb_is_in_the_overview() -> None:
    folder = Path(rallytrace.cli.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "common"}
    assert {module for module, _ in VERBS.values()} == modules
    for verb in VERBS:
        load_verb(verb)
    assert {info.name for info in [*app.registered_commands, *app.registered_groups]} == set(VERBS)


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_overview_loads_nothing_heavy() -> None:
    """It took 0.7 s of a processor, most of it for packages that print no help."""
    code = """
import sys
from rallytrace.cli import app
app(["--help"], standalone_mode=False)
print(*sys.modules)
"""
    overview, _, loaded = python(code).rstrip().rpartition("\n")
    assert "Track the ball" in overview
    heavy = {"numpy", "av", "onnxruntime", "rallytrace.video", *sum(EXTRAS.values(), ())}
    assert not heavy & set(loaded.split())


def test_a_plain_installation_can_say_what_every_verb_does() -> None:
    """Without the packages of any extra: a verb asks for its own only when it is used."""
    missing = [*sum(EXTRAS.values(), ()), "pyarrow", "obstore", "ray", "openvino"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({missing}))
from rallytrace.cli.common import VERBS, load_verb
print(*[load_verb(verb).name for verb in VERBS])
"""
    assert python(code).split() == list(VERBS)


def test_usage_errors_have_their_own_code() -> None:
    assert run("track").returncode == 2
    assert run("track", "x.mp4", "--threshold", "7").returncode == 2


def test_models_lists_what_is_bundled() -> None:
    listed = [json.loads(line) for line in run("models", "--json").stdout.splitlines()]
    assert [m["name"] for m in listed] == sorted(rallytrace.runtime.bundled())
    assert all(Path(m["path"]).exists() for m in listed)
    assert "(default)" in run("models").stdout


def test_synth(tmp_path: Path) -> None:
    out = tmp_path / "new" / "s.mp4"  # in a folder that is not there yet
    told = json.loads(
        run("synth", out, "--seconds", "0.5", "--size", "320x180", "--fps", "30000/1001", "--json").stdout
    )
    assert told["frames"] == 15
    assert len(rallytrace.read_labels(tmp_path / "new" / "s_ball.csv")) == 15
    assert_one_clear_line(run("synth", out), "exists already", "--overwrite")
    out.unlink()
    assert_one_clear_line(run("synth", out), "_ball.csv exists already", "--overwrite")
    assert_one_clear_line(run("synth", tmp_path / "t.mp4", "--size", "big"), "'big'", "1280x720")
    assert_one_clear_line(run("synth", tmp_path / "t.mp4", "--fps", "1/0"), "1/0")


@pytest.mark.parametrize("fps", ["100", "120000/1001", "240"])
def test_synth_at_a_fast_camera_s_rate(fps: str, tmp_path: Path) -> None:
    app(["synth", str(tmp_path / "s.mp4"), "--fps", fps, "--seconds", "0.1", "--size", "64x48"], standalone_mode=False)
    rate = rallytrace.video.probe(tmp_path / "s.mp4").fps
    assert float(rate) == pytest.approx(float(Fraction(fps)), rel=0.002)  # of so few pictures it is a guess


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("eval", "--data", "nowhere"), ("nowhere",)),
        (("train", "--data", "nowhere", "--out", "run"), ("nowhere",)),
        (("train", "--data", ".", "--out", "run", "--model", "resnet"), ("unknown network 'resnet'", "rallynet")),
        (("export", "nowhere", "--out", "ball.onnx"), ("nowhere", "checkpoint")),
        (("track", "nowhere.mp4", "--device", "cuda"), ("cuda",)),
        (("train", "--data", ".", "--out", "run", "--size", "100x100"), ("multiples of 16", "(100, 100)")),
    ],
)
def test_one_clear_line(arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path) -> None:
    assert_one_clear_line(run(*arguments, cwd=tmp_path), *words)


def test_errors_as_json(tmp_path: Path) -> None:
    done = run("track", "nowhere.mp4", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert "nowhere.mp4" in json.loads(done.stdout)["error"]


def test_labels_and_video_of_different_lengths(rallies: Path, tmp_path: Path) -> None:
    """Labels beyond the video are an error in training and evaluation; frames without one are left out, and said."""
    data = tmp_path / "badminton"
    shutil.copytree(rallies, data)
    lines = (data / "b_ball.csv").read_text().splitlines(keepends=True)
    (data / "b_ball.csv").write_text("".join(lines) + "45,0,0,0\n")
    wrong = ("clip b: a label is on frame 45, but b.mp4 has 45 frames",)
    assert_one_clear_line(run("eval", "--data", data), *wrong)
    index = (data / "index.csv").read_text()
    (data / "index.csv").write_text(index.replace("train", "x").replace("val", "train").replace("x", "val"))
    assert_one_clear_line(run("train", "--data", data, "--out", tmp_path / "run", "--steps", "1"), *wrong)
    (data / "index.csv").write_text(index)
    (data / "b_ball.csv").write_text("".join(lines[:-10]))
    assert "10 frames have no label and were not scored" in run("eval", "--data", data).stdout


def test_eval_asks_for_a_split_that_exists(rallies: Path, tmp_path: Path) -> None:
    assert_one_clear_line(run("eval", "--data", rallies, "--split", "test"), "no clip of split 'test'", "train")
    done = run("eval", "--data", rallies, "--split", "all", "--out", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    assert "total" in done.stdout
    assert "4@288" in done.stdout
    assert_one_clear_line(run("eval", "--data", rallies, "--out", tmp_path / "r"), "exists already")
