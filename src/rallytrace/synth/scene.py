"""What stands still in a synthetic broadcast: the hall, its lines, boards, net and spectators. Rendered once."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rallytrace.annotate import RGB, Box, Mark, Shape, box_of, paint, rgb_planes
from rallytrace.synth.court import SPORTS, Camera, Floats, RallyOptions, Sport
from rallytrace.types import XY, Image

Vector: TypeAlias = Sequence[float] | Floats
Layer: TypeAlias = tuple[RGB, Sequence[Shape]]

WHITE: RGB = (236, 238, 234)
DARK: RGB = (26, 28, 36)
WORDS = ("RALLYTRACE", "SMASH", "NET CORD", "LET", "OPEN 25")
NAMES = ("DORA C.", "NILO M.", "ARTHY S.", "TOLLE P.", "MIRO H.", "SENNA L.")
BOARDS: tuple[RGB, ...] = ((168, 24, 34), (28, 44, 120), (24, 26, 32), (20, 92, 60), (30, 110, 170))
SHIRTS = ((214, 214, 216), (60, 66, 84), (160, 36, 44), (36, 64, 150), (28, 28, 32), (196, 158, 60), (60, 124, 90))
SKINS = ((224, 178, 148), (188, 136, 102), (120, 80, 60))
LETTERS = "ACDEHILMNOPRSTY. 0123456789"  # each five rows of five bits, a base-32 digit a row
BITS = (
    "ehvhhfgggfuhhhuvgugvhhvhh44444ggggvhrlhhhpljhehhheuhugguhuihfge1uv4444ha4440000c00000"
    "ejlpe4c44eu1egvu161uiiv22vgu1ueguhev1244eheheehf1e"
)
FONT = dict(zip(LETTERS, re.findall("[0-9a-v]{5}", BITS), strict=True))


@dataclass(frozen=True, slots=True)
class Quad:
    """A convex polygon in pixels, its corners in order."""

    corners: list[XY]
    opacity: float = 1.0

    def box(self, wh: tuple[int, int]) -> Box:
        return box_of(self.corners, 1, wh)

    def coverage(self, box: Box) -> NDArray[np.float32]:
        x, y = np.arange(box[0], box[2], dtype=np.float32), np.arange(box[1], box[3], dtype=np.float32)[:, None]
        inside = np.full((y.size, x.size), np.inf, np.float32)
        middle = np.mean(self.corners, 0)
        for (ax, ay), (bx, by) in zip(self.corners, self.corners[1:] + self.corners[:1], strict=True):
            normal = np.array([ay - by, bx - ax]) / max(np.hypot(bx - ax, by - ay), 1e-6)
            normal *= np.sign(normal @ (middle - (ax, ay)))
            across, down = (x - np.float32(ax)) * np.float32(normal[0]), (y - np.float32(ay)) * np.float32(normal[1])
            np.minimum(inside, across + down, out=inside)
        covered: NDArray[np.float32] = np.float32(self.opacity) * np.clip(inside + np.float32(0.5), 0, 1)
        return covered


class Pen:
    """Collects shapes that are given in metres, as `camera` sees them; points and edges are (3,)."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.layers: list[Layer] = []

    def quad(self, colour: RGB, corner: Vector, a: Vector, b: Vector, opacity: float = 1.0) -> None:
        """The parallelogram that the edges `a` and `b` span from `corner`."""
        o, a, b = np.array(corner), np.array(a), np.array(b)
        xy, _ = self.camera.project(np.stack([o, o + a, o + a + b, o + b]))
        self.layers.append((colour, [Quad([(x, y) for x, y in xy.tolist()], opacity)]))

    def bar(self, colour: RGB, a: Vector, b: Vector, *radii_m: float, opacity: float = 1.0) -> None:
        """A round bar with a radius at each end, or one for both."""
        xy, scale = self.camera.project(np.array([a, b]))
        ((ax, ay), (bx, by)), (ra, rb) = xy.tolist(), (scale * radii_m).tolist()
        self.layers.append((colour, [Mark((ax, ay), (bx, by), (ra, rb), (opacity, opacity))]))

    def text(self, colour: RGB, words: str, middle: Vector, right: Vector, up: Vector) -> None:
        """Dotted capitals as high as `up`, each with its gap as wide as 6/5 of `right`."""
        rows = np.array([[int(digit, 32) for digit in FONT[letter]] for letter in words]).T
        lit = np.pad((rows[:, :, None] >> np.arange(4, -1, -1)) & 1, ((0, 0), (0, 0), (0, 1))).reshape(5, -1)
        cells = np.argwhere(lit)
        down, across = (cells - (2, lit.shape[1] / 2 - 1)).T[..., None] / 5
        xy, _ = self.camera.project(np.array(middle) + across * np.array(right) - down * np.array(up))
        at = {(i, j): (x, y) for (i, j), (x, y) in zip(cells.tolist(), xy.tolist(), strict=True)}
        radii = (0.55 * float((np.ptp(xy, 0) / np.ptp(cells, 0)[::-1]).min()),) * 2  # neighbours touch
        near = ((0, 1), (1, 0), (1, 1), (1, -1))
        ends = [(here, at.get((i + di, j + dj), here)) for (i, j), here in at.items() for di, dj in near]
        self.layers.append((colour, [Mark(a, b, radii) for a, b in ends]))

    def person(self, shirt: RGB, skin: RGB, seat: Vector) -> None:
        """Somebody who sits and looks this way: what shows above the knees."""
        x, y, z = seat
        hair = (skin[0] // 6, skin[1] // 7, skin[2] // 7)
        self.bar(shirt, (x, y, z + 0.12), (x, y, z + 0.36), 0.22, 0.17)
        for colour, up in ((hair, 0.64), (skin, 0.58)):
            self.bar(colour, (x, y, z + up), (x, y, z + up), 0.1)


def draw(image: Image, layers: Sequence[Layer]) -> None:
    """Paint layer over layer into an RGB image."""
    for colour, shapes in layers:
        paint(rgb_planes(image, colour), shapes, (image.shape[1], image.shape[0]))


def rgb(colour: Floats) -> RGB:
    """Three numbers as whole grey levels, cut off behind the point."""
    r, g, b = (int(c) for c in colour)
    return r, g, b


@dataclass(frozen=True, slots=True)
class Scene:
    """`stills`: the empty hall without its net, twice: the spectators move a little in between.

    `tiles`: corners of the 16 px squares in which the two differ. `net` is painted over what is behind it.
    `overlay`: where the scoreboard is, in front of everything.
    """

    stills: list[Image]
    tiles: NDArray[np.intp]
    net: list[Layer]
    overlay: tuple[slice, slice]


def build(options: RallyOptions, camera: Camera, rng: np.random.Generator) -> Scene:
    """Render what stands still, in a venue of its own for each state of `rng`."""
    sport, (w, h) = SPORTS[options.sport], options.wh
    floor, boards, (score, overlay) = _floor(sport, camera, rng), _boards(sport, camera, rng), _score(options, rng)
    crowds = _crowds(sport, camera, (w, h), rng)
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j][..., None]
    light = rng.uniform(0.95, 1.05) - 0.12 * (x * x + y * y) + 0.015 * np.sin(9 * x + 3) * np.sin(7 * y)
    stills = []
    for crowd in crowds:
        still = np.zeros((h, w, 3), np.uint8)
        draw(still, [*floor, *crowd, *boards])
        still = np.clip(still * light, 8, 240).astype(np.uint8)
        draw(still, score)
        stills.append(still)
    differ = (stills[0] != stills[1]).any(-1)[: h // 16 * 16, : w // 16 * 16]
    tiles = np.argwhere(differ.reshape(h // 16, 16, w // 16, 16).any((1, 3))) * 16
    net, (half, low, top) = Pen(camera), sport.net
    net.quad(DARK, (-half, 0, low), (2 * half, 0, 0), (0, 0, top - low), 0.36)
    net.bar(WHITE, (-half, 0, top), (half, 0, top), 0.035)
    for x_post in (-half, half):
        net.bar((150, 130, 60), (x_post, 0, 0), (x_post, 0, top), 0.035)
    return Scene(stills, tiles, net.layers, overlay)


def _floor(sport: Sport, camera: Camera, rng: np.random.Generator) -> list[Layer]:
    """The ground with its lines and prints, and the stands without people."""
    pen, word = Pen(camera), str(rng.choice(WORDS[:3]))
    mat, around = sport.floors[rng.integers(len(sport.floors))]
    (rw, rl), (back, side), end, size = sport.room_wl, sport.boards_m, sport.half_wl[1], 0.09 * sport.half_wl[1]
    pen.layers = [(around, [Quad([(-1, -1), (1e4, -1), (1e4, 1e4), (-1, 1e4)])])]
    pen.quad(mat, (*(-v for v in sport.mat_wl), 0), (2 * sport.mat_wl[0], 0, 0), (0, 2 * sport.mat_wl[1], 0))
    for line, i, j in itertools.product(sport.lines, (-1, 1), (-1, 1)):
        for (x0, y0), (x1, y1) in itertools.pairwise(zip(line[::2], line[1::2], strict=True)):
            pen.bar(WHITE, (i * x0, j * y0, 0), (i * x1, j * y1, 0), 0.02)
    for x, y, under, share in (
        (0, -end - size, mat, 0.8),
        (0, -0.17 * end, mat, 0.4),
        (0.86 * rw, -0.4 * end, around, 0.6),
    ):
        tone = rgb(share * np.array(WHITE) + (1 - share) * np.array(under))
        pen.text(tone, word, (x, y, 0), (0.5 * size, 0, 0), (0, size, 0))
    for sign in (-1, 1):
        pen.quad(DARK, (sign * rw, -rl, side), (0, 2 * rl, 0), (26 * sign, 0, 14))
    pen.quad(DARK, (-60, rl, 0), (120, 0, 0), (0, 26, 14 + back))
    return pen.layers


def _boards(sport: Sport, camera: Camera, rng: np.random.Generator) -> list[Layer]:
    """Advertising around the court, line judges in front of it, the umpire beside the net."""
    pen, (rw, rl), (back, side) = Pen(camera), sport.room_wl, sport.boards_m
    ends = (((-rw, rl), (rw, rl), back), ((-rw, -rl), (-rw, rl), side), ((rw, rl), (rw, -rl), side))
    for start, stop, height in ends:
        size, length = 0.38 * min(height, 1.3), math.dist(start, stop)
        n, first, stride = max(1, int(length / (13 * size))), *rng.integers(len(BOARDS), size=2)
        corner, panel = np.array([*start, 0]), np.array([stop[0] - start[0], stop[1] - start[1], 0]) / n
        for k, word in enumerate(np.resize(rng.permutation(WORDS), n)):
            left = corner + k * panel
            pen.quad(BOARDS[(first + k * stride) % len(BOARDS)], left, panel, (0, 0, height))
            pen.text(WHITE, str(word), left + panel / 2 + (0, 0, height / 2), panel * n / length * size, (0, 0, size))
    shirt, chair = SHIRTS[rng.integers(len(SHIRTS))], -sport.net[0] - 1.2
    for dx in (-0.2, 0.2):
        pen.bar(WHITE, (chair + 2 * dx, 0.3, 0), (chair + dx, 0.3, 1.4), 0.04)
    pen.bar(BOARDS[1], (chair, 0.3, 0.8), (chair, 0.3, 1.3), 0.24, 0.2)
    pen.person(shirt, SKINS[0], (chair, 0.3, 1.4))
    for x in np.arange(-1.5, 2) * sport.half_wl[0]:
        pen.bar(DARK, (x, rl - 0.7, 0), (x, rl - 0.7, 0.2), 0.22)
        pen.person(shirt, SKINS[0], (x, rl - 0.7, 0.2))
    return pen.layers


def _crowds(sport: Sport, camera: Camera, wh: tuple[int, int], rng: np.random.Generator) -> list[list[Layer]]:
    """The spectators whom the camera sees, twice: they move a little in between."""
    (rw, rl), (back, side) = sport.room_wl, sport.boards_m
    row, place = (a.ravel() for a in np.mgrid[0:16, -50:50])
    behind = np.stack([place * 0.62, rl + 1.2 + 0.9 * row, back + 0.1 + 0.5 * row], -1)
    y = np.where(abs(place * 0.7) < rl, place * 0.7, np.nan)
    left, right = (np.stack([s * (rw + 0.6 + 0.9 * row), y, side - 0.2 + 0.5 * row], -1) for s in (-1, 1))
    seats = np.concatenate([behind, left, right]) + rng.uniform(-0.12, 0.12, (3 * row.size, 3))
    xy, scale = camera.project(seats)
    seen = (xy > -40).all(1) & (xy < np.array(wh) + 40).all(1) & (rng.uniform(size=len(seats)) < 0.85)
    seats, light = seats[seen][np.argsort(scale[seen])], sport.crowd_light * rng.uniform(0.5, 1.2)  # far ones first
    shirts, skins = (rng.choice(np.array(palette), len(seats)) * light for palette in (SHIRTS, SKINS))
    shirts *= rng.uniform(0.5, 1, (len(seats), 1))
    pens = [Pen(camera), Pen(camera)]
    for pen, sway_m in zip(pens, (0.0, 0.03), strict=True):
        moved = seats + sway_m * rng.uniform(-1, 1, seats.shape)
        for seat, shirt, skin in zip(moved, shirts, skins, strict=True):
            pen.person(rgb(shirt), rgb(skin), seat)
    return [pen.layers for pen in pens]


def _score(options: RallyOptions, rng: np.random.Generator) -> tuple[list[Layer], tuple[slice, slice]]:
    """Two names and scores in the picture's corner, and where."""
    scale = min(options.wh[0] / 1280, options.wh[1] / 720)
    pen = Pen(Camera(scale, (200 * scale, 42 * scale), (0, -1, 0)))  # its plane y = 0 is the picture at 720p
    for colour, x, width in ((WHITE, 0, 210), (BOARDS[0], 0, 34), (DARK, 205, 45)):
        pen.quad(colour, (x, 0, 0), (width, 0, 0), (0, 0, -46))
    for z, name in zip((-12, -34), rng.choice(NAMES, 2, replace=False), strict=True):
        pen.text(DARK, str(name), (46 + 7 * len(name), 0, z), (11.5, 0, 0), (0, 0, 12))
        pen.text(WHITE, str(rng.integers(22)), (228, 0, z), (11.5, 0, 0), (0, 0, 12))
    rows, cols = (slice(round(a * scale), round((a + size) * scale) + 1) for a, size in ((42, 46), (200, 250)))
    return pen.layers, (rows, cols)
