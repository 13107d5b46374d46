"""The courts of the sports, in metres, as their rules give them (`courts.toml`)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rallytrace.errors import InputError

Floats: TypeAlias = NDArray[np.float64]

BEYOND = (0.08, 0.35)  # of half the court's width: where a line that ends at a corner must not go on


@dataclass(frozen=True, slots=True, eq=False)
class CourtModel:
    """A court in metres: origin at the middle of the net on the ground, x right, y towards the camera, z up.

    lines: (n, 2, 2), the two ends of the centre of each painted line. half_wl: half the width and half the length, to
    the outer edges. line_m: how wide a line is. net: x of the posts, height there, height in the middle. surface_m: how
    high the lines lie, 0 but for a table.
    """

    sport: str
    lines: Floats
    half_wl: tuple[float, float]
    line_m: float
    net: tuple[float, float, float]
    surface_m: float = 0.0

    @property
    def across(self) -> Floats:
        """The different y of the lines that run from side to side, far ones first."""
        return np.unique(self.lines[self._is_across()][:, :, 1])

    @property
    def along(self) -> Floats:
        """The different x of the lines that run away from the camera, left ones first."""
        return np.unique(self.lines[~self._is_across()][:, :, 0])

    @property
    def corners(self) -> Floats:
        """The four corners (4, 2): far left, far right, near right, near left."""
        x, y = self.half_wl
        return np.array([(-x, -y), (x, -y), (x, y), (-x, y)])

    @property
    def outer(self) -> NDArray[np.bool_]:
        """Which lines bound the court (n,)."""
        reach = np.abs(self.lines).min(1)
        across = self._is_across()
        x = np.where(across, 0, reach[:, 0])
        y = np.where(across, reach[:, 1], 0)
        bounds: NDArray[np.bool_] = (x == x.max()) | (y == y.max())
        return bounds

    @property
    def beyond(self) -> Floats:
        """Stretches (n, 2, 2) that go on behind both ends of the outer lines, where nothing is painted."""
        stretches = []
        for start, end in self.lines[self.outer]:
            way = (end - start) / np.hypot(*(end - start)) * self.half_wl[0]
            stretches.append((end + BEYOND[0] * way, end + BEYOND[1] * way))
            stretches.append((start - BEYOND[0] * way, start - BEYOND[1] * way))
        return np.array(stretches)

    def _is_across(self) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = self.lines[:, 0, 1] == self.lines[:, 1, 1]
        return same


def samples(lines: Floats, step_m: float) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Points along lines (n, 2, 2): places (k, 2), directions (k, 2), and which line each is on (k,)."""
    points = []
    directions = []
    which = []
    for number, (start, end) in enumerate(lines):
        way = end - start
        length = float(np.hypot(*way))
        count = max(3, int(length / step_m))
        shares = (np.arange(count) + 0.5) / count
        points.append(start + way * shares[:, None])
        directions.append(np.tile(way / length, (count, 1)))
        which.append(np.full(count, number))
    return np.concatenate(points), np.concatenate(directions), np.concatenate(which)


@cache
def court_model(sport: str) -> CourtModel:
    """The official court of a sport. Raises InputError for a sport that `courts.toml` does not have."""
    courts = tomllib.loads(Path(__file__).with_name("courts.toml").read_text())
    if sport not in courts:
        raise InputError(f"no court of {sport!r} is known, expected one of {', '.join(courts)}")
    court = courts[sport]
    return CourtModel(
        sport=sport,
        lines=np.array(court["lines"], np.float64).reshape(-1, 2, 2),
        half_wl=tuple(court["half_wl"]),
        line_m=court["line_m"],
        net=tuple(court["net"]),
        surface_m=court.get("surface_m", 0.0),
    )


def sports() -> list[str]:
    """The sports whose court is known."""
    return list(tomllib.loads(Path(__file__).with_name("courts.toml").read_text()))
