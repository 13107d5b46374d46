"""Candidate court lines in a picture: what is lighter than both its sides, and straight for a while."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rallytrace.court.model import Floats
from rallytrace.errors import need
from rallytrace.types import Image

WORK_WIDTH = 960  # px; courts are searched in pictures of this width, where painted lines are 1 to 10 px wide
LIFT = 10  # grey levels that a line is lighter than both its sides
SIDES_PX = (3, 5, 8)  # how far off the sides are looked at
BORDER_PX = 8  # nothing is found this near to the picture's border
CROWDED = 0.35  # where more of the neighbourhood is "line", it is texture: stands, letters, nets
STEEP = 0.45  # rise over run below which a segment runs across the picture
NEAR_PX = 3.5  # segments this near to a line belong to it
MOST_LINES = 12  # of each direction

ACROSS = (0.25, 0.75)  # shares of the width where a line across is measured
ALONG = (0.3, 0.8)  # shares of the height where a line along is measured


@dataclass(frozen=True, slots=True, eq=False)
class Ridges:
    """How much lighter each pixel is than both its sides, in grey levels (h, w).

    across: above and below, so it shows lines from side to side. along: left and right, for those into the depth.
    """

    across: NDArray[np.float32]
    along: NDArray[np.float32]


def find_ridges(image: Image) -> Ridges:
    """The ridges of a grey picture (h, w) of WORK_WIDTH."""
    cv2 = need("cv2", "analyse")
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.8)
    return Ridges(_lift(smooth, 0), _lift(smooth, 1))


def _lift(image: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    lift = np.zeros_like(image)
    for distance in SIDES_PX:
        before = np.roll(image, distance, axis)
        after = np.roll(image, -distance, axis)
        np.maximum(lift, image - np.maximum(before, after), out=lift)
    lift[:BORDER_PX] = 0
    lift[-BORDER_PX:] = 0
    lift[:, :BORDER_PX] = 0
    lift[:, -BORDER_PX:] = 0
    return lift


def candidate_lines(ridges: Ridges) -> tuple[Floats, Floats]:
    """The longest lines across, top to bottom, and along, left to right: homogeneous (n, 3) each, in pixels."""
    across = _segments(ridges.across)
    along = _segments(ridges.along)
    height, width = ridges.across.shape
    across = across[_is_flat(across)]
    along = along[~_is_flat(along)]
    rows = _merge(across, ACROSS[0] * width, ACROSS[1] * width)
    columns = _merge(along[:, [1, 0, 3, 2]], ALONG[0] * height, ALONG[1] * height)
    return (
        _homogeneous(rows, ACROSS[0] * width, ACROSS[1] * width),
        _homogeneous(columns, ALONG[0] * height, ALONG[1] * height)[:, [1, 0, 2]],
    )


def _segments(lift: NDArray[np.float32]) -> Floats:
    """Straight segments (n, 4) as x0 y0 x1 y1, by the probabilistic Hough transform (Matas et al. 2000)."""
    cv2 = need("cv2", "analyse")
    lines = (lift > LIFT).astype(np.uint8) * 255
    crowd = cv2.blur(lines, (25, 25))
    lines[crowd > CROWDED * 255] = 0
    width = lines.shape[1]
    found = cv2.HoughLinesP(lines, 1, np.pi / 360, threshold=40, minLineLength=width // 24, maxLineGap=width // 80)
    if found is None:
        return np.zeros((0, 4))
    return np.asarray(found, np.float64).reshape(-1, 4)


def _is_flat(segments: Floats) -> NDArray[np.bool_]:
    rise = np.abs(segments[:, 3] - segments[:, 1])
    run = np.abs(segments[:, 2] - segments[:, 0])
    flat: NDArray[np.bool_] = rise < STEEP * run
    return flat


def _merge(segments: Floats, start: float, stop: float) -> Floats:
    """Segments a0 b0 a1 b1 -> lines (n, 2): their b at a = `start` and at a = `stop`, in the order of b.

    The longest segment takes all that lie on it, and a line through all their ends replaces it.
    """
    ordered = np.where(segments[:, :1] > segments[:, 2:3], segments[:, [2, 3, 0, 1]], segments)
    ordered = ordered[ordered[:, 2] - ordered[:, 0] > 1]
    a0, b0, a1, b1 = ordered.T
    slope = (b1 - b0) / np.maximum(a1 - a0, 1e-6)
    length = np.hypot(a1 - a0, b1 - b0)
    free = np.ones(len(ordered), bool)
    lines = []
    covered = []
    for i in np.argsort(-length):
        if not free[i]:
            continue
        square = 1 / np.hypot(1, slope[i])  # from the distance along b to the distance from the line
        off0 = np.abs(b0[i] + slope[i] * (a0 - a0[i]) - b0) * square
        off1 = np.abs(b0[i] + slope[i] * (a1 - a0[i]) - b1) * square
        mine = free & (off0 < NEAR_PX) & (off1 < NEAR_PX)
        free &= ~mine
        ends = np.concatenate([a0[mine], a1[mine]])
        values = np.concatenate([b0[mine], b1[mine]])
        weights = np.sqrt(np.tile(length[mine], 2))
        line = np.polyfit(ends, values, 1, w=weights)
        lines.append(np.polyval(line, (start, stop)))
        covered.append(_covered(a0[mine], a1[mine]))
    best = np.argsort(covered)[::-1][:MOST_LINES]
    kept = np.array(lines).reshape(-1, 2)[best]
    return kept[np.argsort(kept.sum(1))]


def _covered(starts: Floats, stops: Floats) -> int:
    """How many whole pixels the intervals cover together."""
    first = int(starts.min())
    pixels = np.zeros(int(stops.max()) - first + 1, bool)
    for start, stop in zip(starts, stops, strict=True):
        pixels[int(start) - first : int(stop) - first + 1] = True
    return int(pixels.sum())


def _homogeneous(lines: Floats, start: float, stop: float) -> Floats:
    """Lines as b at two places -> (n, 3) with l . (a, b, 1) = 0."""
    ones = np.ones(len(lines))
    first = np.stack([ones * start, lines[:, 0], ones], 1)
    last = np.stack([ones * stop, lines[:, 1], ones], 1)
    return np.cross(first, last)
