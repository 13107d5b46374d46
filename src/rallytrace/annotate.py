"""Draw the ball and its trail on a picture. The core: no IO, numpy only.

Marks are drawn straight on the planes of a `Yuv`, so pixels that no mark covers stay bit-identical and no colour
conversion is paid. A mark is a capsule whose radius and opacity run linearly from one end to the other; its coverage
is half a pixel minus the signed distance to its edge, clipped to [0, 1]. Chroma coverage is the mean of the four luma
coverages that a chroma sample spans, which puts sample (i, j) at luma (2i + 0.5, 2j + 0.5).
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rallytrace.errors import InputError
from rallytrace.trajectory import MAX_SPEED
from rallytrace.types import HLG, PQ, XY, BallPoint, Colours, Image, PointSource, Yuv

Floats: TypeAlias = NDArray[np.float32]
RGB: TypeAlias = tuple[int, int, int]
Plane: TypeAlias = tuple[NDArray[np.uint8], int, float]  # samples, luma pixels per sample side, value to paint
Box: TypeAlias = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, the last two exclusive

KINDS = ("dot", "ring", "comet")
OUTLINE: RGB = (16, 16, 16)
# Kr and Kb by the code of the matrix: BT.709, FCC, BT.601 twice, SMPTE 240M, BT.2020 twice
WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
WHITE = {PQ: 0.58, HLG: 0.75}  # the signal of diffuse white (ITU-R BT.2408)
FAR_PX = 1e6  # beyond it a mark is dropped: float32 could not place its edge to a pixel


@dataclass(frozen=True, slots=True)
class Style:
    """How the ball is marked. Raises InputError where a value is out of range.

    `radius_px` None scales with the picture's height (h / 140). `filled_colour` marks points that were interpolated.
    """

    kind: Literal["dot", "ring", "comet"] = "comet"
    radius_px: float | None = None
    trail_s: float = 0.5
    colour: RGB = (255, 64, 32)
    filled_colour: RGB = (64, 176, 255)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"style must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.radius_px is not None and not 0 < self.radius_px < math.inf:
            raise InputError(f"radius_px must be positive, got {self.radius_px}")
        if not 0 <= self.trail_s < math.inf:
            raise InputError(f"trail must be 0 seconds or more, got {self.trail_s}")
        if not all(0 <= c <= 255 for c in (*self.colour, *self.filled_colour)):
            raise InputError(f"colours must be in 0-255, got {self.colour} and {self.filled_colour}")


class Shape(Protocol):
    """What `paint` can paint."""

    def box(self, wh: tuple[int, int]) -> Box:
        """The pixels that it may touch, inside a picture of `wh`, from even to even (whole chroma samples)."""

    def coverage(self, box: Box) -> Floats:
        """Opacity in [0, 1] of each pixel of `box`, float32 (h, w)."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A capsule from `a` to `b` (pixels): radius and opacity at each end. `band_px` > 0 draws its outline only."""

    a: XY
    b: XY
    radii_px: tuple[float, float]
    opacities: tuple[float, float] = (1.0, 1.0)
    band_px: float = 0.0

    def box(self, wh: tuple[int, int]) -> Box:
        return box_of((self.a, self.b), max(self.radii_px) + self.band_px / 2 + 1, wh)

    def coverage(self, box: Box) -> Floats:
        xs = np.arange(box[0], box[2], dtype=np.float32) - np.float32(self.a[0])
        ys = (np.arange(box[1], box[3], dtype=np.float32) - np.float32(self.a[1]))[:, None]
        dx, dy = np.float32(self.b[0] - self.a[0]), np.float32(self.b[1] - self.a[1])
        ra, rb, oa, ob = (np.float32(v) for v in (*self.radii_px, *self.opacities))
        if dx == dy == 0:
            edge = ra - np.sqrt(xs * xs + ys * ys)
            return oa * _unit(self._band(edge) + 0.5)
        along = _unit((xs * dx + ys * dy) * (1 / (dx * dx + dy * dy)))
        xs, ys = xs - along * dx, ys - along * dy
        edge = ra + along * (rb - ra) - np.sqrt(xs * xs + ys * ys)
        return (oa + along * (ob - oa)) * _unit(self._band(edge) + 0.5)

    def _band(self, edge: Floats) -> Floats:
        return np.float32(self.band_px / 2) - np.abs(edge) if self.band_px else edge


