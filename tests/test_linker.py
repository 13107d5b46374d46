"""Outlier rejection and gap filling on flights in closed form: what must go, what must stay, what is filled and how."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from rallytrace.trajectory import Linker, link
from rallytrace.types import XY, BallPoint, PointSource

WH = (1280, 720)
FPS = 30


def at(frame: int, xy: XY | None, score: float = 0.9) -> BallPoint:
    return BallPoint(frame, frame / FPS, xy, score, PointSource.NONE if xy is None else PointSource.MODEL)


def along(*xs: float | None, y: float = 300.0, score: float = 0.9) -> list[BallPoint]:
    """One point a frame at these x; None is a miss, with a score of 0.1."""
    return [at(i, None if x is None else (x, y), 0.1 if x is None else score) for i, x in enumerate(xs)]


def linked(points: list[BallPoint], wh: tuple[int, int] = WH, **options) -> list[BallPoint]:
    return list(link(points, wh, **options))


def rally(n: int = 300, *, repeat_every: int | None = 6) -> list[BallPoint]:
    """A shuttle with drag that two players hit back and forth, the direction turning within a frame.

    25 pictures a second shown as 30: every sixth frame repeats the one before it.
    """
    xy, velocity, side, picture, points = np.array([200.0, 400.0]), np.array([60.0, -30.0]), 1, [], []
    for _ in range(n + 1):
        picture.append((float(xy[0]), float(xy[1])))
        speed = float(np.linalg.norm(velocity))
        velocity = velocity * (1 - 0.0012 * speed) + np.array([0.0, 1.2])
        xy = xy + velocity
        if velocity[0] * side > 0 and (xy[0] - 640) * side > 350:
            side = -side
            velocity = np.array([side * (25 + 45 * (len(picture) % 3)), -22.0 + 12 * (len(picture) % 4)])
        xy[1] = min(max(xy[1], 40.0), 680.0)
    k = 0
    for frame in range(n):
        if repeat_every is None or frame % repeat_every:
            k += 1
        points.append(at(frame, picture[k]))
    return points


@pytest.mark.parametrize("repeat_every", [None, 6])
def test_a_rally_with_hits_and_repeated_frames_is_left_alone(repeat_every: int | None) -> None:
    points = rally(repeat_every=repeat_every)
    steps = [b.xy[0] - a.xy[0] for a, b in pairwise(points) if a.xy != b.xy]
    turns = sum(a * b < 0 for a, b in pairwise(steps))
    assert turns >= 8
    assert max(math.dist(a.xy, b.xy) for a, b in pairwise(points)) > 80
    assert linked(points) == points


@pytest.mark.parametrize(
    "xs",
    [
        (100, 110, 120, 130, 140, 50, -40 + 100, 10),  # turned round, nine times as fast
        (500, 410, 320, 230, 240, 250, 260, 270),  # a smash met by a block
        (500, 505, 510, 640, 770, 900, 1030, 1160),  # a slow shuttle smashed
        (100, 160, 160, 280, 280, 400, 400, 520),  # every picture shown twice
        (100, 160, 220, 280, 200, 120, 40, 0),  # turned round in one frame at full speed
    ],
)
def test_hits_and_repeats_are_not_outliers(xs: tuple[float, ...]) -> None:
    points = along(*xs)
    assert linked(points) == points


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("jump", [(150.0, 0.0), (0.0, -200.0), (-300.0, 250.0)])
def test_an_excursion_and_back_is_rejected_with_its_score_kept(length: int, jump: XY) -> None:
    points = along(*range(400, 620, 10))
    bad = range(8, 8 + length)
    for i in bad:
        points[i] = at(i, (points[i].xy[0] + jump[0], 300 + jump[1]), score=0.95)
    expected = [replace(p, xy=None, source=PointSource.NONE) if p.frame in bad else p for p in points]
    assert linked(points) == expected
    assert linked(points, reject=False) == points


@pytest.mark.parametrize(("aside_px", "kept"), [(84.0, True), (87.0, False)])
@pytest.mark.parametrize("towards", [-1, 1])
def test_how_far_a_detour_may_lead(aside_px: float, kept: bool, towards: int) -> None:
    """0.02 of the diagonal and 1.25 times the 60 px of the neighbours' step: 29.4 + 75 = hypot(60, 85.4)."""
    points = along(*range(100, 1000, 60))
    points[7] = at(7, (520.0, 300.0 + towards * aside_px))
    assert (linked(points)[7].xy is not None) == kept
    assert [p for p in linked(points) if p.frame != 7] == [p for p in points if p.frame != 7]


def test_an_excursion_that_walks_back_stays() -> None:
    """150 px aside in one frame, then 60, 60 and 30 back: no step back is farther than the points around it allow."""
    points = along(*range(100, 350, 10))
    for i, aside_px in ((8, 150.0), (9, 90.0), (10, 30.0)):
        points[i] = at(i, (points[i].xy[0], 300 + aside_px))
    assert linked(points) == points


def test_outliers_at_different_places_and_beside_a_miss() -> None:
    xs: list[float | None] = [*range(400, 620, 10)]
    xs[8], xs[9], xs[10] = 900, None, 60
    out = linked(along(*xs))
    assert [p.frame for p in out if p.xy is None] == [8, 9, 10]


def test_a_long_excursion_may_be_the_ball_and_stays() -> None:
    xs = [*range(400, 480, 10), *[900] * 8, *range(560, 640, 10)]
    assert linked(along(*xs)) == along(*xs)


