"""Where a synthetic rally is played: the options, the courts in metres and the camera that sees them.

World metres: x right, y away from the camera, z up, the net at y = 0. Sources: court dimensions, the BWF Laws of
Badminton and the ITF Rules of Tennis. Drag deceleration is g (v / v_t)^2; the terminal speed v_t of a feather
shuttlecock is 6.8 m/s, of a tennis ball about 22 m/s (drag coefficient 0.55, 57 g, 6.7 cm).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rallytrace.annotate import RGB
from rallytrace.errors import InputError

Floats: TypeAlias = NDArray[np.floating[Any]]

BALL_M = 0.035  # radius, of the shuttle's skirt as of a tennis ball


SHUTTER_S = 1 / 100


@dataclass(frozen=True, slots=True)
class RallyOptions:
    """What to render. Raises InputError where a value is out of range.

    repeats: every sixth frame repeats the one before, as where 25 pictures a second were broadcast at 30.
    shutter_s: exposure of one frame; SHUTTER_S when None, or all of its time where that is shorter. noise: of the
    sensor, standard deviation in grey levels.
    """

    sport: Literal["badminton", "tennis"] = "badminton"
    wh: tuple[int, int] = (1280, 720)
    fps: Fraction = Fraction(30)
    seconds: float = 10.0
    seed: int = 0
    repeats: bool = False
    shutter_s: float | None = None
    noise: float = 1.5

    def __post_init__(self) -> None:
        if self.sport not in SPORTS:
            raise InputError(f"sport must be one of {', '.join(SPORTS)}, got {self.sport!r}")
        if min(self.wh) < 16:
            raise InputError(f"wh must be 16 or more each way, got {self.wh[0]}x{self.wh[1]}")
        if self.fps <= 0 or not 0 < self.seconds < math.inf:
            raise InputError(f"fps and seconds must be above 0, got fps {self.fps} and seconds {self.seconds:g}")
        if self.seed < 0:
            raise InputError(f"seed must be 0 or more, got {self.seed}")
        if not 0 < self.exposure_s <= 1 / self.fps:
            raise InputError(
                f"shutter_s must be above 0 and at most 1 / fps, got {self.exposure_s:g} at fps {self.fps}"
            )
        if not 0 <= self.noise <= 2:
            raise InputError(f"noise must be from 0 to 2, got {self.noise:g}")

    @property
    def exposure_s(self) -> float:
        """Of each frame."""
        if self.shutter_s is not None:
            return self.shutter_s
        whole_s = float(1 / self.fps)
        return SHUTTER_S if whole_s > SHUTTER_S else math.nextafter(whole_s, 0)

    @property
    def n_frames(self) -> int:
        return max(1, round(self.seconds * self.fps))


@dataclass(frozen=True, slots=True)
class Sport:
    """Metres, metres a second, degrees, grey levels. A court is mirrored in both axes: one quarter is given."""

    half_wl: tuple[float, float]
    lines: tuple[tuple[float, ...], ...]  # each from x, y to x, y to ...
    net: tuple[float, float, float]  # half width, bottom, top
    mat_wl: tuple[float, float]  # half size of the coloured floor
    room_wl: tuple[float, float]  # half size of the space between the boards
    boards_m: tuple[float, float]  # height behind the court, at the sides
    camera: tuple[float, float, float]  # focal length in pixels at 720p, height, distance from the baseline
    baseline_px: float  # of the near baseline below the picture's centre at 720p
    ball_rgb: RGB
    terminal_mps: float
    bounce: tuple[float, float]  # share of the speed that is left: along the floor, upwards
    elevation_deg: tuple[float, float]  # of shots
    speed_mps: tuple[float, float]
    hit_z: tuple[float, float]
    serve_z: float
    base_y: float  # where a player waits
    floors: tuple[tuple[RGB, RGB], ...]  # mat, around it
    crowd_light: float


SPORTS = {
    "badminton": Sport(
        half_wl=(3.05, 6.7),
        lines=((0, 6.68, 3.03, 6.68, 3.03, 0), (2.57, 0, 2.57, 6.7), (0, 5.92, 3.05, 5.92), (0, 6.7, 0, 2, 3.05, 2)),
        net=(3.05, 0.79, 1.55),
        mat_wl=(4.7, 8.3),
        room_wl=(7.0, 10.0),
        boards_m=(1.1, 0.8),
        camera=(1737, 7.26, 13.8),
        baseline_px=290,
        ball_rgb=(240, 240, 234),
        terminal_mps=6.8,
        bounce=(0.0, 0.0),
        elevation_deg=(-18, 65),
        speed_mps=(5, 70),
        hit_z=(0.35, 2.75),
        serve_z=1.1,
        base_y=3.5,
        floors=(((76, 168, 118), (54, 106, 184)), ((48, 166, 84), (36, 60, 170)), ((84, 172, 178), (40, 84, 140))),
        crowd_light=0.3,
    ),
    "tennis": Sport(
        half_wl=(5.485, 11.885),
        lines=((0, 11.6, 0, 11.86, 5.46, 11.86, 5.46, 0), (4.09, 0, 4.09, 11.88), (0, 0, 0, 6.38, 4.11, 6.38)),
        net=(6.4, 0.0, 0.98),
        mat_wl=(5.485, 11.885),
        room_wl=(11.2, 20.0),
        boards_m=(2.4, 1.2),
        camera=(1744, 9.98, 20.6),
        baseline_px=208,
        ball_rgb=(222, 236, 92),
        terminal_mps=22.0,
        bounce=(0.65, 0.75),
        elevation_deg=(-6, 28),
        speed_mps=(16, 48),
        hit_z=(0.5, 1.6),
        serve_z=2.6,
        base_y=12.4,
        floors=(((52, 84, 172), (110, 146, 106)), ((70, 98, 126), (124, 154, 174)), ((206, 108, 70), (196, 98, 64))),
        crowd_light=0.8,
    ),
}


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole without distortion at `eye` (metres), looking along +y and `pitch` radians down."""

    focal_px: float
    centre_xy: tuple[float, float]
    eye: tuple[float, float, float]
    pitch: float = 0.0

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """World points (..., 3) in metres to pixels (..., 2) and pixels per metre (...)."""
        x, y, z = np.moveaxis(points - np.array(self.eye), -1, 0)
        cos, sin = math.cos(self.pitch), math.sin(self.pitch)
        scale = self.focal_px / (y * cos - z * sin)
        down = -y * sin - z * cos
        return np.stack([self.centre_xy[0] + x * scale, self.centre_xy[1] + down * scale], -1), scale


def place_camera(options: RallyOptions, rng: np.random.Generator) -> Camera:
    """Behind the near baseline, high up: where broadcasters put theirs, a little different each time."""
    sport, (w, h) = SPORTS[options.sport], options.wh
    scale, zoom = min(w / 1280, h / 720), rng.uniform(1, 1.2)
    focal, height, back = sport.camera[0] * zoom, sport.camera[1] * zoom**0.5, sport.camera[2] * zoom
    pitch = math.atan2(height, back) - math.atan2(sport.baseline_px, focal)
    eye = (rng.uniform(-0.4, 0.4), -sport.half_wl[1] - back, height)
    return Camera(focal * scale, ((w - 1) / 2, (h - 1) / 2), eye, pitch)
