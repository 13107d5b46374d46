"""What each constant of the path asks for: the sums by hand, one scene just above each limit and one just below.

A path takes a scene's peaks where their odds add up to more than it costs; else it takes none of them.
"""

import math
from collections.abc import Sequence

import pytest

from rallytrace.trajectory.path import PathFinder, Peak
from rallytrace.types import XY

DIAGONAL_PX = 1000.0
Place = XY | None  # in diagonals


def score(odds: float) -> float:
    """Of a peak that adds `odds` to a path: so much above the log-odds of 0.3, which is 0.6 of the threshold."""
    return 1 / (1 + math.exp(-odds - math.log(0.3 / 0.7)))


def peak(place: XY, odds: float) -> Peak:
    return Peak((place[0] * DIAGONAL_PX, place[1] * DIAGONAL_PX), score(odds))


def taken(pictures: Sequence[Sequence[Peak]]) -> list[int | None]:
    finder = PathFinder(DIAGONAL_PX, 0.5)
    return [index for peaks in pictures for index in finder.push(peaks)] + finder.flush()


def follows(places: Sequence[Place], odds: float) -> bool:
    """Whether all of the ball's peaks are taken; else it must be none."""
    pictures = [[] if place is None else [peak(place, odds)] for place in places]
    indices = taken(pictures)
    everything = [None if place is None else 0 for place in places]
    assert indices in (everything, [None] * len(places))
    return indices == everything


HERE = (0.003, 0.003)  # the middle of a cell
TURN = 2 * math.asin(0.2)  # from a step of 0.1 to one that ends 0.04 beside where it would have
BESIDE = (0.2 + 0.1 * math.cos(TURN), 0.1 * math.sin(TURN))


@pytest.mark.parametrize(
    ("places", "cost"),
    [
        ([HERE] * 4, 6.0),  # the start
        ([(0.00, 0), (0.02, 0), (0.04, 0), (0.06, 0)], 7.0),  # and a first step of 0.02, which costs 1
        ([(0.0, 0), (0.1, 0), (0.2, 0), (0.3, 0)], 8.0),  # no step costs more than 2
        ([HERE, HERE, None, HERE, HERE], 6.6),  # a picture left out costs 0.6
        ([HERE, HERE, None, None, HERE, HERE], 7.2),
        ([(0, 0), (0, 0), (0.02, 0), (0.04, 0)], 6 + 0.02 / (0.01 + 0.3 * 0.02)),  # off the line by 0.02 in such a step
        ([(0.0, 0), (0.1, 0), (0.2, 0), BESIDE], 8 + 0.04 / (0.01 + 0.3 * 0.1)),  # and by 0.04 in a step of 0.1
        ([(x, 0) for x in (0, 0.03, 0.06, 0.03, 0.00, -0.03)], 6 + 1.5 + 2),  # a hit costs 2, whatever the turn
        ([(0.5, 0.5)] * 4 + [None] * 3 + [HERE] * 4, 12.0),  # a second path, wherever the first one ended
        ([(0, 0), (0.05, 0), None, (0.15, 0)], 6 + 2 + 0.6),  # straight on in two pictures is twice the step
    ],
)
def test_a_path_costs_what_it_says(places: list[Place], cost: float) -> None:
    n = sum(place is not None for place in places)
    assert follows(places, (cost + 0.1) / n)
    assert not follows(places, (cost - 0.1) / n)


def test_a_path_bridges_two_pictures_and_no_more() -> None:
    """Two pictures alone are not worth a start: 2 * 2.5 < 6. Four are, where they are one path."""
    assert follows([HERE, HERE, None, None, HERE, HERE], 2.5)
    assert not follows([HERE, HERE, None, None, None, HERE, HERE], 2.5)


@pytest.mark.parametrize("pictures", [1, 2, 3])
def test_a_ball_flies_at_most_so_far_in_a_picture(pictures: int) -> None:
    """0.12 diagonals; farther apart, each peak stands alone, and 2.9 < 6."""
    between: list[Place] = [None] * (pictures - 1)
    for step, possible in ((0.119, True), (0.121, False)):
        places: list[Place] = []
        for i in range(5):
            places += [(i * step * pictures, 0.0), *between]
        assert follows(places, 2.9) == possible


