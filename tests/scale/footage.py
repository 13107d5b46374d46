"""Small videos with what makes segments hard: cuts, repeats, still pictures, times that are not even."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from rallytrace import video
from rallytrace.models import ModelSpec
from rallytrace.types import Frame, Image

from ..networks import brightest_spec, dot_frame

WH = (128, 80)


def small_spec() -> ModelSpec:
    return replace(brightest_spec(), size_wh=WH)


def make_frames(n: int, *, cuts: set[int], repeats: set[int], flashes: Set[int] = frozenset()) -> list[Frame]:
    """A dot flies over a ground that changes at each of `cuts`; pictures of `repeats` are those before them, those of
    `flashes` are white."""
    rng = np.random.default_rng(n)
    frames: list[Frame] = []
    level = 0
    for i in range(n):
        if i in cuts or not i:
            level = 10 if level > 40 or not i else 70
            ground = np.kron(rng.integers(level, level + 40, (WH[1] // 8, WH[0] // 8)), np.ones((8, 8)))
        if i in repeats and i not in cuts and i:
            image: Image = frames[-1].image
        else:
            xy = (10 + 5.3 * i % (WH[0] - 20), 40 + 25 * np.sin(i / 9))
            flicker = rng.integers(-2, 3, WH[::-1])
            image = np.clip(ground + dot_frame(xy, WH, 0) * 0.75 + flicker, 0, 255).astype(np.uint8)
        image = np.full_like(image, 240) if i in flashes else image
        frames.append(Frame(i, 0.25 + i / 30 + 0.004 * (i % 3), image))
    return frames


def write_video(path: Path, frames: list[Frame]) -> Path:
    """As H.264 with times that are not even."""
    with video.VideoWriter(path, WH, Fraction(30), crf=8) as out:
        for frame in frames:
            out.write(video.rgb_to_yuv(np.repeat(frame.image[:, :, None], 3, 2)), frame.pts_s)
    return path
