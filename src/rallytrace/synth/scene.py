"""What stands still in a synthetic broadcast: the hall, its lines, boards, net and spectators. Rendered once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rallytrace.annotate import RGB, Mark, disc, paint, rgb_planes
from rallytrace.synth.court import SPORTS, Camera, Floats, RallyOptions, Sport
from rallytrace.types import Image

Shade: TypeAlias = Callable[[Floats, Floats], tuple[Floats, Floats | float]]  # u, v in metres -> rgb (h, w, 3), alpha
XYZ: TypeAlias = tuple[float, float, float]
Wall: TypeAlias = tuple[XYZ, XYZ, XYZ, tuple[float, float]]  # a corner, two unit axes, the size along them in metres
Patch: TypeAlias = tuple[tuple[slice, slice], Floats]  # where, and rgb times alpha, then alpha (h, w, 4)
Layer: TypeAlias = tuple[RGB, list[Mark]]

GROUND = 60.0  # half size of the ground, metres
AXES: tuple[XYZ, XYZ] = ((1, 0, 0), (0, 1, 0))
WHITE: RGB = (236, 238, 234)
DARK: RGB = (26, 28, 36)
WORDS = ("RALLYTRACE", "SMASH", "NET CORD", "LET", "OPEN 25")
NAMES = ("DORA C.", "NILO M.", "ARTHY S.", "TOLLE P.", "MIRO H.", "SENNA L.")
BOARDS = ((168, 24, 34), (28, 44, 120), (24, 26, 32), (20, 92, 60), (30, 110, 170))
SHIRTS = ((214, 214, 216), (60, 66, 84), (160, 36, 44), (36, 64, 150), (28, 28, 32), (196, 158, 60), (60, 124, 90))
SKINS = ((224, 178, 148), (188, 136, 102), (120, 80, 60))
FONT = dict(
    zip(
        "ACDEHILMNOPRSTY. 0123456789",
        "ehvhh fgggf uhhhu vgugv hhvhh 44444 ggggv hrlhh hpljh ehhhe uhugg uhuih fge1u v4444 ha444 0000c 00000 "
        "ejlpe 4c44e u1egv u161u iiv22 vgu1u eguhe v1244 ehehe ehf1e".split(),
        strict=True,
    )
)  # five rows of five bits, each row a base-32 digit


def _tint(rgb: Floats, colour: RGB, cover: Floats) -> None:
    rgb += (np.array(colour, np.float32) - rgb) * cover[..., None]


def _span(x: Floats, low: float, high: float) -> Floats:
    """Share of each pixel's width that lies in [low, high], so that lines thinner than a pixel keep their weight."""
    width = np.hypot(*np.gradient(x)) + 1e-6
    return np.clip((np.minimum(high, x + width / 2) - np.maximum(low, x - width / 2)) / width, 0, 1)


def text(u: Floats, v: Floats, words: str, height: float) -> Floats:
    """Coverage of `words` centred on (0, 0), u to the right and v upwards, in the units of `height`."""
    rows = np.array([[int(digit, 32) for digit in FONT[letter]] for letter in words])
    bits = np.pad(((rows.T[:, :, None] >> np.arange(5, -1, -1)) & 1).reshape(5, -1), 2).astype(np.float32)
    cover = np.zeros_like(u)
    near = (abs(v) < height) & (abs(u) < height * bits.shape[1] / 10)
    x = np.clip(u[near] / height * 5 + bits.shape[1] / 2 - 1, 0, bits.shape[1] - 1.001)
    y = np.clip(bits.shape[0] / 2 - 0.5 - v[near] / height * 5, 0, bits.shape[0] - 1.001)
    i, j = y.astype(int), x.astype(int)
    top, bottom = (bits[k, j] + (bits[k, j + 1] - bits[k, j]) * (x - j) for k in (i, i + 1))
    cover[near] = np.clip((top + (bottom - top) * (y - i) - 0.5) * 3 + 0.5, 0, 1)
    return cover


