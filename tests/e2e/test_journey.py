"""The whole road through the real command line: make clips, train, be killed, resume, evaluate, export, track."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from rallytrace import Trajectory

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "rallytrace", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_nothing_to_a_trajectory(tmp_path: Path) -> None:
    data = tmp_path / "tennis"
    data.mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        run(
            "synth",
            data / f"{name}.mp4",
            "--sport",
            "tennis",
            "--seconds",
            "1",
            "--size",
            "512x288",
            "--seed",
            str(seed),
        )
    (data / "index.csv").write_text("clip,match,split\na,one,train\nb,two,val\n")

    train = ["train", "--data", data, "--out", tmp_path / "run", "--steps", "4", "--batch", "2", "--val-every", "4"]
    train += ["--save-every", "1", "--log-every", "1", "--workers", "0", "--json"]
    command = [sys.executable, "-m", "rallytrace", *map(str, train)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True)
    assert process.stdout
    for line in process.stdout:
        if json.loads(line)["step"] >= 2:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait()
    steps = [json.loads(line).get("step") for line in run(*train).splitlines()]
    assert 4 in steps
    assert steps[0] > 1  # it went on, it did not begin again

    report = json.loads(
        run("eval", "--weights", tmp_path / "run" / "best", "--data", data, "--out", tmp_path / "r", "--json")
    )
    assert report["settings"]["clips"] == ["b"]
    assert sum(report["total"]["tolerances"]["4@288"][k] for k in ("tp", "fp1", "fp2", "tn", "fn")) == 30
    assert (tmp_path / "r" / "report.html").stat().st_size > 1000

    exported = json.loads(run("export", tmp_path / "run" / "best", "--out", tmp_path / "ball.onnx", "--json"))
    assert 3 < exported["mib"] < 4
    tracked = json.loads(
        run("track", data / "b.mp4", "--model", tmp_path / "ball.onnx", "--out", tmp_path / "out", "--json")
    )
    assert tracked["frames"] == 30
    assert len(Trajectory.from_csv(tracked["csv"])) == 30
    assert Path(tracked["video"]).stat().st_size > 1000

    tuned = ["train", "--data", data, "--out", tmp_path / "tuned", "--init", tmp_path / "run" / "best", "--steps", "1"]
    run(*tuned, "--batch", "2", "--val-every", "1", "--save-every", "1", "--log-every", "1", "--workers", "0")
    assert (tmp_path / "tuned" / "best" / "weights.pt").exists()
