"""The recipes in runs/ are the living proof of the pipeline: here with few steps, on synthetic clips."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rallytrace import RallyOptions, make_clip
from rallytrace.video import decode_jpeg

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.timeout(900)
def test_default_recipe(rallies: Path, tmp_path: Path) -> None:
    """With one step a stage, and an unlabelled tennis clip beside the labelled badminton ones."""
    clips = tmp_path / "data" / "tennis" / "clips"
    clips.mkdir(parents=True)
    (tmp_path / "data" / "badminton").symlink_to(rallies)
    make_clip(clips / "court.mp4", RallyOptions(sport="tennis", wh=(512, 288), seconds=1.0, seed=4))
    (clips / "court_ball.csv").unlink()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DATA": str(tmp_path / "data"),
        "OUT": str(tmp_path / "out"),
        "PRECISION": "fp32",
        "MOST_STEPS": "1",
        "SECONDS_EACH": "0.5",
        "EXTRA": "--batch 2 --val-every 1 --save-every 1 --log-every 1 --workers 0",
    }
    command = ["bash", str(ROOT / "runs" / "default.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("accurate", "fast", "window3"):
        assert (tmp_path / "out" / f"{name}.onnx").exists()
        assert (tmp_path / "out" / f"report-{name}" / "report.html").exists()


def test_the_picture_of_the_readme_can_be_made_again(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "demo_picture.py"), str(tmp_path / "demo.jpg")]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    assert decode_jpeg((tmp_path / "demo.jpg").read_bytes()).shape == (724, 1284, 3)