def box_of(points: Sequence[XY], pad_px: float, wh: tuple[int, int]) -> Box:
    """The pixels of a picture of `wh` around `points`, from even to even (whole chroma samples)."""
    xs, ys = zip(*points, strict=True)
    if max(map(abs, xs + ys)) > FAR_PX:
        return 0, 0, 0, 0
    x0, x1 = (min(max(math.floor(v), 0), wh[0]) for v in (min(xs) - pad_px, max(xs) + pad_px + 1))
    y0, y1 = (min(max(math.floor(v), 0), wh[1]) for v in (min(ys) - pad_px, max(ys) + pad_px + 1))
    return x0 & ~1, y0 & ~1, x1 + (x1 & 1), y1 + (y1 & 1)


def _unit(values: Floats) -> Floats:
    """Clip to [0, 1]; on patches this small, faster than np.clip."""
    return np.minimum(np.maximum(values, 0), 1)


def disc(xy: XY, radius_px: float, opacity: float = 1.0) -> Mark:
    """A filled circle around `xy`."""
    return Mark(xy, xy, (radius_px, radius_px), (opacity, opacity))


def ring(xy: XY, radius_px: float, band_px: float, opacity: float = 1.0) -> Mark:
    """A circle around `xy` whose line is `band_px` wide, half of it outside `radius_px`."""
    return Mark(xy, xy, (radius_px, radius_px), (opacity, opacity), band_px)


