"""The values that travel between the hops. All are frozen and check themselves at birth.

Coordinates `xy` are source pixels: float, x right, y down, (0, 0) is the centre of the top-left pixel of the
upright picture. Times `pts_s` are seconds of presentation time as the stream states them. "No ball" is `xy=None`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rallytrace.errors import InputError

Image: TypeAlias = NDArray[np.uint8]  # (h, w) grey or (h, w, 3) RGB
XY: TypeAlias = tuple[float, float]


def is_whole(value: object, least: int) -> bool:
    """Whether it is a whole number, Python's or numpy's, of at least that."""
    return isinstance(value, int | np.integer) and bool(value >= least)


def check_wh(name: str, wh: object) -> None:
    """Raises InputError, with `name` in it, for what is no width and height in whole pixels."""
    is_pair = isinstance(wh, (tuple, list)) and len(wh) == 2
    if not is_pair or not all(is_whole(side, 1) for side in wh):  # type: ignore[attr-defined]
        raise InputError(f"{name} must be positive: two whole numbers of pixels, (width, height), got {wh!r}")


class Visibility(IntEnum):
    """TrackNet's four classes of a labelled frame; an unlabelled frame has no label at all."""

    ABSENT = 0
    CLEAR = 1
    HARD = 2
    OCCLUDED = 3


class PointSource(StrEnum):
    """Where the position of a `BallPoint` comes from."""

    MODEL = "model"  # measured on the frame, or on the frame that it repeats
    FILLED = "filled"  # interpolated between measured neighbours
    NONE = "none"  # no ball found


class Box(NamedTuple):
    """A part of a picture, px: where its top-left pixel lies, and its size."""

    x: int
    y: int
    w: int
    h: int

    @property
    def wh(self) -> tuple[int, int]:
        return self.w, self.h


@dataclass(frozen=True, slots=True)
class Colours:
    """What the numbers of a picture stand for, in the codes of ITU-T H.273, which FFmpeg has too; 2 is "not said"."""

    matrix: int = 2
    primaries: int = 2
    transfer: int = 2

    @classmethod
    def of_size(cls, wh: tuple[int, int]) -> Self:
        """What to take where nothing is said: BT.709 for HD, BT.601 below, as players do."""
        code = 1 if max(wh) >= 1280 or min(wh) > 576 else 6
        return cls(code, code, code)

    @property
    def is_coded(self) -> bool:
        """Whether primaries or transfer are said."""
        return (self.primaries, self.transfer) != (2, 2)

    @property
    def hdr(self) -> str | None:
        """The name of the transfer where it is one of high dynamic range."""
        return {PQ: "PQ", HLG: "HLG"}.get(self.transfer)


PQ = 16  # transfers of BT.2100
HLG = 18
NOT_SAID = Colours()


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What `video.probe` finds. `wh` is the upright size, after the rotation metadata is applied."""

    path: str
    wh: tuple[int, int]
    fps: Fraction
    n_frames: int | None  # None: unknown without decoding (streams, some containers)
    duration_s: float | None
    start_s: float
    codec: str
    pixel_format: str
    rotation_deg: int
    has_audio: bool
    is_live: bool
    pixel_aspect: Fraction = Fraction(1)  # width to height of an upright pixel, other than 1 in anamorphic video
    colours: Colours = NOT_SAID
    interlaced: Literal["frame", "field"] | None = None  # what each picture is made of, where the source is interlaced
    picture: Box | None = None  # what is not black borders, where `VideoReader.find_picture` found some

    def __post_init__(self) -> None:
        check_wh("wh", self.wh)
        if self.fps <= 0:
            raise ValueError(f"fps must be positive, got {self.fps}")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Yuv:
    """An upright 8-bit 4:2:0 picture at source size: `y` (h, w), `u` and `v` (ceil(h/2), ceil(w/2)).

    colours: where they are not said, those of the size.
    """

    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]
    full_range: bool = False
    colours: Colours = NOT_SAID

    def __post_init__(self) -> None:
        h, w = self.y.shape
        if self.colours == NOT_SAID:
            object.__setattr__(self, "colours", Colours.of_size((w, h)))
        half = ((h + 1) // 2, (w + 1) // 2)
        if self.u.shape != half or self.v.shape != half:
            raise ValueError(f"chroma planes must be {half}, got {self.u.shape} and {self.v.shape}")

    def __repr__(self) -> str:
        return f"Yuv(y={self.y.shape}, full_range={self.full_range})"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Frame:
    """The `index`-th picture in presentation order. `image` is at the size that the reader was asked for."""

    index: int
    pts_s: float
    image: Image
    picture: Yuv | None = None  # the source-size picture, where the reader was asked to keep it

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ValueError(f"frame index must be >= 0, got {self.index}")
        if not math.isfinite(self.pts_s):
            raise ValueError(f"pts_s must be a finite number of seconds, got {self.pts_s}")
        if not isinstance(self.image, np.ndarray):
            raise ValueError(f"image must be an array, uint8 (h, w) or (h, w, 3), got {type(self.image).__name__}")
        if self.image.dtype != np.uint8 or self.image.ndim not in (2, 3):
            raise ValueError(f"image must be uint8 (h, w) or (h, w, 3), got {self.image.dtype} {self.image.shape}")

    def __repr__(self) -> str:
        return f"Frame(index={self.index}, pts_s={self.pts_s:.3f}, image={self.image.shape})"


def _check_xy(xy: XY | None) -> None:
    if xy is not None and not (math.isfinite(xy[0]) and math.isfinite(xy[1])):
        raise ValueError(f"xy must be finite source pixels or None, got {xy}")


@dataclass(frozen=True, slots=True)
class BallLabel:
    """What an annotator said of one frame: absent (`xy is None`) or located."""

    frame: int
    xy: XY | None
    visibility: Visibility = Visibility.CLEAR

    def __post_init__(self) -> None:
        _check_xy(self.xy)
        if (self.xy is None) != (self.visibility is Visibility.ABSENT):
            raise ValueError(f"frame {self.frame}: visibility {self.visibility.name} does not fit xy={self.xy}")


@dataclass(frozen=True, slots=True)
class BallPoint:
    """What the tracker says of one frame. `score` in [0, 1] is the heatmap's peak, kept also where no ball is found."""

    frame: int
    pts_s: float
    xy: XY | None
    score: float
    source: PointSource = PointSource.MODEL

    def __post_init__(self) -> None:
        _check_xy(self.xy)
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score must be in [0, 1], got {self.score}")
        if (self.xy is None) != (self.source is PointSource.NONE):
            raise ValueError(f"frame {self.frame}: source {self.source.value} does not fit xy={self.xy}")


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled video. `labels` maps a frame index to its label; an unlabelled frame has no entry.

    `match` is what a split must never cut: the venue, match or event that the clip was taken from. `sha256`: of the
    video file in hex, where it is known and to be checked.
    """

    name: str
    video: Path
    labels: dict[int, BallLabel]
    match: str
    sport: str
    split: str
    sha256: str = ""

    def __repr__(self) -> str:
        return f"Clip({self.name!r}, match={self.match!r}, split={self.split!r}, labels={len(self.labels)})"