@pytest.mark.parametrize(("score", "kept"), [(0.55, False), (0.9, True)])
def test_a_lonely_detection_needs_a_good_score(score: float, kept: bool) -> None:
    points = along(*[None] * 20)
    points[9] = at(9, (640, 200), score)
    assert (linked(points)[9].xy is not None) == kept


def test_weak_detections_that_support_each_other_stay() -> None:
    points = along(*[None] * 9, 500, None, 520, *[None] * 9, score=0.55)
    assert linked(points) == points


def test_max_speed_decides_who_supports_whom() -> None:
    points = along(*[None] * 9, 100, 300, *[None] * 9, score=0.55)  # 200 px in a frame, 6000 px/s
    assert linked(points, max_speed_px_s=7000) == points
    assert [p.xy for p in linked(points, max_speed_px_s=5000)] == [None] * 20


def test_fill_on_a_straight_line_is_exact_and_marked() -> None:
    points = along(100, 110, None, None, None, 150, 160, y=50)
    out = linked(points, fill=3)
    assert [p.xy[0] for p in out] == pytest.approx([100, 110, 120, 130, 140, 150, 160])
    assert [p.source.value for p in out] == ["model"] * 2 + ["filled"] * 3 + ["model"] * 2
    assert [p.score for p in out] == [p.score for p in points]
    assert linked(points, fill=2) == points
    assert linked(points) == points


@pytest.mark.parametrize(("x", "y"), [(0, None), (1279, None), (None, 0), (None, 719)])
def test_the_outermost_pixels_belong_to_the_picture(x: int | None, y: int | None) -> None:
    ways = [(300.0 + 10 * i if x is None else float(x), 300.0 + 10 * i if y is None else float(y)) for i in range(5)]
    points = [at(i, None if i == 2 else xy) for i, xy in enumerate(ways)]
    assert linked(points, fill=1)[2].xy == pytest.approx(ways[2])


def test_fill_bends_half_as_much_as_the_outer_points_ask_for() -> None:
    points = [at(f, xy) for f, xy in enumerate([(600.0, 1.0), (600.0, 0.0), None, (600.0, 4.0), (600.0, 9.0)])]
    assert linked(points, fill=1)[2].xy == pytest.approx((600.0, 1.5))  # chord 2, parabola y = (f - 1)^2 is 1


def test_fill_follows_time_not_frame_numbers() -> None:
    times_s = [0.0, 0.1, 0.15, 0.3, 0.4]
    xs = [100.0, 110.0, None, 130.0, 140.0]
    points = [replace(p, pts_s=t) for p, t in zip(along(*xs), times_s, strict=True)]
    assert linked(points, fill=1)[2].xy == pytest.approx((115.0, 300.0))


@pytest.mark.parametrize(
    "points",
    [
        along(100, 150, None, None, None, 150, 100),  # a hit inside
        along(100, 150, None, None, None, 350, 310),  # another hit
        along(None, 110, None, 130, 140),  # one point before
        along(100, 110, None, 130),  # one point after, then the end
        along(None, None, 120, 130),  # nothing before
        along(100, 110, None, None),  # nothing after
        along(100, 110, None, 130, 140, score=0.4),  # unsure neighbours
        along(100, None, None, None, 110, None, 130, 140),  # the second point before is far away
        [at(f, xy) for f, xy in enumerate([(600, 6), (600, 0), None, (600, 0), (600, 6)])],  # above the picture
    ],
)
def test_gaps_that_stay_open(points: list[BallPoint]) -> None:
    assert linked(points, fill=3, reject=False) == points


def test_the_second_point_may_lie_behind_a_miss() -> None:
    out = linked(along(100, None, 120, None, 140, None, 160), fill=1)
    assert [p.source.value for p in out] == ["model", "none", "model", "filled", "model", "none", "model"]


def test_too_fast_a_gap_stays_open() -> None:
    points = along(100, 280, None, 640, 820)
    assert linked(points, fill=1)[2].xy == pytest.approx((460, 300))
    assert linked(points, fill=1, max_speed_px_s=5000) == points


def test_a_rejected_outlier_is_filled() -> None:
    xs = [*range(400, 620, 10)]
    xs[8] = 1000
    out = linked(along(*xs), fill=2)
    assert out[8].xy == pytest.approx((480, 300))
    assert out[8].source is PointSource.FILLED


def test_delay_is_what_it_says() -> None:
    assert Linker(WH, reject=False).delay_frames == 0
    for options in ({}, {"fill": 3}, {"fill": 3, "reject": False}, {"reject": False}):
        linker = Linker(WH, **options)
        late = [p.frame - out.frame for p in rally(60)[:40] + along(*[None] * 60)[40:] for out in linker.push(p)]
        assert max(late) <= linker.delay_frames
        assert len(late) + len(linker.flush()) == 60
    waiting = Linker(WH, fill=3)
    late = [p.frame - out.frame for p in along(*[100] * 9, *[None] * 3, *[100] * 20) for out in waiting.push(p)]
    assert max(late) == waiting.delay_frames - 1  # the second point came right after the first


def test_misuse_is_refused() -> None:
    linker = Linker(WH)
    linker.push(at(3, None))
    with pytest.raises(ValueError, match="after 3, got 3"):
        linker.push(at(3, None))
    with pytest.raises(ValueError, match="fill"):
        Linker(WH, fill=-1)
