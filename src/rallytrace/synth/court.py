"""Where a synthetic rally is played: the options, the courts in metres and the camera that sees them.

World metres: x right, y away from the camera, z up, the net at y = 0. Sources: court dimensions, the BWF Laws of
Badminton and the ITF Rules of Tennis. Drag deceleration is g (v / v_t)^2; the terminal speed v_t of a feather
shuttlecock is 6.8 m/s, of a tennis ball about 22 m/s (drag coefficient 0.55, 57 g, 6.7 cm).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rallytrace.annotate import RGB
from rallytrace.errors import InputError

Floats: TypeAlias = NDArray[np.floating]

BALL_M = 0.035  # radius, of the shuttle's skirt as of a tennis ball


@dataclass(frozen=True, slots=True)
class RallyOptions:
    """What to render. Raises InputError where a value is out of range.

    repeats: every sixth frame repeats the one before, as where 25 pictures a second were broadcast at 30.
    shutter_s: exposure of one frame. noise: sensor noise, standard deviation in grey levels.
    """

    sport: Literal["badminton", "tennis"] = "badminton"
    wh: tuple[int, int] = (1280, 720)
    fps: Fraction = Fraction(30)
    seconds: float = 10.0
    seed: int = 0
    repeats: bool = False
    shutter_s: float = 1 / 100
    noise: float = 1.5

    def __post_init__(self) -> None:
        if self.sport not in SPORTS:
            raise InputError(f"sport must be one of {', '.join(SPORTS)}, got {self.sport!r}")
        if min(self.wh) < 16 or self.fps <= 0 or not 0 < self.seconds < math.inf:
            raise InputError(f"need wh >= 16, fps > 0 and seconds > 0, got {self.wh}, {self.fps}, {self.seconds}")
        if not 0 < self.shutter_s <= 1 / self.fps or not 0 <= self.noise <= 2 or self.seed < 0:
            raise InputError(f"need 0 < shutter_s <= 1/fps, noise 0-2, seed >= 0, got {self}")

    @property
    def n_frames(self) -> int:
        return max(1, round(self.seconds * self.fps))


@dataclass(frozen=True, slots=True)
class Sport:
    """Metres, metres a second, degrees, grey levels. The court is mirrored in both axes."""

    half_wl: tuple[float, float]
    line_m: float
    along: tuple[tuple[float, float, float], ...]  # lines away from the camera: outer x, from y, to y
    across: tuple[tuple[float, float], ...]  # lines across: outer y, to x
    net: tuple[float, float, float]  # half width, bottom, top
    mat_wl: tuple[float, float]  # half size of the coloured floor
    room_wl: tuple[float, float]  # half size of the space between the boards
    boards_m: tuple[float, float]  # height behind the court, at the sides
    banner_m: float  # height of a second row behind
    score_at: tuple[int, int]  # scoreboard's corner at 720p
    cameras: tuple[tuple[float, float, float], tuple[float, float, float]]  # two of: focal px at 720p, height, distance
    baseline_px: float  # of the near baseline below the picture's centre at 720p
    ball_rgb: RGB
    terminal_mps: float
    bounce: tuple[float, float]  # share of the speed that is left: along the floor, upwards
    elevation_deg: tuple[float, float]
    speed_mps: tuple[float, float]
    hit_z: tuple[float, float]
    serve_z: float
    base_y: float
    floors: tuple[tuple[RGB, RGB], ...]  # mat, around it
    light: tuple[float, float]  # fall-off towards the walls, share that reaches the crowd


SPORTS = {
    "badminton": Sport(
        half_wl=(3.05, 6.7),
        line_m=0.04,
        along=((3.05, 0, 6.7), (2.59, 0, 6.7), (0.02, 1.98, 6.7)),
        across=((6.7, 3.05), (5.94, 3.05), (2.02, 3.05)),
        net=(3.05, 0.79, 1.55),
        mat_wl=(4.7, 8.3),
        room_wl=(7.0, 10.0),
        boards_m=(0.8, 0.8),
        banner_m=1.3,
        score_at=(200, 42),
        cameras=((1737, 7.26, 13.8), (1850, 7.5, 15.2)),
        baseline_px=290,
        ball_rgb=(240, 240, 234),
        terminal_mps=6.8,
        bounce=(0.0, 0.0),
        elevation_deg=(-18, 65),
        speed_mps=(5, 75),
        hit_z=(0.35, 2.75),
        serve_z=1.1,
        base_y=3.5,
        floors=(((62, 146, 104), (44, 92, 166)), ((36, 148, 70), (28, 48, 150)), ((66, 146, 150), (34, 70, 120))),
        light=(0.5, 0.3),
    ),
    "tennis": Sport(
        half_wl=(5.485, 11.885),
        line_m=0.05,
        along=((5.485, 0, 11.885), (4.115, 0, 11.885), (0.025, 0, 6.4), (0.025, 11.7, 11.885)),
        across=((11.885, 5.485), (6.4, 4.115)),
        net=(6.4, 0.0, 0.98),
        mat_wl=(5.485, 11.885),
        room_wl=(11.2, 20.0),
        boards_m=(2.4, 1.2),
        banner_m=0.0,
        score_at=(117, 612),
        cameras=((1744, 9.98, 20.6), (2600, 12.4, 33.2)),
        baseline_px=208,
        ball_rgb=(222, 236, 92),
        terminal_mps=22.0,
        bounce=(0.65, 0.75),
        elevation_deg=(-6, 28),
        speed_mps=(16, 48),
        hit_z=(0.5, 1.6),
        serve_z=2.6,
        base_y=12.4,
        floors=(((48, 78, 160), (92, 132, 96)), ((66, 92, 118), (110, 138, 156)), ((192, 98, 62), (182, 90, 58))),
        light=(0.1, 0.8),
    ),
}


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole without distortion at `eye` (metres), looking along +y and `pitch` radians down."""

    focal_px: float
    centre_xy: tuple[float, float]
    eye: tuple[float, float, float]
    pitch: float

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """World points (..., 3) in metres to pixels (..., 2) and pixels per metre (...)."""
        x, y, z = np.moveaxis(points - np.array(self.eye), -1, 0)
        cos, sin = math.cos(self.pitch), math.sin(self.pitch)
        scale = self.focal_px / (y * cos - z * sin)
        down = -y * sin - z * cos
        return np.stack([self.centre_xy[0] + x * scale, self.centre_xy[1] + down * scale], -1), scale

    def rays(self, x: Floats, y: Floats) -> Floats:
        """The world directions (h, w, 3) in which the pixels of columns `x` (w,) and rows `y` (h,) look."""
        u, v = np.meshgrid((x - self.centre_xy[0]) / self.focal_px, (y - self.centre_xy[1]) / self.focal_px)
        cos, sin = math.cos(self.pitch), math.sin(self.pitch)
        return np.stack([u, cos - v * sin, -sin - v * cos], -1)


def place_camera(options: RallyOptions, rng: np.random.Generator) -> Camera:
    sport, (w, h) = SPORTS[options.sport], options.wh
    scale, mix = min(w / 1280, h / 720), rng.uniform()
    focal, height, back = (a + mix * (b - a) for a, b in zip(*sport.cameras, strict=True))
    pitch = math.atan2(height, back) - math.atan2(sport.baseline_px, focal)
    eye = (rng.uniform(-0.4, 0.4), -sport.half_wl[1] - back, height)
    return Camera(focal * scale, ((w - 1) / 2, (h - 1) / 2), eye, pitch)