def paint(planes: Sequence[Plane], marks: Iterable[Shape], wh: tuple[int, int]) -> None:
    """Blend the union of `marks` into `planes`, in place. Where marks overlap, the most opaque counts, once.

    What lies outside the picture of `wh` is cut off.
    """
    boxed = [(box, mark) for mark in marks if (box := mark.box(wh))[0] < box[2] and box[1] < box[3]]
    if not boxed:
        return
    left, top = min(b[0] for b, _ in boxed), min(b[1] for b, _ in boxed)
    right, bottom = max(b[2] for b, _ in boxed), max(b[3] for b, _ in boxed)
    alpha = np.zeros((bottom - top, right - left), np.float32)
    for (x0, y0, x1, y1), mark in boxed:
        patch = alpha[y0 - top : y1 - top, x0 - left : x1 - left]
        np.maximum(patch, mark.coverage((x0, y0, x1, y1)), out=patch)
    for (x0, y0, x1, y1), _ in boxed:
        patch = alpha[y0 - top : y1 - top, x0 - left : x1 - left]
        half = None
        for samples, step, value in planes:
            if step == 2 and half is None:
                half = (patch[::2, ::2] + patch[::2, 1::2] + patch[1::2, ::2] + patch[1::2, 1::2]) * np.float32(0.25)
            _blend(samples[y0 // step : y1 // step, x0 // step : x1 // step], value, patch if half is None else half)
        patch[:] = 0  # boxes overlap: what is blended must not be blended again


def _blend(samples: NDArray[np.uint8], value: float, alpha: Floats) -> None:
    alpha = alpha[: samples.shape[0], : samples.shape[1]]  # an odd size cuts the last row and column
    samples[:] = samples + (np.float32(value) - samples) * alpha + np.float32(0.5)


def yuv_colour(rgb: RGB, full_range: bool, colours: Colours) -> tuple[float, float, float]:
    """8-bit Y, U, V of an RGB colour in a picture of these colours. In high dynamic range white is that of a sheet."""
    kr, kb = WEIGHTS.get(colours.matrix, WEIGHTS[1])
    white = WHITE.get(colours.transfer, 1.0)
    r, g, b = (white * c / 255 for c in rgb)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - luma) / (2 - 2 * kb), (r - luma) / (2 - 2 * kr)
    if full_range:
        return 255 * luma, min(128 + 255 * u, 255.0), min(128 + 255 * v, 255.0)
    return 16 + 219 * luma, 128 + 224 * u, 128 + 224 * v


def _trail_marks(
    points: Sequence[BallPoint], style: Style, radius_px: float, max_speed_px_s: float
) -> dict[RGB, list[Mark]]:
    """One capsule per step between neighbours that both have a ball, thinner and fainter with age, by colour.

    A step that no ball could make is left out: it joins two detections of different things.
    """
    now_s = points[-1].pts_s
    marks: dict[RGB, list[Mark]] = {}
    for old, new in itertools.pairwise(points):
        if old.xy is None or new.xy is None or now_s - old.pts_s > style.trail_s:
            continue
        if math.dist(old.xy, new.xy) > max_speed_px_s * (new.pts_s - old.pts_s):
            continue
        fresh_old, fresh_new = (1 - max(0.0, now_s - p.pts_s) / max(style.trail_s, 1e-9) for p in (old, new))
        radii = tuple(radius_px * (0.1 + 0.5 * f) for f in (fresh_old, fresh_new))
        step = Mark(old.xy, new.xy, (radii[0], radii[1]), (0.85 * fresh_old, 0.85 * fresh_new))
        marks.setdefault(_colour(new, style), []).append(step)
    return marks


def _colour(point: BallPoint, style: Style) -> RGB:
    return style.filled_colour if point.source is PointSource.FILLED else style.colour


def _head_layers(kind: str, xy: XY, radius_px: float, colour: RGB) -> list[tuple[RGB, list[Mark]]]:
    if kind == "dot":
        return [(OUTLINE, [disc(xy, radius_px + max(1.0, 0.25 * radius_px))]), (colour, [disc(xy, radius_px)])]
    radius_px, band_px = 1.8 * radius_px, max(1.2, 0.45 * radius_px)  # the ball stays visible inside
    return [(OUTLINE, [ring(xy, radius_px, 1.7 * band_px, 0.6)]), (colour, [ring(xy, radius_px, band_px)])]


def draw(picture: Yuv, point: BallPoint | None, trail: Sequence[BallPoint], style: Style) -> Yuv:
    """The picture with the ball of this frame marked and, for style "comet", where it came from.

    trail: earlier points, oldest first; those older than `style.trail_s` are left out. It never crosses a point
    without a ball. Returns a new Yuv; the input is untouched. Positions outside the picture are cut off.
    """
    h, w = picture.y.shape
    radius_px = style.radius_px or max(1.5, h / 140)
    layers: list[tuple[RGB, list[Mark]]] = []
    points = [*trail, point] if point else list(trail)
    if style.kind == "comet" and points:
        layers += _trail_marks(points, style, radius_px, MAX_SPEED * math.hypot(w, h)).items()
    if point and point.xy:
        layers += _head_layers(style.kind, point.xy, radius_px, _colour(point, style))
    out = Yuv(picture.y.copy(), picture.u.copy(), picture.v.copy(), picture.full_range, picture.colours)
    for rgb, marks in layers:
        values = yuv_colour(rgb, picture.full_range, picture.colours)
        paint(list(zip((out.y, out.u, out.v), (1, 2, 2), values, strict=True)), marks, (w, h))
    return out


def rgb_planes(image: Image, colour: RGB) -> list[Plane]:
    """The three channels of an RGB image (h, w, 3), for `paint`, which writes into it."""
    return [(image[..., c], 1, float(colour[c])) for c in range(3)]


def draw_rgb(
    image: Image,
    xy: XY,
    kind: Literal["dot", "ring", "cross"] = "ring",
    *,
    colour: RGB = (255, 64, 32),
    radius_px: float = 5.0,
) -> Image:
    """A copy of an RGB image (h, w, 3) with one mark. A cross is upright, its arms `radius_px` long.

    Raises ValueError for an image that is not RGB.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be RGB (h, w, 3), got {image.shape}")
    x, y = xy
    layers = [(colour, [ring(xy, radius_px, max(1.2, 0.25 * radius_px))])]
    if kind == "dot":
        layers = _head_layers(kind, xy, radius_px, colour)
    elif kind == "cross":
        ends = [((x - radius_px, y), (x + radius_px, y)), ((x, y - radius_px), (x, y + radius_px))]
        layers = [(colour, [Mark(a, b, (0.5, 0.5)) for a, b in ends])]
    out = image.copy()
    for rgb, marks in layers:
        paint(rgb_planes(out, rgb), marks, (image.shape[1], image.shape[0]))
    return out


class Trail:
    """Keeps what `draw` needs of the past of a stream: the points of the last `trail_s` seconds."""

    def __init__(self, trail_s: float) -> None:
        self.trail_s = trail_s
        self._points: deque[BallPoint] = deque()

    def push(self, point: BallPoint) -> list[BallPoint]:
        """Add the newest point. Returns the earlier ones that are at most `trail_s` older, oldest first."""
        while self._points and point.pts_s - self._points[0].pts_s > self.trail_s:
            self._points.popleft()
        earlier = list(self._points)
        self._points.append(point)
        return earlier


def contact_sheet(images: Iterable[Image], columns: int) -> Image:
    """RGB images of any sizes in a grid, on black."""
    tiles = list(images) or [np.zeros((128, 192, 3), np.uint8)]
    h, w = (max(tile.shape[axis] for tile in tiles) + 2 for axis in (0, 1))
    sheet = np.zeros((-(-len(tiles) // columns) * h, columns * w, 3), np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * h, i % columns * w
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return sheet