def test_a_staircase_is_no_ball() -> None:
    """Right, down, right, down: every step costs 2, more than the odds of 1; straight on none but the first does."""
    stairs: list[Place] = [(0.03 * ((i + 1) // 2), 0.03 * (i // 2)) for i in range(16)]
    assert not follows(stairs, 1.0)
    assert follows([(0.03 * i, 0.0) for i in range(16)], 1.0)


def test_one_peak_wins_three_at_most() -> None:
    """Three sure peaks, 9 in all: 6 for the start, 2 for the first step, and the turn costs 0.8 or 1.2."""
    for off, worth_it in ((0.032, True), (0.048, False)):
        turn = 2 * math.asin(off / 0.2)
        places = [(0.0, 0.0), (0.1, 0.0), (0.1 + 0.1 * math.cos(turn), 0.1 * math.sin(turn))]
        assert follows(places, 7.0) == worth_it


def test_peaks_below_the_least_are_not_looked_at() -> None:
    """0.16 of the threshold is 0.08. A weak peak in the middle carries the path on; without it, the gap is too long."""
    good = score(2.8)
    for weak, carries in ((0.085, True), (0.075, False)):
        pictures = [[Peak((0.0, 0.0), each)] if each else [] for each in (good, good, 0, weak, 0, good, good)]
        assert taken(pictures) == ([0, 0, None, 0, None, 0, 0] if carries else [None] * 7)


def test_the_five_highest_peaks_are_looked_at() -> None:
    for higher, seen in ((4, True), (5, False)):
        pictures = []
        for i in range(8):
            lamps = [peak((1.0 + i, 1.0 + k), 2.5) for k in range(higher)]  # each alone: farther off than a ball flies
            pictures.append([*lamps, peak(HERE, 2.0)])
        assert taken(pictures) == [higher if seen else None] * 8


def habit(places: Sequence[XY], lit: float, ball: range, flashes: range, odds: float) -> bool:
    """Whether a ball that rests at HERE in the pictures `ball` is taken, after or before `places` light up."""
    n = max(ball.stop, flashes.stop)
    pictures: list[list[Peak]] = [[] for _ in range(n)]
    for i in flashes:
        pictures[i] = [Peak((x * DIAGONAL_PX, y * DIAGONAL_PX), lit) for x, y in places]
    for i in ball:
        pictures[i] = [peak(HERE, odds)]
    indices = taken(pictures)[ball.start : ball.stop]
    assert indices in ([0] * len(ball), [None] * len(ball))
    return indices[0] == 0


@pytest.mark.parametrize(
    ("place", "counts"),
    [
        (HERE, True),
        ((0.003 + 0.0085, 0.003), True),  # the next cell: cells are 0.006
        ((0.003, 0.003 + 0.0085), True),
        ((0.003 + 0.0095, 0.003), False),  # the one after it
        ((0.003, 0.003 + 0.0095), False),
    ],
)
def test_what_a_place_has_collected_costs(place: XY, counts: bool) -> None:
    """Ten pictures at 0.8 collect 8, of which 2 are free: each peak costs 0.75 ln((8 + 1) / (2 + 1)) = 0.824."""
    cost = 0.75 * math.log(3) if counts else 0.0
    for odds, worth_it in ((1.55 + cost, True), (1.45 + cost, False)):  # 4 * 1.5 is the start
        assert habit([place], 0.8, range(26, 30), range(10), odds) == worth_it


NINE = [(0.003 + 0.006 * i, 0.003 + 0.006 * j) for i in (-1, 0, 1) for j in (-1, 0, 1)]


@pytest.mark.parametrize(
    ("far", "counted"),
    [
        ((15, 16, 17), 2),  # the fifteen nearest pictures do not count: a ball may rest
        ((16, 17, 18), 3),
        ((48, 49, 50), 3),  # nor does what is more than fifty away
        ((49, 50, 51), 2),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_how_far_around_a_place_collects(far: tuple[int, int, int], counted: int, later: bool) -> None:
    """One picture lights up nine cells at 0.9. A ball of three pictures affords that twice, not three times."""
    cost = 0.75 * math.log((9 * 0.9 + 1) / 3)
    odds = (6 + 2.5 * cost) / 3
    ball = range(3) if later else range(far[0], far[0] + 3)
    flash = far[2] if later else 0
    assert habit(NINE, 0.9, ball, range(flash, flash + 1), odds) == (counted == 2)


@pytest.mark.parametrize("reverse", [False, True])
def test_thirty_pictures_are_decided_together_and_see_fifteen_on_both_sides(reverse: bool) -> None:
    """Of a long flight, the decision on picture 29 sees 29 to 44, and that on picture 30 sees 15 to 30.

    Sixteen pictures must be worth the start and a first step of 0.02, which is 7 in all.
    """
    at = 30 if reverse else 29
    for odds, seen in ((7.1 / 16, True), (6.9 / 16, False)):
        pictures: list[list[Peak]] = [[] for _ in range(90)]
        for i in range(31) if reverse else range(29, 90):
            pictures[i] = [peak((0.02 * i, 0.0), odds)]
        assert taken(pictures)[at] == (0 if seen else None)
        assert taken(pictures)[at - 1 if reverse else at + 1] == 0