def _floor(sport: Sport, rng: np.random.Generator) -> Shade:
    """The ground, u and v running from (-GROUND, -GROUND)."""
    mat, around = sport.floors[rng.integers(len(sport.floors))]
    end, size, tone = sport.half_wl[1], 0.09 * sport.half_wl[1], rng.uniform(0.9, 1.05)
    prints = [(0.0, -end - size, 0.9), (0.0, -0.17 * end, 0.5)]
    prints += [(sign * 0.86 * sport.room_wl[0], -0.4 * end, 0.7) for sign in (-1, 1)]
    thick, words = sport.line_m, str(rng.choice(WORDS[:3]))

    def shade(u: Floats, v: Floats) -> tuple[Floats, float]:
        x, y = u - GROUND, v - GROUND
        rgb = np.empty((*x.shape, 3), np.float32)
        rgb[:] = around
        _tint(rgb, mat, _span(abs(x), -9, sport.mat_wl[0]) * _span(abs(y), -9, sport.mat_wl[1]))
        white = np.zeros_like(x)
        for edge, low, high in sport.along:
            white = np.maximum(white, _span(abs(x), edge - thick, edge) * _span(abs(y), low, high))
        for edge, high in sport.across:
            white = np.maximum(white, _span(abs(x), -9, high) * _span(abs(y), edge - thick, edge))
        for x0, y0, opacity in prints:
            white = np.maximum(white, opacity * text((x - x0) * 2, y - y0, words, size))
        _tint(rgb, WHITE, white)
        light = np.clip(1 - sport.light[0] * ((x / 8) ** 2 + (y / 14) ** 2), 0.3, 1)
        return rgb * (tone * light * (0.98 + 0.02 * np.sin(3 * x) * np.sin(y)))[..., None], 1.0

    return shade


def _board(rng: np.random.Generator, height: float) -> Shade:
    size = 0.4 * min(height, 1.3)
    panel, first, stride = 13 * size, rng.integers(len(BOARDS)), rng.integers(2)
    words = [str(w) for w in rng.permutation(WORDS)]

    def shade(u: Floats, v: Floats) -> tuple[Floats, float]:
        index = np.floor(u / panel).astype(int)
        rgb = np.array(BOARDS, np.float32)[(index * stride + first) % len(BOARDS)]
        rgb *= (0.8 + 0.2 * v / height)[..., None]
        for k, word in enumerate(words):
            _tint(rgb, WHITE, (index % len(words) == k) * text(u - (index + 0.5) * panel, v - height / 2, word, size))
        return rgb, 1.0

    return shade


def _plain(u: Floats, v: Floats) -> tuple[Floats, float]:
    return np.full((*u.shape, 3), DARK, np.float32) * (0.4 + 0.3 * (v % 0.8))[..., None], 1.0


def _net(height: float) -> Shade:
    def shade(u: Floats, v: Floats) -> tuple[Floats, Floats]:
        tape = _span(v, height - 0.07, height)
        rgb = np.full((*u.shape, 3), DARK, np.float32)
        _tint(rgb, WHITE, tape)
        return rgb, np.maximum(0.34 + 0.08 * np.sin(u * 40) * np.sin(v * 40), 0.95 * tape)

    return shade


def _surface(camera: Camera, wh: tuple[int, int], wall: Wall, shade: Shade, grid: int = 2) -> Patch:
    """A rectangle in space as the camera sees it, by `grid` x `grid` samples a pixel."""
    corner, u_dir, v_dir, eye = (np.array(p, np.float32) for p in (*wall[:3], camera.eye))
    (width, height), (w, h) = wall[3], wh
    corners = [corner + a * width * u_dir + b * height * v_dir for a in (0, 1) for b in (0, 1)]
    xy, scale = camera.project(np.stack(corners))
    box = np.array([[0, 0], [w, h]])
    if scale.min() > 0:  # else it reaches behind the camera
        box = np.clip([xy.min(0) - 1, xy.max(0) + 2], 0, (w, h)).astype(int)
    (x0, y0), (x1, y1) = box
    total = np.zeros((y1 - y0, x1 - x0, 4), np.float32)
    normal = np.cross(u_dir, v_dir)
    for shift in np.ndindex(grid if total.size else 0, grid):
        dy, dx = ((s + 0.5) / grid - 0.5 for s in shift)
        rays = camera.rays(np.arange(x0, x1, dtype=np.float32) + dx, np.arange(y0, y1, dtype=np.float32) + dy)
        hit = eye - corner + rays * ((corner - eye) @ normal / (rays @ normal))[..., None]
        u, v = hit @ u_dir, hit @ v_dir
        rgb, alpha = shade(u, v)
        alpha = alpha * ((u >= 0) & (u <= width) & (v >= 0) & (v <= height)) / grid**2
        total += np.concatenate([rgb * alpha[..., None], alpha[..., None]], -1)
    return (slice(y0, y1), slice(x0, x1)), total


