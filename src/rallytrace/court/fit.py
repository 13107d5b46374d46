"""How well a picture supports a court, and the court that it supports best nearby.

Both look at profiles: the grey levels across each line, at points every few centimetres along it. A painted line is
lighter than both its sides there. A court that is fitted to the stands has a small reprojection error too, but no such
profiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rallytrace.court.camera import project
from rallytrace.court.model import CourtModel, Floats, samples
from rallytrace.errors import need

STEP_M = 0.25  # between profiles along a line
SUB = 0.5  # px between the samples of a profile
LEAST_LIFT = 6.0  # grey levels by which a line is lighter, to be followed
SURE_LIFT = 5.0  # the same for its support, of means over several pixels
LEAST_PROFILES = 30  # fewer cannot fix a court
LEAST_ON_LINE = 4  # profiles in the picture, to speak of a line's support


@dataclass(frozen=True, slots=True, eq=False)
class Profiles:
    """grey: (n, k) levels across the lines at `offsets` (k,) px. inside: (n,) whether all of it is in the picture.

    points: (n, 2) m, at: (n, 2) px, normals: (n, 2) across the line in the picture, which: (n,) the number of the line,
    half_px: (n,) half of the line's width.
    """

    grey: Floats
    offsets: Floats
    inside: NDArray[np.bool_]
    points: Floats
    at: Floats
    normals: Floats
    which: NDArray[np.intp]
    half_px: Floats


def profiles(
    image: Floats, court_to_image: Floats, lines: Floats, line_m: float, reach_px: float, step_m: float = STEP_M
) -> Profiles:
    """The profiles of lines (n, 2, 2) m in a grey picture (h, w): to `reach_px` on both sides, every `step_m`."""
    points, directions, which = samples(lines, step_m)
    at = project(court_to_image, points)
    ahead = project(court_to_image, points + 0.05 * directions) - at
    length = np.maximum(np.hypot(*ahead.T), 1e-9)
    normals = np.stack([-ahead[:, 1], ahead[:, 0]], 1) / length[:, None]
    across = np.stack([-directions[:, 1], directions[:, 0]], 1)
    beside = project(court_to_image, points + 0.5 * line_m * across) - at
    offsets = np.arange(-reach_px, reach_px + SUB / 2, SUB)
    places = at[:, None] + normals[:, None] * offsets[None, :, None]
    height, width = image.shape
    low = places.min(1)
    high = places.max(1)
    inside = (low > 1).all(1) & (high[:, 0] < width - 3) & (high[:, 1] < height - 3)
    grey = np.zeros(places.shape[:2])
    grey[inside] = _bilinear(image, places[inside])
    return Profiles(grey, offsets, inside, points, at, normals, which, np.hypot(*beside.T))


def _bilinear(image: Floats, at: Floats) -> Floats:
    whole = np.floor(at).astype(np.intp)
    x, y = np.moveaxis(whole, -1, 0)
    right, down = np.moveaxis(at - whole, -1, 0)
    top = image[y, x] * (1 - right) + image[y, x + 1] * right
    bottom = image[y + 1, x] * (1 - right) + image[y + 1, x + 1] * right
    return np.asarray(top * (1 - down) + bottom * down)


def refine(
    image: Floats,
    court_to_image: Floats,
    model: CourtModel,
    reach_px: float,
    rounds: int,
    step_m: float = STEP_M,
) -> Floats | None:
    """The court whose lines lie on the nearest light ridges. None where too little of it is seen.

    Gauss-Newton on the distances from line to ridge, far ones counting less; the reach shrinks from round to round.
    """
    fitted: Floats = court_to_image / court_to_image[2, 2]
    for _ in range(rounds):
        found = profiles(image, fitted, model.lines, model.line_m, reach_px, step_m)
        offset, lift = _ridge_offsets(found)
        seen = found.inside & (lift > LEAST_LIFT)
        if seen.sum() < LEAST_PROFILES:
            return None
        trust = seen / (1 + (offset / max(1.5, reach_px / 3)) ** 2)
        moved = _step(fitted, found, offset, trust)
        if moved is None:
            return None
        fitted = moved
        reach_px = max(4.0, 0.7 * reach_px)
    return fitted


def _ridge_offsets(found: Profiles) -> tuple[Floats, Floats]:
    """How far off the lightest ridge of each profile is (n,) px, and its lift (n,) grey levels."""
    cv2 = need("cv2", "analyse")
    smooth = cv2.blur(found.grey, (3, 1))
    count = smooth.shape[1]
    half = np.clip(found.half_px, 1, 4)
    aside = np.clip(np.round((half + 2) / SUB).astype(np.intp), 3, 12)[:, None]
    columns = np.arange(count)[None]
    left = np.take_along_axis(smooth, np.clip(columns - aside, 0, count - 1), 1)
    right = np.take_along_axis(smooth, np.clip(columns + aside, 0, count - 1), 1)
    lift = smooth - np.maximum(left, right)
    lift[:, :4] = -1
    lift[:, -4:] = -1
    best = lift.argmax(1)
    highest = lift.max(1)
    near = np.abs(columns - best[:, None]) <= aside
    weight = np.where(near, np.maximum(lift - 0.3 * highest[:, None], 0), 0)
    offset = (weight * found.offsets).sum(1) / np.maximum(weight.sum(1), 1e-6)
    return offset, highest


def _step(court_to_image: Floats, found: Profiles, offset: Floats, trust: Floats) -> Floats | None:
    """One step of Gauss-Newton over the eight free numbers of a homography; None where they are not determined."""
    x, y = found.points.T
    u, v = found.at.T
    depth = court_to_image[2, 0] * x + court_to_image[2, 1] * y + 1
    one = np.ones_like(x)
    zero = np.zeros_like(x)
    of_u = np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 1) / depth[:, None]
    of_v = np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 1) / depth[:, None]
    slopes = found.normals[:, :1] * of_u + found.normals[:, 1:] * of_v
    scale = np.abs(slopes).mean(0) + 1e-12
    weight = np.sqrt(trust)
    damping = 1e-5 * np.sqrt(len(x)) * np.eye(8)
    left = np.vstack([slopes / scale * weight[:, None], damping])
    right = np.concatenate([offset * weight, np.zeros(8)])
    change = np.linalg.lstsq(left, right, rcond=None)[0] / scale
    moved = np.asarray(court_to_image + np.append(change, 0).reshape(3, 3), np.float64)
    return moved if np.isfinite(moved).all() else None


def line_support(
    image: Floats, court_to_image: Floats, model: CourtModel, step_m: float = STEP_M
) -> tuple[Floats, float]:
    """The share of each line that is lighter than both its sides (n,), NaN where it is not in the picture; of all."""
    found = profiles(image, court_to_image, model.lines, model.line_m, 9.0, step_m)
    light = _is_light(found)
    shares = np.full(len(model.lines), np.nan)
    for number in range(len(model.lines)):
        mine = (found.which == number) & found.inside
        if mine.sum() > LEAST_ON_LINE:
            shares[number] = light[mine].mean()
    return shares, float(light[found.inside].mean()) if found.inside.any() else 0.0


def overrun(image: Floats, court_to_image: Floats, model: CourtModel) -> float:
    """The share of light profiles where the outer lines should have ended. Seats and grids go on there."""
    length_m = 0.1 * model.half_wl[0]
    found = profiles(image, court_to_image, model.beyond, model.line_m, 9.0, length_m / 2)
    return float(_is_light(found)[found.inside].mean()) if found.inside.any() else 0.0


def _is_light(found: Profiles) -> NDArray[np.bool_]:
    """Which profiles are lighter in the middle than on both sides (n,)."""
    half = np.clip(found.half_px, 0.8, 4)[:, None]
    off = found.offsets[None]
    centre = np.abs(off) <= np.maximum(0.7 * half, 0.6)
    left = (off < -half - 1.5) & (off > -half - 4.5)
    right = (off > half + 1.5) & (off < half + 4.5)
    lift = _mean(found.grey, centre) - np.maximum(_mean(found.grey, left), _mean(found.grey, right))
    light: NDArray[np.bool_] = lift > SURE_LIFT
    return light


def _mean(grey: Floats, where: NDArray[np.bool_]) -> Floats:
    return np.asarray((grey * where).sum(1) / np.maximum(where.sum(1), 1))
