"""Hop 5: points to a trajectory. Outlier rejection by motion and gap filling, as a stream."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rallytrace.errors import InputError
from rallytrace.types import BallPoint, PointSource, check_wh, is_whole

# Chosen on labelled badminton rallies (720p, 30 fps): see the docstrings of _Rejector and _Filler.
LOOK_AHEAD = 6  # frames after the judged one that the rejector sees
MAX_OUTLIERS = 3  # longest run of consecutive outliers
DETOUR_RATIO = 1.25  # times the speed of the neighbours
DETOUR_FLOOR = 0.02  # of the diagonal, about 30 px at 720p
LONELY_SCORE = 0.6  # a detection with no other within reach needs at least this
SIDE_FRAMES = 2  # how far from a gap's end its second measured point may lie
GAP_MISMATCH = 0.014  # of the diagonal, about 20 px at 720p
GAP_SCORE = 0.5  # of the four points around a gap
MAX_SPEED = 4.0  # diagonals a second; the fastest labelled shuttle made 2.9


def _distance_px(a: BallPoint, b: BallPoint) -> float:
    assert a.xy is not None
    assert b.xy is not None
    return math.dist(a.xy, b.xy)


def _elapsed_s(a: BallPoint, b: BallPoint) -> float:
    return max(b.pts_s - a.pts_s, 1e-3)  # broken streams repeat a timestamp


def _speed_px_s(a: BallPoint, b: BallPoint) -> float:
    return _distance_px(a, b) / _elapsed_s(a, b)


class _Rejector:
    """Turns detours and lonely weak detections into "no ball", LOOK_AHEAD points late.

    A run of up to MAX_OUTLIERS measured points is a detour if both the way there and the way back are farther than the
    points around it would have moved in that time, with room for repeated frames and noise. A hit leaves one of the
    two ways as slow, or the motion after it as fast, as the other points say, so that it passes.
    """

    def __init__(self, diagonal_px: float, max_speed_px_s: float) -> None:
        self._floor_px = DETOUR_FLOOR * diagonal_px
        self._max_speed_px_s = max_speed_px_s
        self._before: deque[BallPoint] = deque(maxlen=2)  # accepted measured points
        self._ahead: deque[BallPoint] = deque()

    def push(self, point: BallPoint) -> list[BallPoint]:
        self._ahead.append(point)
        return [self._judge()] if len(self._ahead) > LOOK_AHEAD else []

    def flush(self) -> list[BallPoint]:
        return [self._judge() for _ in range(len(self._ahead))]

    def _judge(self) -> BallPoint:
        point = self._ahead.popleft()
        if point.source is not PointSource.MODEL:
            return point
        before = [p for p in self._before if point.frame - p.frame <= LOOK_AHEAD]
        ahead = (p for p in self._ahead if p.source is PointSource.MODEL)
        after = [p for p in ahead if p.frame - point.frame <= LOOK_AHEAD]
        if self._is_lonely(before, point, after) or self._is_detour(before, point, after):
            return replace(point, xy=None, source=PointSource.NONE)
        self._before.append(point)
        return point

    def _is_lonely(self, before: list[BallPoint], point: BallPoint, after: list[BallPoint]) -> bool:
        if point.score >= LONELY_SCORE:
            return False
        speeds_px_s = [_speed_px_s(p, point) for p in before] + [_speed_px_s(point, p) for p in after]
        return all(speed > self._max_speed_px_s for speed in speeds_px_s)

    def _is_detour(self, before: list[BallPoint], point: BallPoint, after: list[BallPoint]) -> bool:
        runs = ([point, *after[:n]] for n in range(MAX_OUTLIERS))
        return any(self._leaves_and_returns(before, run, after[len(run) - 1 :]) for run in runs)

    def _leaves_and_returns(self, before: list[BallPoint], run: list[BallPoint], after: list[BallPoint]) -> bool:
        if not before or not after:
            return False
        around = [*before, *after[:2]]
        speed_px_s = DETOUR_RATIO * max(_speed_px_s(a, b) for a, b in pairwise(around))
        ways = ((before[-1], run[0]), (run[-1], after[0]))
        return all(_distance_px(a, b) > self._floor_px + speed_px_s * _elapsed_s(a, b) for a, b in ways)


class _Filler:
    """Fills gaps of at most `fill` frames whose four neighbours are confident and agree about the motion.

    The path is the chord between the gap's ends plus half of the parabola that the outer points ask for: repeated
    frames make velocities uncertain by a whole step, and half was nearest to the labels for every gap length. In the
    middle of the gap it must lie within GAP_MISMATCH of where each side's two measured points lead, which a hit
    inside the gap breaks.
    """

    def __init__(self, source_wh: tuple[int, int], fill: int, diagonal_px: float, max_speed_px_s: float) -> None:
        self._source_wh = source_wh
        self._fill = fill
        self._mismatch_px = GAP_MISMATCH * diagonal_px
        self._max_speed_px_s = max_speed_px_s
        self._before: deque[BallPoint] = deque(maxlen=2)  # measured points
        self._pending: list[BallPoint] = []  # a gap, then what follows it

    def push(self, point: BallPoint) -> list[BallPoint]:
        self._pending.append(point)
        return self._release(final=False)

    def flush(self) -> list[BallPoint]:
        return self._release(final=True)

    def _release(self, *, final: bool) -> list[BallPoint]:
        out: list[BallPoint] = []
        while self._pending:
            if self._pending[0].xy is not None:
                out.append(self._pending.pop(0))
                if out[-1].source is PointSource.MODEL:
                    self._before.append(out[-1])
                continue
            after = [p for p in self._pending if p.source is PointSource.MODEL]
            after = [p for p in after if p.frame <= after[0].frame + SIDE_FRAMES][:2]
            if not final and self._is_undecided(after):
                break
            n_gap = next((i for i, p in enumerate(self._pending) if p.xy is not None), len(self._pending))
            out += self._filled(self._pending[:n_gap], after)
            del self._pending[:n_gap]
        return out

    def _is_undecided(self, after: list[BallPoint]) -> bool:
        if not self._before:
            return False
        latest = self._pending[-1].frame
        if not after:
            return latest - self._before[-1].frame <= self._fill
        return self._is_short(after[0]) and len(after) < 2 and latest < after[0].frame + SIDE_FRAMES

    def _is_short(self, end: BallPoint) -> bool:
        return end.frame - self._before[-1].frame - 1 <= self._fill

    def _filled(self, gap: list[BallPoint], after: list[BallPoint]) -> list[BallPoint]:
        """`gap` with positions, or unchanged where one of the gates is shut."""
        if len(self._before) < 2 or len(after) < 2 or not self._is_short(after[0]):
            return gap
        around = [*self._before, *after]
        a2, a, b, _ = around
        confident = min(p.score for p in around) >= GAP_SCORE
        near = a.frame - a2.frame <= SIDE_FRAMES
        if not (confident and near and _speed_px_s(a, b) <= self._max_speed_px_s):
            return gap
        t_s = np.array([p.pts_s for p in around]) - a.pts_s
        xy = np.array([p.xy for p in around], np.float64)
        if (np.diff(t_s) <= 0).any() or _mismatch_px(t_s, xy) > self._mismatch_px:
            return gap
        path = _bridge(t_s, xy, np.array([p.pts_s for p in gap]) - a.pts_s)
        if (path < -0.5).any() or (path > np.array(self._source_wh) - 0.5).any():
            return gap
        found = zip(gap, path.tolist(), strict=True)
        return [replace(p, xy=(x, y), source=PointSource.FILLED) for p, (x, y) in found]


def _bridge(t_s: NDArray[np.float64], xy: NDArray[np.float64], at_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions (n, 2) at `at_s` between points 1 and 2: their chord, bent by half of what points 0 and 3 ask for."""
    t = np.concatenate([t_s[[0, 3]], at_s])
    chord = xy[1] + np.outer((t - t_s[1]) / (t_s[2] - t_s[1]), xy[2] - xy[1])
    bow = ((t - t_s[1]) * (t - t_s[2]))[:, None]
    curvature = (bow[:2] * (xy[[0, 3]] - chord[:2])).sum(0) / (bow[:2] ** 2).sum()
    path: NDArray[np.float64] = chord[2:] + bow[2:] * curvature / 2
    return path


