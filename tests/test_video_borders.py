"""Black borders: found where there are some, and only there; the network sees the picture alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rallytrace import Trajectory, evaluate_clips, track_video, video
from rallytrace.decode.child import Limits
from rallytrace.decode.videos import Decoder, VideoLimits
from rallytrace.features.manifest import load_features
from rallytrace.features.prepare import PrepareOptions, prepare
from rallytrace.features.sources import Recording
from rallytrace.geometry import FrameTransform
from rallytrace.scale.segments import Plan, plan, track_segment
from rallytrace.trajectory import link
from rallytrace.types import BallLabel, Box, Clip, Image
from rallytrace.video.borders import Borders

from .clips import X264, ffmpeg, turn
from .networks import Brightest

BOX = Box(0, 60, 320, 180)
FLY = "[0:v][1:v]overlay=x='20+4*n':y='40+2*n':eval=frame,gblur=1.5"
GROUND = "gradients=size=320x180:rate=30:duration=1:c0=0x404040:c1=0x606060:speed=0.00001:seed=1"
BALL = "color=white:size=6x6:rate=30:duration=1"


def boxed(path: Path, more: str = f"pad=320:300:0:{BOX.y}", *codec: str) -> Path:
    filters = f"{FLY},{more},format=yuv420p"
    made = codec or (*X264, "-crf", "8")
    ffmpeg("-f", "lavfi", "-i", GROUND, "-f", "lavfi", "-i", BALL, "-filter_complex", filters, *made, path)
    return path


@pytest.fixture(scope="module")
def letterbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return boxed(tmp_path_factory.mktemp("borders") / "letterbox.mp4")


def scene(seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(20, 200, (180, 320)).astype(np.uint8)


def found(*images: Image) -> Box | None:
    borders = Borders()
    for image in images:
        borders.push(image)
    return borders.box


@pytest.mark.parametrize(
    ("top", "bottom", "left", "right"),
    [(30, 30, 0, 0), (0, 0, 60, 60), (20, 22, 40, 40), (20, 35, 0, 0), (5, 5, 0, 0), (101, 101, 0, 0)],
)
@pytest.mark.parametrize("black", [0, 6])
def test_bars_are_found(top: int, bottom: int, left: int, right: int, black: int) -> None:
    whole = np.pad(scene(), ((top, bottom), (left, right)), constant_values=black)
    noise = np.random.default_rng(1).integers(0, 3, whole.shape).astype(np.uint8)
    black_first = np.full_like(whole, black)
    assert found(black_first, whole, np.maximum(whole, black + noise)) == Box(left, top, 320, 180)


def night() -> Image:
    """A black sky, a black foreground, lights here and there."""
    image = np.zeros((180, 320), np.uint8)
    image[60:130] = scene()[60:130]
    for n in range(40):
        image[60 - n : 130 + n, 8 * n : 8 * n + 4] = 150
    return image


@pytest.mark.parametrize(
    "images",
    [
        [scene()],
        [np.zeros((180, 320), np.uint8)],
        [night()],
        [np.pad(scene(), ((40, 0), (0, 0)))],  # black above only: a sky
        [np.pad(scene(), ((40, 4), (0, 0)))],
        [np.pad(scene() // 8, ((40, 40), (0, 0)))],  # too dark to tell
        [np.pad(scene(), ((40, 40), (0, 0))), np.pad(scene(), ((40, 40), (0, 0)), mode="edge")],  # bars for a while
        [scene() // 20, scene() // 4, scene()],  # fades from black
    ],
    ids=["none", "black", "night", "sky", "uneven", "dark", "a while", "fade"],
)
def test_what_is_no_bar(images: list[Image]) -> None:
    assert found(*images) is None


def test_text_in_a_bar_is_picture() -> None:
    image = np.pad(scene(), ((40, 40), (0, 0)))
    image[235:245, 100:200] = 200
    assert found(image) is None


def test_positions_are_those_of_the_whole_source() -> None:
    to = FrameTransform.fit_picture((320, 300), BOX, (512, 288), 16)
    assert to.box == BOX
    assert to.content_wh == FrameTransform.fit_area((320, 180), (512, 288)).content_wh
    assert to.to_model((-0.5, 59.5)) == pytest.approx((-0.5, -0.5))
    assert to.to_source(to.to_model((17.25, 99.0))) == pytest.approx((17.25, 99.0))


@pytest.mark.parametrize("turned", [0, 90])
def test_the_picture_alone_is_that_without_borders(tmp_path: Path, turned: int) -> None:
    plain, padded = boxed(tmp_path / "a.mp4", "null"), boxed(tmp_path / "b.mp4")
    for path in (plain, padded):
        turn(path, path.with_suffix(".turned.mp4"), turned, mirrored=False)
    with (
        video.read(plain.with_suffix(".turned.mp4"), wh=(64, 64)) as wanted,
        video.read(padded.with_suffix(".turned.mp4")) as reader,
    ):
        reader.find_picture()
        assert reader.info.picture == ((60, 0, 180, 320) if turned else BOX)
        reader.give(wh=(64, 64), colour="grey", box=reader.info.picture)
        for a, b in zip(wanted, reader, strict=True):
            assert np.abs(a.image.astype(int) - b.image).mean() < 1.5


def test_tracks_as_without_borders(letterbox: Path, tmp_path: Path) -> None:
    network = Brightest()
    plain = track_video(boxed(tmp_path / "plain.mp4", "null"), tmp_path, network=network, draw_video=False)
    result = track_video(letterbox, tmp_path, network=network)
    assert ["(0, 60)" in line for line in result.problems] == [True]
    assert result.video
    assert video.probe(result.video).wh == (320, 300)
    a, b = list(Trajectory.from_csv(plain.csv)), list(Trajectory.from_csv(result.csv))
    assert plain.found > 25
    for p, q in zip(a, b, strict=True):
        assert (p.xy is None) == (q.xy is None)
        if p.xy and q.xy:
            assert q.xy == pytest.approx((p.xy[0], p.xy[1] + 60), abs=1)


@pytest.mark.parametrize("name", ["long.mp4", "long.ts"])
def test_pictures_from_all_over_a_long_file(tmp_path: Path, name: str) -> None:
    """It begins in the dark; the rest is jumped to."""
    source = ("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25:duration=16")
    filters = ("-vf", "fade=in:0:200,pad=160:150:0:30", "-g", "50")
    ffmpeg(*source, *filters, *X264, "-preset", "ultrafast", tmp_path / name)
    with video.read(tmp_path / name) as reader:
        reader.find_picture()
    assert reader.info.picture == (0, 30, 160, 90)


def test_segments_of_the_picture_alone(letterbox: Path, tmp_path: Path) -> None:
    network = Brightest()
    whole = Plan.unpack(plan(letterbox, network.spec, length=10).pack())
    assert whole.picture == BOX
    points = [p for n in range(len(whole.segments)) for p in track_segment(letterbox, whole, n, network)]
    Trajectory.from_points(link(points, (320, 300), fill=5)).to_csv(tmp_path / "segments.csv")
    result = track_video(letterbox, tmp_path, network=network, draw_video=False)
    assert result.csv.read_bytes() == (tmp_path / "segments.csv").read_bytes()


def test_a_live_source_is_looked_at_as_it_comes(letterbox: Path) -> None:
    """And loses none of the pictures that were looked at."""
    with video.read(letterbox) as reader:
        reader.info = replace(reader.info, is_live=True)
        reader.find_picture()
        assert reader.info.picture == BOX
        assert [frame.index for frame in reader] == list(range(30))


def test_a_child_decodes_the_picture_alone(letterbox: Path) -> None:
    limits = VideoLimits(Limits(4 << 30, 60, 60.0), 1000, 1 << 24, 60.0)
    with Decoder(str(letterbox), Brightest().spec, limits) as frames:
        assert frames.source.picture == frames.transform.box == BOX
        assert len(list(frames)) == 30


def test_features_hold_the_picture_alone(letterbox: Path, tmp_path: Path) -> None:
    network = Brightest()
    labels = {n: BallLabel(n, (26.5 + 4 * n, 102.5 + 2 * n)) for n in range(30)}
    clip = Clip("letterbox", letterbox, labels, "m", "badminton", "val")
    prepare([Recording(clip, str(letterbox))], tmp_path / "set", PrepareOptions(network.spec))
    (shard,) = load_features(tmp_path / "set")
    a, b = (evaluate_clips(network, [each]).clips[0].points for each in (clip, shard))
    for n, points in enumerate(zip(a, b, strict=True)):
        assert [p.xy and p.xy == pytest.approx(labels[n].xy, abs=4) for p in points] == [True, True]
