"""The court in one picture: line pixels, hypotheses of a homography, and the one that the picture supports.

After Farin et al. (2003): two lines across and two along the court fix a homography, whichever lines of the model they
are. All such guesses are made, those that no camera could see are dropped, the rest are scored by how much of the model
lies on light lines, and the best are fitted and judged at full resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rallytrace.court.camera import focal_px, project
from rallytrace.court.fit import STEP_M, line_support, overrun, refine
from rallytrace.court.lines import WORK_WIDTH, Ridges, candidate_lines, find_ridges
from rallytrace.court.model import CourtModel, Floats, court_model, samples
from rallytrace.errors import need
from rallytrace.types import Image

SURE = 0.7  # support from which a court is believed
SURE_LINE = 0.3  # support with which an outer line is there
MOST_OVERRUN = 0.5  # support of what lies behind the ends of the outer lines
FOCAL = (0.6, 8.0)  # of the picture's width
FOCAL_ERROR = 0.25
LEAST_WIDTH = 0.22  # of the picture's, at the near end of the court
LEAST_HEIGHT = 0.15  # of the picture's
ON_LINE = 8  # grey levels of lift
TRIED = 12  # hypotheses that are fitted
DISTINCT_PX = 6.0
CHUNK = 4000


@dataclass(frozen=True, slots=True, eq=False)
class Court:
    """A court that a picture shows. court_to_image: (3, 3), court metres -> source pixels. support: 0 to 1."""

    sport: str
    court_to_image: Floats
    support: float


def find_court(image: Image, sport: str) -> Court | None:
    """The court in a grey picture uint8 (h, w), best a median over a scene. None rather than a wrong one.

    Raises InputError for an unknown sport, MissingDependency without OpenCV.
    """
    model = court_model(sport)
    small, scale = work_image(image)
    ridges = find_ridges(small)
    guesses = _hypotheses(*candidate_lines(ridges), model, (small.shape[1], small.shape[0]))
    best: tuple[float, Floats] | None = None
    for guess in _best(guesses, ridges, model):
        fitted = refine(small.astype(np.float64), guess, model, reach_px=8, rounds=4)
        if fitted is None:
            continue
        score = believe(small.astype(np.float64), fitted, model)
        if best is None or score > best[0]:
            best = score, fitted
    if best is None or best[0] < SURE:
        return None
    return Court(sport, to_source(best[1], scale), best[0])


def work_image(image: Image) -> tuple[Image, float]:
    """The picture at the width in which courts are searched, and source pixels per pixel of it."""
    cv2 = need("cv2", "analyse")
    height, width = image.shape
    size = (WORK_WIDTH, round(height * WORK_WIDTH / width))
    small: Image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small, width / WORK_WIDTH


def to_source(court_to_work: Floats, scale: float) -> Floats:
    """The homography of a work image -> that of the source; pixel centres are at whole numbers in both."""
    shift = (scale - 1) / 2
    up = np.array([[scale, 0, shift], [0, scale, shift], [0, 0, 1]])
    found = up @ court_to_work
    return np.asarray(found / found[2, 2])


def to_work(court_to_image: Floats, scale: float) -> Floats:
    """The inverse of `to_source`."""
    shift = (scale - 1) / 2
    down = np.linalg.inv(np.array([[scale, 0, shift], [0, scale, shift], [0, 0, 1]]))
    found = down @ court_to_image
    return np.asarray(found / found[2, 2])


def believe(image: Floats, court_to_image: Floats, model: CourtModel, step_m: float = STEP_M) -> float:
    """How much speaks for the court, 0 to 1: half the mean over its lines, half that over all of their length.

    0 where more than one outer line is missing (the net may hide one), where the outer lines go on behind the
    corners, and where no camera sees a court so.
    """
    height, width = image.shape
    focal, error = focal_px(court_to_image[None], (width, height))
    if not (FOCAL[0] * width < focal[0] < FOCAL[1] * width and error[0] < FOCAL_ERROR):
        return 0.0
    shares, share = line_support(image, court_to_image, model, step_m)
    outer = shares[model.outer & ~np.isnan(shares)]
    if len(outer) < 2 or (outer < SURE_LINE).sum() > 1:
        return 0.0
    if overrun(image, court_to_image, model) > MOST_OVERRUN:
        return 0.0
    return float(np.nanmean(shares) + share) / 2


def _hypotheses(across: Floats, along: Floats, model: CourtModel, wh: tuple[int, int]) -> Floats:
    """Homographies (n, 3, 3) of court metres to pixels that a camera could see: pairs of lines x pairs of the model."""
    if len(across) < 2 or len(along) < 2 or len(model.along) < 2:
        return np.zeros((0, 3, 3))
    quads = _quads(across, along, wh)
    rectangles = [
        [[1 / (right - left), 0, -left / (right - left)], [0, 1 / (near - far), -far / (near - far)], [0, 0, 1]]
        for far, near in combinations(model.across, 2)
        for left, right in combinations(model.along, 2)
    ]
    guesses = (quads[:, None] @ np.array(rectangles)[None]).reshape(-1, 3, 3)
    width, height = wh
    focal, error = focal_px(guesses, wh)
    guesses = guesses[(focal > FOCAL[0] * width) & (focal < FOCAL[1] * width) & (error < FOCAL_ERROR)]
    corners = project(guesses, model.corners)
    depth = guesses[:, 2, :2] @ model.corners.T + guesses[:, 2, 2:]
    x = corners[..., 0]
    y = corners[..., 1]
    inside = (x > -0.15 * width) & (x < 1.15 * width) & (y > -0.05 * height) & (y < 1.15 * height)
    whole = inside.all(1) & ((depth > 0).all(1) | (depth < 0).all(1))
    large = (x[:, 2] - x[:, 3] > LEAST_WIDTH * width) & (y[:, 2] - y[:, 1] > LEAST_HEIGHT * height)
    return np.asarray(guesses[whole & large])


def _quads(across: Floats, along: Floats, wh: tuple[int, int]) -> Floats:
    """Homographies (n, 3, 3) of the unit square to what two lines across and two along enclose."""
    rows = np.array(list(combinations(range(len(across)), 2)))
    columns = np.array(list(combinations(range(len(along)), 2)))
    row = np.repeat(np.arange(len(rows)), len(columns))
    column = np.tile(np.arange(len(columns)), len(rows))
    far = across[rows[row, 0]]
    near = across[rows[row, 1]]
    left = along[columns[column, 0]]
    right = along[columns[column, 1]]
    far_left = _crossing(far, left)
    far_right = _crossing(far, right)
    near_right = _crossing(near, right)
    near_left = _crossing(near, left)
    width, height = wh
    far_width = far_right[:, 0] - far_left[:, 0]
    near_width = near_right[:, 0] - near_left[:, 0]
    kept = (far_width > 0.03 * width) & (near_width > 0.98 * far_width) & (near_width < 1.6 * width)
    kept &= near_left[:, 1] > far_left[:, 1] + 0.04 * height
    kept &= near_right[:, 1] > far_right[:, 1] + 0.04 * height
    return _from_unit_square(far_left[kept], far_right[kept], near_right[kept], near_left[kept])


def _crossing(a: Floats, b: Floats) -> Floats:
    point = np.cross(a, b)
    depth = np.where(np.abs(point[:, 2]) < 1e-9, 1e-9, point[:, 2])
    return np.asarray(point[:, :2] / depth[:, None])


def _from_unit_square(p00: Floats, p10: Floats, p11: Floats, p01: Floats) -> Floats:
    """Homographies (n, 3, 3) of (0,0), (1,0), (1,1), (0,1) to the four points (n, 2) (Heckbert 1989)."""
    a = p10 - p11
    b = p01 - p11
    c = p00 - p10 + p11 - p01
    depth = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    depth = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    g = (c[:, 0] * b[:, 1] - c[:, 1] * b[:, 0]) / depth
    h = (a[:, 0] * c[:, 1] - a[:, 1] * c[:, 0]) / depth
    found = np.ones((len(p00), 3, 3))
    found[:, :2, 0] = p10 - p00 + g[:, None] * p10
    found[:, :2, 1] = p01 - p00 + h[:, None] * p01
    found[:, :2, 2] = p00
    found[:, 2, 0] = g
    found[:, 2, 1] = h
    return found


def _best(guesses: Floats, ridges: Ridges, model: CourtModel) -> list[Floats]:
    """The hypotheses most of whose lines lie on light ridges, without near copies."""
    cv2 = need("cv2", "analyse")
    points, directions, _ = samples(model.lines, 0.8)
    flat = np.abs(directions[:, 0]) > 0.5
    across = cv2.dilate(ridges.across, np.ones((3, 3))) > ON_LINE
    along = cv2.dilate(ridges.along, np.ones((3, 3))) > ON_LINE
    height, width = across.shape
    scores = np.zeros(len(guesses))
    for start in range(0, len(guesses), CHUNK):
        at = np.round(project(guesses[start : start + CHUNK], points)).astype(np.intp)
        x = np.clip(at[..., 0], 0, width - 1)
        y = np.clip(at[..., 1], 0, height - 1)
        inside = (x == at[..., 0]) & (y == at[..., 1])
        light = np.where(flat, across[y, x], along[y, x])
        scores[start : start + CHUNK] = (light & inside).mean(1)
    chosen: list[Floats] = []
    corners: list[Floats] = []
    for i in np.argsort(-scores)[: 20 * TRIED]:
        mine = project(guesses[i], model.corners)
        if all(np.abs(mine - other).max() >= DISTINCT_PX for other in corners):
            chosen.append(guesses[i])
            corners.append(mine)
        if len(chosen) == TRIED:
            break
    return chosen
