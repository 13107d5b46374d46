"""How the ball flies and where the players run, without a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rallytrace.synth.court import BALL_M, Floats, Sport

GRAVITY = 9.81
STEP_S = 1 / 240
CEILING_M = 6.0  # no shot flies higher
SERVE_AFTER_S, LIES_FOR_S, PAUSE_S = 0.2, 2.4, 0.8  # in the hand, then on the floor, then picked up


def fly(
    start: Floats,
    velocity: Floats,
    seconds: float,
    *,
    terminal_mps: float = math.inf,
    bounce: tuple[float, float] = (0.0, 0.0),
    floor_m: float = -math.inf,
) -> Floats:
    """Flight with gravity and quadratic drag, by the midpoint rule (exact without drag).

    start (..., 3) metres and velocity (..., 3) m/s. At height `floor_m` the ball bounces, keeping the shares `bounce`
    of its speed along the floor and upwards. Returns positions (n, ..., 3), one every `STEP_S`.
    """
    drag, gravity = GRAVITY / terminal_mps**2, np.array([0, 0, -GRAVITY])
    kept = np.array([bounce[0], bounce[0], -bounce[1]])

    def acceleration(v: Floats) -> Floats:
        change: Floats = gravity - drag * np.sqrt((v * v).sum(-1, keepdims=True)) * v
        return change

    position, velocity = np.broadcast_arrays(start, velocity)
    path = [position]
    for _ in range(round(seconds / STEP_S)):
        middle = velocity + acceleration(velocity) * (STEP_S / 2)
        position, velocity = position + middle * STEP_S, velocity + acceleration(middle) * STEP_S
        under = position[..., 2:] < floor_m
        if under.any():
            velocity = np.where(under, velocity * kept, velocity)
            position = np.where(under & (np.arange(3) == 2), floor_m, position)
        path.append(position)
    return np.stack(path)


@dataclass(frozen=True, slots=True)
class Rally:
    """One rally, a row every `STEP_S`. Player 0 is near the camera, player 1 beyond the net."""

    ball: Floats  # (n, 3) metres; NaN while it is in somebody's hand
    feet: Floats  # (2, n, 2) metres
    strides_m: Floats  # (2, n), the way that each player has run
    hits: tuple[list[tuple[float, Floats]], ...]  # of each player: second, place (3,)

    @property
    def seconds(self) -> float:
        return len(self.ball) * STEP_S


def at(track: Floats, time_s: Floats | float) -> Floats:
    """`track` (n, ...), a row every `STEP_S`, at some times: linear between rows, held at the ends."""
    place = np.clip(np.asarray(time_s) / STEP_S, 0, len(track) - 1.001)
    row = place.astype(int)
    part = (place - row).reshape(place.shape + (1,) * (track.ndim - 1))
    values: Floats = track[row] * (1 - part) + track[row + 1] * part
    return values


def _first(condition: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Index of the first True along axis 0; the length where there is none."""
    return np.where(condition.any(0), condition.argmax(0), len(condition))


