"""`track --live`: a stream that is being sent while it is tracked, here and on a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rallytrace import RallyOptions, Trajectory, make_clip, video

from .endpoints import ServerProcess, brightest_onnx, free_port


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brightest_onnx(tmp_path_factory.mktemp("weights") / "brightest.onnx")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "rally.mp4"
    make_clip(path, RallyOptions(seconds=3, seed=3, wh=(512, 288)))
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server"), "--weights", str(weights)) as running:
        yield running


@contextmanager
def broadcast(clip: Path, *, forever: bool = False) -> Iterator[str]:
    """`clip` at its own pace as an MPEG transport stream over HTTP, to one viewer. Yields the URL."""
    url = f"http://127.0.0.1:{free_port()}/rally.ts"
    source = ["-re", *(["-stream_loop", "-1"] if forever else []), "-i", str(clip)]
    sink = ["-c:v", "mpeg2video", "-q:v", "3", "-f", "mpegts", "-listen", "1", url]
    process = subprocess.Popen(["ffmpeg", "-v", "error", "-nostdin", *source, *sink], stderr=subprocess.PIPE)
    port = f":{int(url.split(':')[2].partition('/')[0]):04X} 00000000:0000 0A"  # listening; it takes one viewer only
    deadline = time.monotonic() + 60
    try:
        while port not in Path("/proc/net/tcp").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield url
    finally:
        process.kill()
        process.communicate()


def track(url: str, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rallytrace", "track", "--live", url, "--out", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def place(here: bool, server: ServerProcess, weights: Path) -> tuple[str, ...]:
    return ("--model", str(weights)) if here else ("--endpoint", server.url, "--model", "brightest")


@pytest.mark.parametrize("here", [True, False], ids=["here", "endpoint"])
def test_points_come_while_the_stream_runs(
    here: bool, clip: Path, server: ServerProcess, weights: Path, tmp_path: Path
) -> None:
    with broadcast(clip, forever=True) as url:
        process = track(url, tmp_path, "--json", *place(here, server, weights))
        assert process.stdout
        lines = [json.loads(process.stdout.readline()) for _ in range(150)]  # longer than the clip: it is endless
        assert [line["frame"] for line in lines] == list(range(150))
        assert set(lines[0]) == {"frame", "pts_s", "x", "y", "score", "source"}
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    told = json.loads(rest.splitlines()[-1])
    assert told["csv"] == str(tmp_path / "rally.csv")
    points = list(Trajectory.from_csv(tmp_path / "rally.csv"))
    assert len(points) == told["frames"] == len(lines) + len(rest.splitlines()) - 1
    for line, point in zip(lines, points, strict=False):
        assert line["x"] == (pytest.approx(point.xy[0], abs=0.006) if point.xy else None)
    with video.read(tmp_path / "rally.tracked.mp4") as reader:
        assert sum(1 for _ in reader) == len(points)


@pytest.mark.parametrize("here", [True, False], ids=["here", "endpoint"])
def test_the_end_of_the_stream_is_the_end(
    here: bool, clip: Path, server: ServerProcess, weights: Path, tmp_path: Path
) -> None:
    with broadcast(clip) as url:
        process = track(url, tmp_path, "--no-video", "--codec", "raw", *place(here, server, weights))
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "ball found in" in said
    points = list(Trajectory.from_csv(tmp_path / "rally.csv"))
    assert len(points) >= 85
    rows = [line.split() for line in said.splitlines() if line.split()[0].isdigit()]
    assert [int(row[0]) for row in rows] == [point.frame for point in points]
    assert {row[-1] for row in rows} <= {"model", "filled", "none"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rally.csv", "rally.track.json"]


def test_same_points_here_and_there(clip: Path, server: ServerProcess, weights: Path, tmp_path: Path) -> None:
    """The past-only background travels with the session."""
    written = []
    for name, here in (("a", True), ("b", False)):
        with broadcast(clip) as url:
            process = track(url, tmp_path / name, "--no-video", "--codec", "raw", *place(here, server, weights))
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        written.append((tmp_path / name / "rally.csv").read_text())
    assert written[0] == written[1]


def test_a_server_restart_in_a_live_session(clip: Path, weights: Path, tmp_path: Path) -> None:
    """No frame is lost or doubled, and the points go on."""
    with ServerProcess(tmp_path, "--weights", str(weights)) as server, broadcast(clip, forever=True) as url:
        process = track(url, tmp_path, "--json", "--no-video", "--endpoint", server.url)
        assert process.stdout
        lines = [json.loads(process.stdout.readline()) for _ in range(40)]
        frames = [line["frame"] for line in lines if "frame" in line]
        assert len(frames) == 40, (lines, server.log)
        server.kill()
        time.sleep(0.3)
        server.start()
        after = [json.loads(process.stdout.readline()) for _ in range(100)]
        assert "error" not in after[0]
        frames += [line["frame"] for line in after]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert frames == list(range(140))
    assert len(Trajectory.from_csv(tmp_path / "rally.csv")) >= 140


def test_live_needs_a_source_and_takes_one_only(tmp_path: Path, clip: Path) -> None:
    process = track("rtsp://127.0.0.1:9/none", tmp_path)
    assert process.wait(60) == 1
    assert process.stderr
    assert "cannot be opened" in process.stderr.read()
    process = track("camera:0", tmp_path, str(clip))
    assert process.wait(60) == 2
