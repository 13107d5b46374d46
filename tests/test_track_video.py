"""`track_video` and the command line on real files: what is written, what is refused, what is left behind."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from rallytrace import Style, Trajectory, VideoError, track_video, video
from rallytrace.errors import OutputError
from rallytrace.track import TrackResult, output_paths
from rallytrace.types import BallPoint, Clip, Yuv

from .clips import SOURCE, X264, ffmpeg, probe_json, turn
from .command import run
from .networks import Brightest


def assert_one_clear_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stderr
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture(scope="module")
def tracked(rally: Clip, tmp_path_factory: pytest.TempPathFactory) -> TrackResult:
    return track_video(rally.video, tmp_path_factory.mktemp("out"))


def test_csv_and_video_agree_with_the_labels(rally: Clip, tracked: TrackResult) -> None:
    """The bundled network, which never saw a synthetic rally, finds most of its shuttle."""
    trajectory = Trajectory.from_csv(tracked.csv)
    assert len(trajectory) == tracked.frames == len(rally.labels)
    close = visible = 0
    for point in trajectory:
        label = rally.labels[point.frame]
        if label.xy and label.visibility != 3:
            visible += 1
            close += point.xy is not None and np.hypot(point.xy[0] - label.xy[0], point.xy[1] - label.xy[1]) < 10
    assert visible > 10
    assert close / visible > 0.5


@pytest.mark.parametrize(("turned", "aspect"), [(0, "64:45"), (90, "45:64")])
def test_pixels_that_are_not_square_stay_so(tmp_path: Path, turned: int, aspect: str) -> None:
    """As in 720x576 at 16:9."""
    ffmpeg(*SOURCE, "-vf", "setsar=64/45", *X264, tmp_path / "wide.mp4")
    turn(tmp_path / "wide.mp4", tmp_path / "wide2.mp4", turned, mirrored=False)
    found = track_video(tmp_path / "wide2.mp4", tmp_path, network=Brightest())
    assert found.video
    (stream,) = probe_json(found.video, "-show_streams")["streams"]
    assert stream["sample_aspect_ratio"] == aspect


COLOURS = ("color_range", "color_space", "color_primaries", "color_transfer")
HLG = ("tv", "bt2020nc", "bt2020", "arib-std-b67")
PQ = ("tv", "bt2020nc", "bt2020", "smpte2084")


@pytest.mark.parametrize(
    ("pixels", "colours", "said"),
    [
        ("yuv420p10le", HLG, "HDR (HLG)"),
        ("yuv420p10le", PQ, "HDR (PQ)"),
        ("yuv420p10le", ("tv", "bt2020nc", "bt2020", "bt2020-10"), None),
        ("yuv422p10le", ("tv", "bt709", "bt709", "bt709"), None),
        ("yuv420p", ("pc", "bt709", "bt709", "bt709"), None),
        ("yuv420p", ("pc", "bt2020nc", "bt2020", "bt709"), None),
        ("yuv420p", ("tv", "bt470bg", "bt470bg", "bt709"), None),
        ("yuv420p", ("tv", "smpte170m", "smpte170m", "smpte170m"), None),
    ],
)
def test_the_drawn_video_has_the_colours_of_its_source(
    tmp_path: Path, pixels: str, colours: tuple[str, ...], said: str | None
) -> None:
    """Range, matrix, primaries and transfer: as coded, and flagged so."""
    names = zip(("range", "colorspace", "color_primaries", "color_trc"), colours, strict=True)
    params = "setparams=" + ":".join(f"{name}={value}" for name, value in names)
    flags = zip(("-color_range", "-colorspace", "-color_primaries", "-color_trc"), colours, strict=True)
    codec = ("-c:v", "libx264", "-preset", "ultrafast", "-qp", "4", "-pix_fmt", pixels)
    ffmpeg(*SOURCE, "-vf", params, *codec, *itertools.chain.from_iterable(flags), tmp_path / "in.mp4")
    found = track_video(tmp_path / "in.mp4", tmp_path, network=Brightest(), threshold=0.98)
    assert found.video
    for path in (tmp_path / "in.mp4", found.video):
        (stream,) = probe_json(path, "-show_streams")["streams"]
        assert tuple(stream[name] for name in COLOURS) == colours
    assert [said in line for line in found.problems] == [True] * bool(said)  # type: ignore[operator]
    with video.read(tmp_path / "in.mp4", keep_picture=True) as a, video.read(found.video, keep_picture=True) as b:
        for before, after in zip(a, b, strict=True):
            assert before.picture
            assert after.picture
            assert np.median(np.abs(before.picture.y.astype(int) - after.picture.y)) <= 2


def test_annotated_video_has_the_input_s_frames_and_times(rally: Clip, tracked: TrackResult) -> None:
    assert tracked.video
    with video.read(rally.video) as a, video.read(tracked.video) as b:
        before, after = [f.pts_s for f in a], [f.pts_s for f in b]
        assert b.info.wh == a.info.wh
        assert b.info.fps == a.info.fps
    assert after == pytest.approx(before, abs=1e-4)


def test_the_mark_is_where_the_csv_says(rally: Clip, tmp_path: Path) -> None:
    """Off-by-one frames and half pixels show here: what changed between input and output is a dot around the point."""
    result = track_video(rally.video, tmp_path, style=Style(kind="dot", radius_px=6))
    assert result.video
    points = {p.frame: p for p in Trajectory.from_csv(result.csv)}
    errors = []
    with video.read(rally.video, colour="rgb") as a, video.read(result.video, colour="rgb") as b:
        for plain, drawn in zip(a, b, strict=True):
            change = np.abs(drawn.image.astype(int) - plain.image).sum(2)
            xy = points[plain.index].xy
            if xy is None or not (30 < xy[0] < 1250 and 30 < xy[1] < 690):
                continue
            x, y = round(xy[0]) - 25, round(xy[1]) - 25
            rows, cols = np.nonzero(change[y : y + 51, x : x + 51] > 150)
            assert len(rows) > 30, plain.index
            errors.append(np.hypot(cols.mean() + x - xy[0], rows.mean() + y - xy[1]))
    assert len(errors) > 20
    assert np.median(errors) < 0.7
    assert max(errors) < 2.5


def test_python_and_shell_give_the_same_csv(rally: Clip, tracked: TrackResult, tmp_path: Path) -> None:
    done = run("track", rally.video, "--out", tmp_path, "--no-video", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["frames"] == tracked.frames
    assert told["video"] is None
    assert Path(told["csv"]).read_bytes() == tracked.csv.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [tracked.csv.name, "rally.track.json"]


def test_shell_says_what_it_found_and_where(rally: Clip, tmp_path: Path) -> None:
    done = run(
        "track", rally.video, "--out", tmp_path, "--style", "ring", "--trail", "0", "--fill", "0", "--overlap", "5"
    )
    assert done.returncode == 0, done.stderr
    assert "ball found in" in done.stdout
    assert str(tmp_path / "rally.csv") in done.stdout
    assert str(tmp_path / "rally.tracked.mp4") in done.stdout


def test_folders_globs_and_bad_neighbours(rally: Clip, tmp_path: Path) -> None:
    """One broken file in a folder does not cost the others their results; the exit code says that one failed."""
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(rally.video.read_bytes())
    (videos / "b.mp4").write_text("not a video")
    (videos / "notes.txt").write_text("not a video either")
    done = run("track", videos, "--out", tmp_path / "out", "--no-video")
    assert done.returncode == 1
    assert "1 of 2 videos could not be tracked" in done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.csv", "a.track.json"]
    done = run("track", str(videos / "a*"), "--out", tmp_path / "glob", "--no-video")
    assert done.returncode == 0, done.stderr


def test_nothing_is_overwritten_unasked(rally: Clip, tmp_path: Path) -> None:
    (tmp_path / "rally.csv").write_text("precious")
    assert_one_clear_line(run("track", rally.video, "--out", tmp_path), "rally.csv exists already", "--overwrite")
    assert (tmp_path / "rally.csv").read_text() == "precious"
    with pytest.raises(OutputError, match="exists already"):
        track_video(rally.video, tmp_path, network=Brightest())
    done = run("track", rally.video, "--out", tmp_path, "--no-video", "--overwrite")
    assert done.returncode == 0
    assert (tmp_path / "rally.csv").read_text().startswith("Frame,Visibility,X,Y,Time,Score")


def test_options_that_the_network_cannot_have(rally: Clip, tmp_path: Path) -> None:
    done = run("track", rally.video, "--out", tmp_path, "--overlap", "9")
    assert_one_clear_line(done, "between 1 and the network's 5 frames, got 9")


def test_two_sources_never_share_an_output(rally: Clip, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rally.mp4").write_bytes(rally.video.read_bytes())
    done = run("track", tmp_path / "one" / "rally.mp4", tmp_path / "two" / "rally.mp4", "--out", tmp_path / "out")
    assert_one_clear_line(done, "would both be written to")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "missing.mp4", ("missing.mp4",)),
        (lambda p: (p / "empty.mp4").write_bytes(b"") or p / "empty.mp4", ("empty.mp4",)),
        (lambda p: (p / "text.mp4").write_text("hello") and p / "text.mp4", ("text.mp4",)),
        (lambda p: (p / "none").mkdir() or p / "none", ("none",)),
        (lambda p: p / "nothing*.mp4", ("no file matches",)),
    ],
    ids=["missing", "empty", "text", "empty folder", "glob"],
)
def test_bad_sources(make, words: tuple[str, ...], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = make(tmp_path)
    assert_one_clear_line(run("track", source, "--out", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_bad_networks_and_devices(rally: Clip, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    assert_one_clear_line(run("track", rally.video, "--model", tmp_path / "bad.onnx", "--out", tmp_path), "bad.onnx")
    assert_one_clear_line(run("track", rally.video, "--model", "nowhere", "--out", tmp_path), "nowhere", "accurate")


def write_clip(path: Path, wh: tuple[int, int], frames: int) -> Path:
    w, h = wh
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 90, (h, w), dtype=np.uint8)
    grey = np.full(((h + 1) // 2, (w + 1) // 2), 128, np.uint8)
    with video.VideoWriter(path, wh, Fraction(30)) as writer:
        for i in range(frames):
            y = ground.copy()
            y[h // 3 : h // 3 + 3, 3 + 2 * i % (w - 6) : 6 + 2 * i % (w - 6)] = 235
            writer.write(Yuv(y, grey, grey), i / 30)
    return path


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 6])
def test_very_short_videos(frames: int, tmp_path: Path) -> None:
    result = track_video(write_clip(tmp_path / "v.mp4", (640, 360), frames), tmp_path / "out")
    assert result.frames == frames
    assert len(Trajectory.from_csv(result.csv)) == frames
    assert result.video
    with video.read(result.video) as reader:
        assert sum(1 for _ in reader) == frames


@pytest.mark.parametrize("wh", [(64, 36), (332, 186), (333, 187), (360, 640), (3840, 2160)])
def test_odd_and_extreme_sizes(wh: tuple[int, int], tmp_path: Path) -> None:
    result = track_video(write_clip(tmp_path / "v.mp4", wh, 7), tmp_path / "out")
    assert result.frames == 7
    for point in Trajectory.from_csv(result.csv):
        assert point.xy is None or (-1 <= point.xy[0] <= wh[0] and -1 <= point.xy[1] <= wh[1])


def test_truncated_video_is_tracked_as_far_as_it_goes(rally: Clip, tmp_path: Path) -> None:
    """`VideoWriter` puts the index first, so a cut file opens, and ends early."""
    data = rally.video.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * 0.85)])
    result = track_video(cut, tmp_path / "out", network=Brightest())
    assert 5 < result.frames < 60
    assert len(result.problems) >= 1
    done = run("track", cut, "--out", tmp_path / "shell", "--no-video")
    assert done.returncode == 0
    assert "warning" in done.stderr


class Failing(Brightest):
    """Breaks in the middle of a video."""

    def run(self, windows):  # type: ignore[no-untyped-def]
        if len(self.batches) > 2:
            raise VideoError("broken in the middle")
        return super().run(windows)


def test_nothing_half_written_is_left_by_a_failure(rally: Clip, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="broken in the middle"):
        track_video(rally.video, tmp_path / "out", network=Failing())
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("long") / "long.mp4", (640, 360), 900)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_half_written_is_left_by_a_signal(number: signal.Signals, long_clip: Path, tmp_path: Path) -> None:
    """Ctrl-C, the stop of a supervisor, a terminal that is closed."""
    command = [sys.executable, "-m", "rallytrace", "track", str(long_clip), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "interrupted: nothing half-written is left" in errors
    assert "Traceback" not in errors
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tiny disk needs root")
def test_full_disk(rally: Clip, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        assert_one_clear_line(run("track", rally.video, "--out", disk), "No space left")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_read_only_output(rally: Clip, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_one_clear_line(run("track", rally.video, "--out", tmp_path / "file" / "out"), "cannot")


def test_output_names() -> None:
    assert [p.name for p in output_paths("a/match 1.final.mp4", "out")] == [
        "match 1.final.csv",
        "match 1.final.tracked.mp4",
    ]
    assert output_paths("rtsp://camera/stream?key=secret", ".")[0].name == "stream.csv"
    assert output_paths("frames/", ".")[0].name == "frames.csv"
    assert "/" not in output_paths("camera:0", ".")[0].name


def test_points_are_values() -> None:
    with pytest.raises(ValueError, match="score"):
        BallPoint(0, 0.0, None, 2.0)
