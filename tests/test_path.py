"""`PathFinder`: the ball is what moves on, not what lights up most."""

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallytrace.tracker import Tracker
from rallytrace.trajectory.path import AHEAD, BLOCK, PathFinder, Peak
from rallytrace.types import XY, BallPoint, Frame

from .networks import Brightest, dot_frame
from .often import examples

DIAGONAL_PX = math.hypot(1280, 720)
SPOT = (900.0, 200.0)


def flight(i: int) -> XY:
    return 200 + 9.0 * i, 500 - 8.0 * i + 0.06 * i * i


def found(pictures: Sequence[Sequence[Peak]], threshold: float = 0.5) -> list[XY | None]:
    finder = PathFinder(DIAGONAL_PX, threshold)
    indices = [index for peaks in pictures for index in finder.push(peaks)] + finder.flush()
    assert len(indices) == len(pictures)
    return [None if k is None else peaks[k].xy for k, peaks in zip(indices, pictures, strict=True)]


def test_a_spot_that_flickers_in_one_place_is_no_ball() -> None:
    """It is the highest peak in two pictures of three, and in a third of all pictures the only one."""
    pictures = []
    for i in range(120):
        peaks = [Peak(flight(i), 0.6)] if i < 80 else []
        if i % 3:
            peaks.insert(0, Peak((SPOT[0] + i % 2, SPOT[1]), 0.7))
        pictures.append(peaks)
    points = found(pictures)
    assert points[:80] == [flight(i) for i in range(80)]
    assert points[80:] == [None] * 40


def test_a_ball_that_rests_stays_a_ball() -> None:
    """Half a second in the hand before the serve."""
    places = [(300.0, 400.0)] * 16 + [(300.0 + 12 * i, 400.0 - 9 * i) for i in range(40)]
    assert found([[Peak(xy, 0.8)] for xy in places]) == places


def test_motion_carries_a_weak_peak_and_nothing_carries_a_lonely_one() -> None:
    weak = {20, 21, 33}
    pictures = [[Peak(flight(i), 0.32 if i in weak else 0.8)] for i in range(50)]
    assert found(pictures) == [flight(i) for i in range(50)]
    assert found([[Peak(flight(7), 0.32)] if i == 7 else [] for i in range(50)]) == [None] * 50
    assert found([[Peak(flight(i), 0.2)] for i in range(50)]) == [None] * 50


def test_the_threshold_scales_what_is_asked_for() -> None:
    pictures = [[Peak(flight(i), 0.3)] for i in range(50)]
    assert found(pictures, 0.9) == [None] * 50
    assert found(pictures, 0.2) == [flight(i) for i in range(50)]


def test_hits_and_gaps_do_not_end_a_path() -> None:
    """At 25 the ball turns back; it is out of sight for 2 and for 12 pictures; a false peak shines elsewhere once."""
    places = [flight(i) if i < 25 else flight(50 - i) for i in range(50)]
    hidden = {10, 11, *range(30, 42)}
    pictures = [[] if i in hidden else [Peak(xy, 0.8)] for i, xy in enumerate(places)]
    pictures[20] = [Peak((40.0, 40.0), 0.95), *pictures[20]]
    assert found(pictures) == [None if i in hidden else xy for i, xy in enumerate(places)]


def test_of_two_balls_the_one_that_is_seen_longer() -> None:
    other = [(1000.0 - 6 * i, 100.0 + 7 * i) for i in range(40)]
    pictures = [[Peak(flight(i), 0.7)] + ([Peak(other[i], 0.75)] if 10 <= i < 16 else []) for i in range(40)]
    assert found([sorted(peaks, key=lambda p: -p.score) for peaks in pictures]) == [flight(i) for i in range(40)]