def _mismatch_px(t_s: NDArray[np.float64], xy: NDArray[np.float64]) -> float:
    """How far the path in the middle of the gap is from where points 0, 1 and points 2, 3 lead in a straight line."""
    middle_s = (t_s[1] + t_s[2]) / 2
    onward = xy[1] + (xy[1] - xy[0]) * (middle_s - t_s[1]) / (t_s[1] - t_s[0])
    back = xy[2] + (xy[3] - xy[2]) * (middle_s - t_s[2]) / (t_s[3] - t_s[2])
    path = _bridge(t_s, xy, np.array([middle_s]))
    return float(np.linalg.norm(path - [onward, back], axis=1).max())


class Linker:
    """Hop 5 as a stream: `push` points in the order of their frames, take out finished ones, `flush` at the end.

    source_wh: size of the picture in px, which the limits scale with. fill: longest gap to fill, in frames; 0 fills
    nothing. reject: turn detections that break the motion into "no ball" (their score stays). max_speed_px_s: no ball
    is faster; None takes MAX_SPEED picture diagonals a second. Filled points have `source` FILLED and keep the
    model's own, low score of their frame. Every point comes out once, in order, at most `delay_frames` pushes late,
    and the same however the pushes are grouped. Raises ValueError for a frame that does not come after the last.
    """

    def __init__(
        self, source_wh: tuple[int, int], *, fill: int = 0, reject: bool = True, max_speed_px_s: float | None = None
    ) -> None:
        check_wh("source_wh", source_wh)
        if not is_whole(fill, 0):
            raise InputError(f"fill must be a whole number of frames, 0 or more, got {fill!r}")
        diagonal_px = math.hypot(*source_wh)
        speed = MAX_SPEED * diagonal_px if max_speed_px_s is None else max_speed_px_s
        self.delay_frames = LOOK_AHEAD * reject + (fill + SIDE_FRAMES if fill else 0)
        self._stages: list[_Rejector | _Filler] = []
        if reject:
            self._stages.append(_Rejector(diagonal_px, speed))
        if fill:
            self._stages.append(_Filler(source_wh, fill, diagonal_px, speed))
        self._last_frame = -1

    def push(self, point: BallPoint) -> list[BallPoint]:
        if point.frame <= self._last_frame:
            raise ValueError(f"frame must come after {self._last_frame}, got {point.frame}")
        self._last_frame = point.frame
        points = [point]
        for stage in self._stages:
            points = [done for p in points for done in stage.push(p)]
        return points

    def flush(self) -> list[BallPoint]:
        """The points still held back."""
        points: list[BallPoint] = []
        for stage in self._stages:
            points = [done for p in points for done in stage.push(p)] + stage.flush()
        return points


def link(
    points: Iterable[BallPoint],
    source_wh: tuple[int, int],
    *,
    fill: int = 0,
    reject: bool = True,
    max_speed_px_s: float | None = None,
) -> Iterator[BallPoint]:
    """`Linker` over a whole sequence of points."""
    linker = Linker(source_wh, fill=fill, reject=reject, max_speed_px_s=max_speed_px_s)
    for point in points:
        yield from linker.push(point)
    yield from linker.flush()