def _lay(image: Image, patch: Patch) -> None:
    where, rgba = patch
    image[where] = image[where] * (1 - rgba[..., 3:]) + rgba[..., :3] + 0.5


@dataclass(frozen=True, slots=True)
class Scene:
    """`stills`: the empty hall without its net, twice: the spectators move a little in between.

    `tiles`: corners of the 16 px squares in which the two differ. The net lets `net_keep` / 256 of what is behind it
    through and adds `net_light` / 256. `overlay`: the scoreboard, in front of everything.
    """

    stills: list[Image]
    tiles: NDArray[np.intp]
    net_at: tuple[slice, slice]
    net_keep: NDArray[np.uint16]
    net_light: NDArray[np.uint16]
    overlay: tuple[slice, slice]


def build(options: RallyOptions, camera: Camera, rng: np.random.Generator) -> Scene:
    """Render what stands still, in a venue of its own for each state of `rng`."""
    sport, (w, h) = SPORTS[options.sport], options.wh
    (rw, rl), (back, side), half = sport.room_wl, sport.boards_m, sport.net[0]
    base = np.zeros((h, w, 3), np.uint8)
    stands = [((-GROUND, rl, back), (1, 0, 0), (0, 0.87, 0.5), (2 * GROUND, 30))]
    stands += [((sign * rw, -rl, side), (0, 1, 0), (sign * 0.87, 0, 0.5), (2 * rl, 30)) for sign in (-1, 1)]
    _lay(base, _surface(camera, (w, h), ((-GROUND, -GROUND, 0), *AXES, (2 * GROUND,) * 2), _floor(sport, rng), 1))
    for stand in stands:
        _lay(base, _surface(camera, (w, h), stand, _plain, 1))
    walls = [
        ((-rw, rl, 0), (1, 0, 0), (0, 0, 1), (2 * rw, back)),
        ((-rw, -rl, 0), (0, 1, 0), (0, 0, 1), (2 * rl, side)),
    ]
    walls += [((rw, rl, 0), (0, -1, 0), (0, 0, 1), (2 * rl, side))]
    if sport.banner_m:
        walls.insert(0, ((-5, rl + 1.2, back + 0.3), (1, 0, 0), (0, 0, 1), (10, sport.banner_m)))
    boards = [_surface(camera, (w, h), wall, _board(rng, wall[3][1])) for wall in walls]
    stills, crowd = [], _crowd(sport, camera, (w, h), rng)
    for sway in (0.0, 0.03):
        still = base.copy()
        for seat, shirt, skin in crowd:
            draw(still, person(camera, seat + sway * rng.uniform(-1, 1, 3), shirt, skin))
        for board in boards:
            _lay(still, board)
        stills.append(still)
    overlay = _furnish(stills, options, camera, rng)
    differ = (stills[0] != stills[1]).any(-1)[: h // 16 * 16, : w // 16 * 16]
    tiles = np.argwhere(differ.reshape(h // 16, 16, w // 16, 16).any((1, 3))) * 16
    net = ((-half, 0, sport.net[1]), (1, 0, 0), (0, 0, 1), (2 * half, sport.net[2] - sport.net[1]))
    net_at, rgba = _surface(camera, (w, h), net, _net(net[3][1]))
    keep, light = ((256 * part).astype(np.uint16) for part in (1 - rgba[..., 3:], rgba[..., :3]))
    return Scene([np.clip(s, 8, 240) for s in stills], tiles, net_at, keep, light, overlay)


def _crowd(
    sport: Sport, camera: Camera, wh: tuple[int, int], rng: np.random.Generator
) -> list[tuple[Floats, RGB, RGB]]:
    """Seat (3,), shirt and skin of each spectator whom the camera sees, the farthest first."""
    (rw, rl), (back, side) = sport.room_wl, sport.boards_m
    row, place = (a.ravel() for a in np.mgrid[0:16, -50:50])
    behind = np.stack([place * 0.62, rl + 1.8 + 0.9 * row, back + 0.1 + 0.5 * row], -1)
    seats = [behind]
    for sign in (-1, 1):
        x, y = sign * (rw + 0.6 + 0.9 * row), np.where(abs(place * 0.7) < rl, place * 0.7, np.nan)
        seats.append(np.stack([x, y, side - 0.2 + 0.5 * row], -1))
    seat = np.concatenate(seats)
    seat = seat + rng.uniform(-0.12, 0.12, seat.shape)
    xy, scale = camera.project(seat)
    seen = (xy > -40).all(1) & (xy < np.array(wh) + 40).all(1) & (rng.uniform(size=len(seat)) < 0.85)
    seat, gain = seat[seen][np.argsort(scale[seen])], sport.light[1] * rng.uniform(0.5, 1.2)
    shirts, skins = (rng.choice(np.array(p), len(seat)) * gain for p in (SHIRTS, SKINS))
    shirts *= rng.uniform(0.5, 1, (len(seat), 1))
    return [(at, _rgb(shirt), _rgb(skin)) for at, shirt, skin in zip(seat, shirts, skins, strict=True)]


def _rgb(colour: Floats) -> RGB:
    r, g, b = (int(c) for c in colour)
    return r, g, b


def person(camera: Camera, seat: Floats, shirt: RGB, skin: RGB) -> list[Layer]:
    """Somebody who sits and looks this way: what shows above the knees. seat (3,) metres."""
    (low, high, head), (scale, _, _) = camera.project(seat + np.array([[0, 0, 0.12], [0, 0, 0.36], [0, 0, 0.62]]))
    body = Mark((low[0], low[1]), (high[0], high[1]), (0.22 * scale, 0.17 * scale))
    hair, face = (disc((head[0], head[1] + dy * scale), 0.1 * scale) for dy in (-0.04, 0.02))
    return [(shirt, [body]), ((skin[0] // 6, skin[1] // 7, skin[2] // 7), [hair]), (skin, [face])]


def draw(image: Image, layers: list[Layer]) -> None:
    """Paint layer over layer into an RGB image."""
    for colour, marks in layers:
        paint(rgb_planes(image, colour), marks, (image.shape[1], image.shape[0]))


def _furnish(
    stills: list[Image], options: RallyOptions, camera: Camera, rng: np.random.Generator
) -> tuple[slice, slice]:
    """Umpire, line judges, posts and the scoreboard. Returns where the scoreboard lies."""
    sport, half = SPORTS[options.sport], SPORTS[options.sport].net[0]
    shirt, skin = SHIRTS[rng.integers(len(SHIRTS))], SKINS[0]
    judges = [(x * sport.half_wl[0], sport.room_wl[1] - 0.7, 0.4) for x in (-1.3, -0.7, 0, 0.7, 1.3)]
    layers = [_pole(camera, (x, y, 0), (x, y, 0.4), 0.2, DARK) for x, y, _ in judges]
    layers += [_pole(camera, (-half - 1.2, 0.3, 0), (-half - 1.2, 0.3, 1.5), 0.3, BOARDS[rng.integers(len(BOARDS))])]
    for seat in [*judges, (-half - 1.2, 0.3, 1.6)]:
        layers += person(camera, np.array(seat), shirt, skin)
    layers += [_pole(camera, (x, 0, 0), (x, 0, sport.net[2]), 0.035, (150, 130, 60)) for x in (-half, half)]
    scale = min(options.wh[0] / 1280, options.wh[1] / 720)
    x0, y0 = (round(scale * v) for v in sport.score_at)
    where = slice(y0, y0 + round(46 * scale)), slice(x0, x0 + round(250 * scale))
    names = rng.choice(NAMES, 2, replace=False)
    v, u = np.mgrid[where].astype(np.float32)
    board = np.full((*u.shape, 3), (218, 220, 222), np.float32)
    _tint(board, DARK, (u > x0 + 205 * scale).astype(np.float32))
    for row, name in enumerate(names):
        y = (12 + 22 * row) * scale + y0
        _tint(board, DARK, text(u - x0 - 90 * scale, y - v, str(name), 11 * scale))
        _tint(board, WHITE, text(u - x0 - 228 * scale, y - v, str(rng.integers(22)), 11 * scale))
    for still in stills:
        draw(still, layers)
        still[where] = board
    return where


def _pole(camera: Camera, low: XYZ, high: XYZ, radius_m: float, colour: RGB) -> Layer:
    (a, b), (scale, _) = camera.project(np.array([low, high]))
    return colour, [Mark((a[0], a[1]), (b[0], b[1]), (radius_m * scale, radius_m * scale))]
