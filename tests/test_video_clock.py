"""The clock alone, on lists of times: what it believes, what it mends, and what a written video makes of it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rallytrace.video.clock import Clock, Film

STEP_S = 1 / 25


def mended(said: list[float | None], step_s: float = STEP_S) -> tuple[list[float], Clock[int]]:
    clock = Clock[int](step_s)
    given = list(clock.mend((each, n, n) for n, each in enumerate(said)))
    assert [n for _, n in given] == list(range(len(said)))
    times = [pts_s for pts_s, _ in given]
    assert all(a < b for a, b in pairwise(times))
    return times, clock


def steps(n: int, start_s: float = 0.0) -> list[float | None]:
    return [start_s + k * STEP_S for k in range(n)]


@pytest.mark.parametrize("start_s", [0.0, -3.2, 72_000.0, 1.7e9])
def test_good_times_are_kept_to_the_bit(start_s: float) -> None:
    said = steps(50, start_s)
    times, clock = mended(said)
    assert times == said
    assert (clock.mended, clock.jumps, clock.leaps) == (0, [], [])


@pytest.mark.parametrize("repeats", [1, 7, 44, 60, 200])
@pytest.mark.parametrize("start_s", [0.0, 72_000.0])
def test_a_time_that_repeats_moves_no_other(repeats: int, start_s: float) -> None:
    said = steps(20, start_s)
    said[10:10] = [said[10]] * repeats
    times, clock = mended(said)
    assert times[:11] + times[11 + repeats :] == said[:11] + said[11 + repeats :]
    assert clock.mended == repeats


def test_a_clock_that_stands_and_goes_on_right_is_made_even() -> None:
    true = steps(100)
    times, _ = mended([true[min(n, 20)] if n < 70 else true[n] for n in range(100)])
    assert times == pytest.approx(true)


def test_a_clock_of_whole_seconds_is_made_even() -> None:
    times, _ = mended([float(n // 25) for n in range(100)])
    assert times == pytest.approx(steps(100))


@pytest.mark.parametrize("n", [40, 700])
def test_a_clock_that_never_moves_gives_way_to_the_rate(n: int) -> None:
    times, _ = mended([5.0] * n)
    assert times == pytest.approx(steps(n, 5.0))


def test_no_times_at_all() -> None:
    times, _ = mended([None] * 30)
    assert times == pytest.approx(steps(30))


@pytest.mark.parametrize("second_s", [0.0, -50.0, 0.5])
def test_a_clock_that_starts_anew_goes_on_with_its_own_steps(second_s: float) -> None:
    """The second part has uneven steps, which are kept."""
    uneven = [second_s + STEP_S * k * (k + 1) / 2 for k in range(8)]
    times, clock = mended([*steps(20), *uneven])
    assert times[20:] == pytest.approx([20 * STEP_S + each - second_s for each in uneven])
    (jump,) = clock.jumps
    assert (jump.packet, jump.frame, jump.pts_s) == (20, 20, pytest.approx(20 * STEP_S))
    assert jump.shift_s == pytest.approx(20 * STEP_S - second_s)


def test_a_leap_is_kept() -> None:
    said = steps(10) + steps(10, 3600.0)
    times, clock = mended(said)
    assert times == said
    assert clock.leaps == [(10, 3600.0)]


@pytest.mark.parametrize("wild_s", [3600.0, -3600.0, 0.0, 95_443.7])
def test_one_wild_time_is_not_believed(wild_s: float) -> None:
    said = steps(30, 5.0)
    times, clock = mended([*said[:12], wild_s, *said[13:]])
    assert times == pytest.approx(said)
    assert (clock.mended, clock.jumps, clock.leaps) == (1, [], [])


def test_pictures_out_of_order_are_caught_up_with() -> None:
    said = steps(30)
    times, clock = mended([*said[:4], said[7], *said[5:7], *said[4:5], *said[8:]])
    assert times[-15:] == said[-15:]
    assert clock.jumps == []


def film_of(times: list[float], heard: bool = False) -> tuple[list[float], Film]:
    film = Film(STEP_S)
    return [film.picture(each, lambda start, stop: heard) for each in times], film


@pytest.mark.parametrize("start_s", [0.0, -3.2, 72_000.0])
def test_a_film_begins_at_zero(start_s: float) -> None:
    given, film = film_of([start_s, start_s + 0.04, start_s + 9.0])
    assert given == pytest.approx([0, 0.04, 9.0])
    assert film.sound(start_s - 0.02) == pytest.approx(-0.02)


def test_a_leap_is_left_out_of_the_film_unless_sound_plays_through_it() -> None:
    times = [5.0, 5.04, 3605.0, 3605.04, 9000.0]
    given, film = film_of(times)
    assert given == pytest.approx([n * STEP_S for n in range(5)])
    sound = [film.sound(each) for each in (5.0, 5.1, 3604.96, 3605.0, 9000.0)]
    assert sound == pytest.approx([0, 0.1, 0.04, 0.08, 0.16])
    given, film = film_of(times, heard=True)
    assert given == pytest.approx([each - 5 for each in times])
