"""Interlaced video: pictures of one moment each, counted the same by everything that counts them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from rallytrace import Trajectory, track_video, video
from rallytrace.scale.segments import plan, track_segment
from rallytrace.trajectory import link
from rallytrace.types import Frame

from .clips import NAMES, X264, clip, ffmpeg
from .networks import Brightest

# 40 moments, 50 a second: a bright ball of 9 px moves by 6 px from one to the next, over waves that move, too
MOMENTS = "nullsrc=size=320x400:rate=50:duration=0.8,geq=lum='40+30*sin((X+3*N)/7)*cos(Y/9)':cb=128:cr=128"
BALL = "color=white:size=9x9:rate=50:duration=0.8"
FLY = "[0:v][1:v]overlay=x='20+6*n':y='40+2*n':eval=frame,format=yuv420p"
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "2", "-g", "6")
H264 = (*X264, "-crf", "8", "-g", "6")
FLAGS = ("-flags", "+ildct+ilme")
MAKES = {
    "tff.ts": ("interleave_top", (*H264, *FLAGS, "-x264-params", "tff=1")),
    "bff.mp4": ("interleave_bottom", (*H264, *FLAGS, "-x264-params", "bff=1")),
    "tff.mpg": ("interleave_top", (*MPEG2, *FLAGS, "-top", "1")),
    "unsaid-tff.mp4": ("interleave_top", H264),
    "unsaid-bff.mkv": ("interleave_bottom", H264),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("interlaced")
    source = ("-f", "lavfi", "-i", MOMENTS, "-f", "lavfi", "-i", BALL, "-filter_complex", FLY)
    ffmpeg(*source, "-c:v", "ffv1", path / "moments.mkv")
    return path


def made(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        fields, codec = MAKES[name]
        ffmpeg("-i", folder / "moments.mkv", "-vf", f"tinterlace={fields}", *codec, path)
    return path


@pytest.fixture(scope="module")
def moments(folder: Path) -> list[Frame]:
    """The progressive source."""
    with video.read(folder / "moments.mkv") as reader:
        assert reader.info.interlaced is None
        return list(reader)


def far(frame: Frame, moment: Frame) -> float:
    return float(np.abs(frame.image.astype(int) - moment.image).mean())


@pytest.mark.parametrize("name", MAKES)
def test_a_picture_is_of_one_moment(folder: Path, moments: list[Frame], name: str) -> None:
    with video.read(made(folder, name)) as reader:
        frames = list(reader)
    assert reader.info.interlaced == "frame"
    assert (reader.info.fps, len(frames)) == (25, 20)
    assert np.diff([f.pts_s for f in frames]) == pytest.approx(0.04, abs=1e-6)
    for frame in frames[1:-1]:
        of = 2 * frame.index
        assert far(frame, moments[of]) < 0.4 * min(far(frame, moments[of - 1]), far(frame, moments[of + 1]))


@pytest.mark.parametrize("name", MAKES)
def test_a_picture_for_each_field(folder: Path, moments: list[Frame], name: str) -> None:
    with video.read(made(folder, name), fields=True) as reader:
        frames = list(reader)
    assert reader.info.interlaced == "field"
    assert (reader.info.fps, len(frames)) == (50, 40)
    assert np.diff([f.pts_s for f in frames]) == pytest.approx(0.02, abs=1e-6)
    for frame in frames[2:-2]:
        n = frame.index
        assert far(frame, moments[n]) < 0.4 * min(far(frame, moments[n - 1]), far(frame, moments[n + 1]))


@pytest.mark.parametrize("name", ["tff.ts", "bff.mp4", "unsaid-bff.mkv"])
def test_every_reader_gives_the_same_pictures(folder: Path, name: str) -> None:
    """By index, from any side, exactly those of reading from the start."""
    path = made(folder, name)
    with video.read(path, colour="rgb") as reader:
        frames = list(reader)
    table = video.FrameTable.unpack(video.frame_table(path).pack())
    assert table.pts_s.tolist() == [frame.pts_s for frame in frames]
    assert len(table.ticks) == len(frames), "it can be entered in its middle"
    with video.IndexedReader(path, table) as indexed:
        for n in (13, 6, 19, 12, 0, 11, 18, 7, 1):
            (one,) = indexed.run(n, n + 1)
            assert np.array_equal(one.image, frames[n].image), n


@pytest.mark.parametrize("fields", [False, True])
def test_csv_and_drawn_video_count_alike(folder: Path, tmp_path: Path, moments: list[Frame], fields: bool) -> None:
    found = track_video(made(folder, "tff.ts"), tmp_path, network=Brightest(), fields=fields)
    points = list(Trajectory.from_csv(found.csv))
    assert found.video
    with video.read(found.video) as reader:
        times = [frame.pts_s for frame in reader]
    assert reader.info.interlaced is None
    assert len(points) == len(times) == found.frames == (40 if fields else 20)
    start_s = points[0].pts_s - times[0]
    assert times == pytest.approx([p.pts_s - start_s for p in points], abs=1e-4)
    assert [("--fields" in line) for line in found.problems] == ([] if fields else [True])
    per = 1 if fields else 2
    seen = [(p.frame, p.xy) for p in points if p.xy is not None]
    assert len(seen) > 0.8 * len(points)
    for n, (x, y) in seen:
        rows, cols = np.nonzero(moments[per * n].image > 160)
        assert (x, y) == pytest.approx((cols.mean(), rows.mean()), abs=4.5)  # inside the ball


def test_segments_of_interlaced_video_are_those_of_the_whole(folder: Path, tmp_path: Path) -> None:
    path, network = made(folder, "unsaid-tff.mp4"), Brightest()
    whole = plan(path, network.spec, length=7)
    points = itertools.chain.from_iterable(track_segment(path, whole, n, network) for n in range(len(whole.segments)))
    found = track_video(path, tmp_path, network=network, draw_video=False)
    linked = Trajectory.from_points(link(points, (320, 400), fill=5))
    linked.to_csv(tmp_path / "segments.csv")
    assert found.csv.read_bytes() == (tmp_path / "segments.csv").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_progressive_stays_as_it_is(name: str) -> None:
    with video.read(clip(name), fields=True) as reader:
        fps, count = reader.info.fps, sum(1 for _ in reader)
    assert reader.info.interlaced is None
    with video.read(clip(name)) as reader:
        assert (reader.info.fps, sum(1 for _ in reader)) == (fps, count)


def test_progressive_pictures_among_interlaced_ones(folder: Path, tmp_path: Path) -> None:
    """A recording that begins in film and goes on in fields: those before stay as they are."""
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=320x400:rate=25:duration=0.4", *H264, tmp_path / "film.ts")
    both = tmp_path / "both.ts"
    both.write_bytes((tmp_path / "film.ts").read_bytes() + made(folder, "tff.ts").read_bytes())
    with video.read(tmp_path / "film.ts") as reader:
        film = list(reader)
    for fields, count in ((False, 30), (True, 50)):
        with video.read(both, fields=fields) as reader:
            frames = list(reader)
        assert len(frames) == count
        for a, b in zip(film[:-1], frames, strict=False):
            assert np.array_equal(a.image, b.image)
