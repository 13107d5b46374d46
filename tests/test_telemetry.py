"""Nothing that runs here reports to anybody: no file for it is written, no foreign host is asked for."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = """
import json, sys

asked = []
sys.addaudithook(lambda event, values: asked.append(f"{event} {values[-1]}") if event in
                 ("socket.connect", "socket.getaddrinfo") else None)
WORK
print(json.dumps(asked))
"""
VERBS = """
from rallytrace.cli import app
for words in (
    ["models"],
    ["synth", "a.mp4", "--seconds", "0.3", "--size", "160x90"],
    ["track", "a.mp4", "--no-video", "--model", "fast", "--out", "out"],
    ["eval", "--weights", "fast", "--data", ".", "--split", "all", "--out", "report"],
    ["prepare", ".", "--out", "features", "--size", "160x96"],
    ["label", "--help"],
    ["serve", "--help"],
):
    app(words, standalone_mode=False)
"""
OPENVINO = """
import rallytrace
rallytrace.load_network("fast", device="openvino")
"""
FOREIGN = """
import rallytrace
import onnxruntime
onnxruntime.InferenceSession(rallytrace.runtime.bundled()["fast"])
"""


def left_by(work: str, folder: Path) -> tuple[list[str], list[str]]:
    """Files in a fresh home after `work`, and the hosts that it asked for."""
    home = folder / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment = {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    command = [sys.executable, "-c", SCRIPT.replace("WORK", work)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    files = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    return files, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("work", [VERBS, FOREIGN], ids=["commands", "a program of others"])
def test_no_command_leaves_files_for_a_report(work: str, tmp_path: Path) -> None:
    assert left_by(work, tmp_path) == ([], [])


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is an optional extra")
def test_openvino_reports_nothing(tmp_path: Path) -> None:
    assert left_by(OPENVINO, tmp_path) == ([], [])


def test_ray_reports_nothing() -> None:
    """A node that is started from here has this environment."""
    script = "import rallytrace, os; print(os.environ['RAY_USAGE_STATS_ENABLED'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
