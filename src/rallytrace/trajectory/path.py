"""Hop 4, its last part: which of a picture's peaks is the ball. What flickers in one place is not; what moves on is.

A network that sees five pictures cannot know that a spot in the stands has lit up for seconds. So every peak loses what
its place has collected before and after, as the background takes from a picture what stands still; then the path with
the largest sum of log-odds and the smoothest motion is taken (Viterbi 1967, as track-before-detect does it).
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rallytrace.types import XY

# Chosen on training clips of four sports (docs/log.md). Lengths are shares of the picture's diagonal, times are in
# pictures, costs in log-odds.
MOST_PEAKS = 5  # of a picture
LEAST = 0.16  # of the threshold; lower peaks are not looked at
ON_PATH = 0.6  # of the threshold: what a peak needs where the motion speaks for it
MOST_ODDS = 3.0  # that one peak can win or lose
HABIT_REACH, HABIT_SKIP = 50, 15  # what a place collects so far around, but for the nearest pictures: a ball may rest
HABIT_FREE, HABIT_COST = 2.0, 0.75  # scores that a place may collect without cost, and the cost of e times as many
CELL = 0.006  # the size of a place
START = 6.0  # of a path
GAP, GAP_COST = 3, 0.6  # a path may leave out two pictures, at a cost each
FASTEST = 0.12  # a picture
BEND, BEND_FREE = 0.01, 0.3  # off the straight line by this and by this share of the step costs 1,
BEND_MOST = 2.0  # and never more: balls are hit
FIRST_STEP = 0.02  # so far in one picture costs a path's first step 1
BLOCK, AROUND = 30, 15  # pictures that are decided together, and what they see on both sides
AHEAD = BLOCK + AROUND + HABIT_REACH  # a decision waits for so many pictures at most, and looks back as far


@dataclass(frozen=True, slots=True)
class Peak:
    """A local maximum of one heatmap: where it lies in source px, and its height."""

    xy: XY
    score: float


@dataclass(slots=True)
class _Node:
    """A peak as the search sees it: position in diagonals, and log-odds. best: the best three paths that end here."""

    index: int
    at: int
    x: float
    y: float
    odds: float
    best: list[_State] = field(default_factory=list)


@dataclass(slots=True)
class _State:
    """A path that ends at `node`, and the path that it went on from: `joined` to it, or begun anew after its end."""

    value: float
    node: _Node
    before: _State | None
    joined: bool


def _odds(score: float) -> float:
    score = min(max(score, 1e-3), 1 - 1e-3)
    return math.log(score / (1 - score))


class PathFinder:
    """Peaks of the pictures of one scene in, in order; the index of the ball's own, or None, out.

    threshold: of the network. diagonal_px: of the source. Decisions come at most AHEAD pictures late and depend on
    nothing farther away than that, so that a finder that begins at a multiple of BLOCK and AHEAD pictures earlier
    decides in the same way.
    """

    def __init__(self, diagonal_px: float, threshold: float) -> None:
        self._diagonal_px, self._threshold = diagonal_px, threshold
        self._needed = _odds(ON_PATH * threshold)
        self._peaks: deque[Sequence[Peak]] = deque()
        self._first = 0  # the picture of _peaks[0]
        self._count = 0
        self._habits: Counter[tuple[int, int]] = Counter()
        self._rated: deque[list[_Node]] = deque()  # from picture _rated_from on
        self._rated_from = 0
        self._decided = 0

    def push(self, peaks: Sequence[Peak]) -> list[int | None]:
        """peaks: highest first."""
        self._peaks.append(peaks)
        self._collect(peaks, 1)
        self._count += 1
        if self._count > HABIT_REACH:
            self._rate()
        done = self._decided + BLOCK + AROUND
        return self._decide(BLOCK) if self._rated_from + len(self._rated) >= done else []

    def flush(self) -> list[int | None]:
        """The decisions that are still due."""
        while self._rated_from + len(self._rated) < self._count:
            self._rate()
        decided: list[int | None] = []
        while self._decided < self._count:
            decided += self._decide(min(BLOCK, self._count - self._decided))
        return decided

    def _cell(self, xy: XY) -> tuple[int, int]:
        side_px = CELL * self._diagonal_px
        return int(xy[0] // side_px), int(xy[1] // side_px)

    def _collect(self, peaks: Sequence[Peak], sign: int) -> None:
        for peak in peaks:
            self._habits[self._cell(peak.xy)] += sign * round(1000 * peak.score)  # whole numbers add up exactly

    def _rate(self) -> None:
        """The next picture's nodes."""
        at = self._rated_from + len(self._rated)
        while self._first < at - HABIT_REACH:
            self._collect(self._peaks.popleft(), -1)
            self._first += 1
        here = at - self._first
        near = [self._peaks[k] for k in range(max(0, here - HABIT_SKIP), min(len(self._peaks), here + HABIT_SKIP + 1))]
        for peaks in near:
            self._collect(peaks, -1)
        nodes = []
        for index, peak in enumerate(self._peaks[here][:MOST_PEAKS]):
            if peak.score >= LEAST * self._threshold:
                x, y = peak.xy[0] / self._diagonal_px, peak.xy[1] / self._diagonal_px
                odds = _odds(peak.score) - self._habit_cost(peak.xy) - self._needed
                nodes.append(_Node(index, at, x, y, min(max(odds, -MOST_ODDS), MOST_ODDS)))
        for peaks in near:
            self._collect(peaks, 1)
        self._rated.append(nodes)

    def _habit_cost(self, xy: XY) -> float:
        col, row = self._cell(xy)
        held = sum(self._habits[col + i, row + j] for i in (-1, 0, 1) for j in (-1, 0, 1)) / 1000
        return HABIT_COST * max(0.0, math.log((held + 1) / (HABIT_FREE + 1)))

    def _decide(self, count: int) -> list[int | None]:
        """The next `count` decisions, by the best path through them and AROUND pictures on both sides."""
        start, end = self._decided, self._decided + count
        while self._rated_from < start - AROUND:
            self._rated.popleft()
            self._rated_from += 1
        pictures = list(self._rated)[: end + AROUND - self._rated_from]
        chosen: dict[int, int] = {}
        path = best_path(pictures)
        while path is not None:
            chosen[path.node.at] = path.node.index
            path = path.before
        self._decided = end
        return [chosen.get(at) for at in range(start, end)]