def _shots(
    rng: np.random.Generator, sport: Sport, start: Floats, side: int, feet: Floats
) -> tuple[Floats, NDArray[np.intp]]:
    """Random shots towards `side` that clear the net and land in.

    Returns paths (n, shots, 3) and the row at which a player who stands at `feet` meets each; 0 where out of reach.
    """
    n, (slow, fast) = 256, sport.speed_mps
    elevation = np.radians(rng.uniform(*sport.elevation_deg, n))
    speed = np.exp(rng.uniform(math.log(slow), math.log(fast), n))
    azimuth = np.arctan2(rng.uniform(-0.85, 0.85, n) * sport.half_wl[0] - start[0], sport.base_y + abs(start[1]))
    level = speed * np.cos(elevation)
    velocity = np.stack([level * np.sin(azimuth), side * level * np.cos(azimuth), speed * np.sin(elevation)], -1)
    path = fly(start, velocity, 2.6, terminal_mps=sport.terminal_mps, bounce=sport.bounce, floor_m=BALL_M)
    rows, t = len(path), np.arange(len(path))[:, None]
    net, land = _first(path[..., 1] * side > 0), _first(path[..., 2] <= BALL_M)
    over, down = (path[np.minimum(row, rows - 1), np.arange(n)] for row in (net, land))
    good = (net < land) & (land < rows) & (over[:, 2] > sport.net[2] + 0.08) & (path[..., 2].max(0) < CEILING_M)
    good &= (abs(down[:, :2]) < sport.half_wl).all(1) & (down[:, 1] * side > 0.8)
    path, land = path[:, good], land[good]
    x, y, z = np.moveaxis(path, -1, 0)
    reach = (z > sport.hit_z[0]) & (z < sport.hit_z[1]) & (y * side > 0.5) & (abs(y) < sport.half_wl[1] + 3.5)
    reach &= (t > 0.3 / STEP_S) & (np.hypot(x - feet[0], y - feet[1]) < 4.2 * STEP_S * t + 0.3)
    if sport.bounce[1]:
        reach &= (t > land + 20) & (t < _first((z <= BALL_M) & (t > land + 2)))
    else:
        reach &= t < land
    return path, (reach * rng.uniform(0.1, 1, reach.shape)).argmax(0)


def play(rng: np.random.Generator, sport: Sport, server: int) -> Rally:
    """One rally: the serve, hits in turn until one is out of reach, the ball on the floor, a pause."""
    bases = np.array([[0.3, -sport.base_y], [-0.3, sport.base_y]])
    stops = [[(0.0, bases[player])] for player in (0, 1)]
    hits: tuple[list[tuple[float, Floats]], ...] = ([], [])
    flown = [np.full((round(SERVE_AFTER_S / STEP_S), 3), np.nan)]
    now, player, place = SERVE_AFTER_S, server, np.array([bases[server][0] + 0.4, bases[server][1], sport.serve_z])
    for _ in range(30):
        side, other = 1 - 2 * player, 1 - player
        hits[player].append((now, place))
        stops[player].append((now, place[:2] - (0.5 * side, 0.3 * side)))
        before, stood = stops[other][-1]
        waits = stood + (bases[other] - stood) * min(1.0, (now - before) / 0.8)
        stops[other].append((now, waits))
        paths, meets = _shots(rng, sport, place, side, waits)
        reached = np.flatnonzero(meets)
        if not len(reached) or rng.uniform() < 0.06:
            flown += [paths[: round(LIES_FOR_S / STEP_S), k] for k in range(min(1, paths.shape[1]))]
            break
        path, row = paths[:, reached[0]], int(meets[reached[0]])
        flown.append(path[:row])
        place, now, player = path[row], now + row * STEP_S, other
    ball = np.concatenate([*flown, np.full((round(PAUSE_S / STEP_S), 3), np.nan)])
    times = np.arange(len(ball)) * STEP_S
    feet = np.stack([_walk([*stops[p], (max(now + 0.8, times[-1]), bases[p])], times) for p in (0, 1)])
    strides = np.hypot(*np.moveaxis(np.diff(feet, axis=1, prepend=feet[:, :1]), -1, 0)).cumsum(1)
    return Rally(ball, feet, strides, hits)


def _walk(stops: list[tuple[float, Floats]], times: Floats) -> Floats:
    """From stop to stop, each leg from rest to rest. Positions (n, 2)."""
    begins = np.array([t for t, _ in stops])
    where = np.stack([xy for _, xy in stops])
    leg = np.clip(np.searchsorted(begins, times, side="right") - 1, 0, len(begins) - 2)
    part = np.clip((times - begins[leg]) / np.maximum(begins[leg + 1] - begins[leg], STEP_S), 0, 1)
    ease = (part * part * (3 - 2 * part))[:, None]
    walked: Floats = where[leg] * (1 - ease) + where[leg + 1] * ease
    return walked
