"""`track --endpoint` writes what `track` writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import httpx
import numpy as np
import pytest

from rallytrace import Client, RallyOptions, Trajectory, load_network, make_clip, track_video, video

from ..clips import X264, ffmpeg
from ..test_track_video import assert_one_clear_line
from .endpoints import Proxy, ServerProcess, cuts


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rallytrace", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes with repeated frames."""
    folder = tmp_path_factory.mktemp("clip")
    scenes = [RallyOptions(seconds=1.5, seed=seed, wh=(960, 540), repeats=True) for seed in (3, 8)]
    for i, options in enumerate(scenes):
        make_clip(folder / f"{i}.mp4", options)
    with video.VideoWriter(folder / "clip.mp4", (960, 540), Fraction(30)) as writer:
        for i in range(2):
            with video.read(folder / f"{i}.mp4", keep_picture=True) as reader:
                for frame in reader:
                    assert frame.picture
                    writer.write(frame.picture, 1.5 * i + frame.pts_s)
    return folder / "clip.mp4"


@pytest.fixture(scope="module")
def here(clip: Path) -> Path:
    """The folder with the results of tracking in this process."""
    assert run("track", clip, "--out", clip.parent / "here", "--threads", "1").returncode == 0
    return clip.parent / "here"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.mark.parametrize("codec", ["delta", "raw"])
def test_lossless_writes_the_same_files(
    codec: str, clip: Path, here: Path, server: ServerProcess, tmp_path: Path
) -> None:
    done = run("track", clip, "--endpoint", server.url, "--codec", codec, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ball found in" in done.stdout
    assert (tmp_path / "clip.csv").read_bytes() == (here / "clip.csv").read_bytes()
    with video.read(tmp_path / "clip.tracked.mp4") as a, video.read(here / "clip.tracked.mp4") as b:
        for one, other in zip(a, b, strict=True):
            assert one.pts_s == other.pts_s
            assert np.array_equal(one.image, other.image), one.index


def test_black_borders_are_left_out_on_every_road(clip: Path, server: ServerProcess, tmp_path: Path) -> None:
    """Frames that a client sends, a whole video, and this process: the picture alone, in pixels of the whole source."""
    boxed = tmp_path / "boxed.mp4"
    ffmpeg("-t", "1", "-i", clip, "-vf", "pad=960:720:0:90", *X264, "-crf", "12", boxed)
    here = track_video(boxed, tmp_path / "here", draw_video=False, network=load_network(threads=1))
    assert any("960x540 picture at (0, 90)" in line for line in here.problems)
    with Client(server.url) as client:
        there = client.track_video(boxed, tmp_path / "there", codec="raw", draw_video=False)
    assert there.csv.read_bytes() == here.csv.read_bytes()
    answer = httpx.post(
        f"{server.url}/v1/track", content=boxed.read_bytes(), headers={"Accept": "text/csv"}, timeout=60
    )
    assert answer.text.splitlines() == here.csv.read_text().splitlines()


def test_jpeg_is_within_half_a_pixel(clip: Path, here: Path, server: ServerProcess, tmp_path: Path) -> None:
    with Client(server.url) as client:
        result = client.track_video(clip, tmp_path, codec="jpeg", draw_video=False)
    assert result.frames == 90
    pairs = list(zip(Trajectory.from_csv(result.csv), Trajectory.from_csv(here / "clip.csv"), strict=True))
    # Peaks of the network's own threshold or more; on a path there are lower ones too, which noise moves farther.
    both = [(a.xy, b.xy) for a, b in pairs if a.xy and b.xy and min(a.score, b.score) >= 0.5]
    assert len(both) > 30
    assert np.mean([np.hypot(*np.subtract(a, b)) < 0.5 for a, b in both]) > 0.97
    assert np.mean([(a.xy is None) == (b.xy is None) for a, b in pairs]) > 0.9


def test_python_and_a_bad_road(clip: Path, here: Path, server: ServerProcess, tmp_path: Path) -> None:
    told: list[int] = []
    with Proxy(server.port, cuts(1, 3, 10_000, 8_000_000)) as proxy, Client(proxy.url) as client:
        opener = client.open_tracker(codec="raw")
        result = track_video(
            clip, tmp_path, open_tracker=opener, draw_video=False, on_progress=lambda p: told.append(p.frames_done)
        )
        assert proxy.connections > 1
    assert result.csv.read_bytes() == (here / "clip.csv").read_bytes()
    assert told == list(range(1, 91))


def test_keys_and_certificates(clip: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    made = run("keys", "add", "--keys", keys)
    assert made.returncode == 0, made.stderr
    key = made.stdout.split()[0]
    with ServerProcess(tmp_path, "--keys", str(keys), "--tls", "self-signed", tls=True) as server:
        pin = next(word for word in server.log.split() if len(word.replace(":", "")) == 64)
        common = ("track", clip, "--endpoint", server.url, "--no-video", "--out", tmp_path / "out", "--overwrite")
        assert_one_clear_line(
            run(*common), "certificate is not trusted", f"--fingerprint {pin.replace(':', '').lower()}"
        )
        assert_one_clear_line(run(*common, "--fingerprint", pin), "an API key is needed", "RALLYTRACE_API_KEY")
        assert_one_clear_line(run(*common, "--fingerprint", pin, "--api-key", "x"), "this API key is not accepted")
        done = run(*common, "--fingerprint", pin, RALLYTRACE_API_KEY=key)
        assert done.returncode == 0, done.stderr
        assert not done.stderr.strip()
        done = run(*common, "--insecure", "--api-key", key)
        assert done.returncode == 0, done.stderr
        assert "warning: " in done.stderr
        assert "not checked" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip.csv", "clip.track.json"]


def test_one_clear_line(clip: Path, server: ServerProcess, tmp_path: Path) -> None:
    common = ("track", clip, "--no-video", "--out", tmp_path / "out", "--endpoint")
    assert_one_clear_line(run(*common, "localhost"), "'localhost'", "expected a URL such as")
    assert_one_clear_line(run(*common, "http://127.0.0.1:9"), "refuses the connection")
    assert_one_clear_line(run(*common, server.url, "--model", "nowhere"), "nowhere", "accurate")
    assert_one_clear_line(run(*common, server.url, "--overlap", "9"), "between 1 and the network's 5 frames, got 9")
    assert run("track", "--endpoint", server.url).returncode == 2
    assert not list((tmp_path / "out").glob("*"))