@examples(10)
@given(st.integers(0, 2**32), st.integers(0, 3))
def test_a_finder_that_begins_later_decides_in_the_same_way(seed: int, blocks: int) -> None:
    """What segments of a video, and sessions that go on elsewhere, rest on."""
    draw = random.Random(seed)

    def peaks(i: int) -> list[Peak]:
        places = [flight(i % 60), SPOT, (draw.uniform(0, 1280), draw.uniform(0, 720))]
        chosen = [Peak(xy, round(draw.random(), 3)) for xy in places if draw.random() < 0.6]
        return sorted(chosen, key=lambda peak: -peak.score)

    pictures = [peaks(i) for i in range(330)]
    whole, start = found(pictures), blocks * BLOCK
    assert found(pictures[start:])[AHEAD:] == whole[start + AHEAD :]


def test_it_waits_no_longer_than_it_says() -> None:
    finder, given_out = PathFinder(DIAGONAL_PX, 0.5), 0
    for i in range(400):
        given_out += len(finder.push([Peak(flight(i % 50), 0.8)]))
        assert i + 1 - given_out <= AHEAD


def track(tracker: Tracker, pictures: list[np.ndarray]) -> list[BallPoint]:
    frames = (Frame(i, i / 30, picture) for i, picture in enumerate(pictures))
    return [point for frame in frames for point in tracker.push(frame)] + tracker.flush()


@pytest.mark.parametrize("path", [True, False])
def test_the_tracker_follows_the_path(path: bool) -> None:
    """A brighter lamp flickers in half of the pictures: the bare network takes it, the path does not."""
    pictures = []
    for i in range(90):
        ball = dot_frame((20.3 + 4.1 * i, 200.0 - 1.7 * i)).astype(float) * 0.7
        lamp = dot_frame((400.0, 40.0)).astype(float) if (i // 2) % 2 else np.zeros_like(ball)
        pictures.append(np.maximum(ball, lamp).astype(np.uint8))
    points = track(Tracker(Brightest(), (512, 288), path=path), pictures)
    near = [p.xy is not None and math.dist(p.xy, (20.3 + 4.1 * p.frame, 200.0 - 1.7 * p.frame)) < 2 for p in points]
    assert sum(near) > 85 if path else sum(near) < 60


def test_all_in_all_the_path_is_the_best_one() -> None:
    """Against every path there is, on short sequences: the search keeps three paths to each peak."""
    from rallytrace.trajectory import path as module

    draw = random.Random(1)
    for _ in range(60):
        pictures = [
            [
                module._Node(k, t, draw.uniform(0, 0.06), draw.uniform(0, 0.06), draw.uniform(-2, 3))
                for k in range(draw.randint(0, 2))
            ]
            for t in range(5)
        ]
        best = module.best_path(pictures)
        assert (best.value if best else 0.0) == pytest.approx(max(every_path(pictures)))


def every_path(pictures: list[list]) -> list[float]:  # type: ignore[type-arg]
    """The value of every way to take one node or none of each picture, the links between taken ones kept or cut."""
    from rallytrace.trajectory import path as module

    values = [0.0]
    for nodes in itertools.product(*[[None, *peaks] for peaks in pictures]):
        taken = [node for node in nodes if node is not None]
        for joined in itertools.product([True, False], repeat=max(0, len(taken) - 1)):
            total, run = 0.0, 0
            for i, node in enumerate(taken):
                total += node.odds
                if i == 0 or not joined[i - 1]:
                    total, run = total - module.START, 0
                    continue
                run += 1
                before = taken[i - 1]
                gap = node.at - before.at
                dx, dy = node.x - before.x, node.y - before.y
                way = math.hypot(dx, dy)
                if gap > module.GAP or way > module.FASTEST * gap:
                    total = -math.inf
                    break
                total -= module.GAP_COST * (gap - 1)
                if run == 1:
                    total -= min(module.BEND_MOST, way / module.FIRST_STEP)
                else:
                    share = gap / (before.at - taken[i - 2].at)
                    off = math.hypot(dx - (before.x - taken[i - 2].x) * share, dy - (before.y - taken[i - 2].y) * share)
                    total -= min(module.BEND_MOST, off / (module.BEND + module.BEND_FREE * way))
            values.append(total)
    return values
