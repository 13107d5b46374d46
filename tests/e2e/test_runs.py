"""The recipes in runs/ are the living proof of the pipeline: here with few steps, on synthetic clips."""

import os
import subprocess
import sys
from pathlib import Path

from rallytrace.video import decode_jpeg

ROOT = Path(__file__).parent.parent.parent


def test_default_recipe(rallies: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DATA": str(rallies),
        "OUT": str(tmp_path / "out"),
        "PRECISION": "fp32",
        "FIRST_STEPS": "1",
        "STEPS": "1",
        "EXTRA": "--batch 2 --val-every 1 --save-every 1 --log-every 1 --workers 0",
    }
    for _ in range(2):  # the second time everything is there already: it resumes, and ends as before
        command = ["bash", str(ROOT / "runs" / "default.sh")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "accurate.onnx").exists()
    assert (tmp_path / "out" / "report" / "report.html").exists()


def test_the_picture_of_the_readme_can_be_made_again(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "demo_picture.py"), str(tmp_path / "demo.jpg")]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    assert decode_jpeg((tmp_path / "demo.jpg").read_bytes()).shape == (724, 1284, 3)