def best_path(pictures: Sequence[list[_Node]]) -> _State | None:
    """The last state of the best path through the nodes of consecutive pictures; None where nothing is worth it."""
    best: _State | None = None
    for t, nodes in enumerate(pictures):
        until_now = best
        for node in nodes:
            so_far = until_now.value if until_now else 0.0
            states = [_State(so_far - START + node.odds, node, until_now, joined=False)]
            for gap in range(1, min(GAP, t) + 1):
                for previous in pictures[t - gap]:
                    state = _step(previous, node, gap)
                    if state is not None:
                        states.append(state)
            states.sort(key=lambda state: -state.value)
            node.best = states[:3]
            if node.best[0].value > (best.value if best else 0.0):
                best = node.best[0]
    return best


def _step(previous: _Node, node: _Node, gap: int) -> _State | None:
    """The best way to `node` through `previous`, `gap` pictures earlier."""
    dx, dy = node.x - previous.x, node.y - previous.y
    way = math.hypot(dx, dy)
    if way > FASTEST * gap:
        return None
    best, from_ = -math.inf, None
    for state in previous.best:
        if state.joined and state.before is not None:
            earlier = state.before.node
            share = gap / (previous.at - earlier.at)
            off = math.hypot(dx - (previous.x - earlier.x) * share, dy - (previous.y - earlier.y) * share)
            cost = min(BEND_MOST, off / (BEND + BEND_FREE * way))
        else:
            cost = min(BEND_MOST, way / FIRST_STEP)
        if state.value - cost > best:
            best, from_ = state.value - cost, state
    return _State(best + node.odds - GAP_COST * (gap - 1), node, from_, joined=True) if from_ else None
