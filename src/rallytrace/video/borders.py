"""Black borders around a picture: letterbox, pillarbox or both, found in pictures from all over a video."""

from __future__ import annotations

import numpy as np

from rallytrace.types import Box, Image

BLACK = 16  # grey levels of 255 that a border stays under
NOISE = 3  # grey levels that coding may add to a border; what is brighter is picture
STRAY = 0.002  # of a border's line may be brighter
EDGE = 0.25  # of a line must be, where the picture begins
SOFT = 8  # lines that an edge may be blurred over
LEAST = 0.02  # of a side: narrower borders cost nothing
DARK = 60  # of 255: a picture whose brightest tenth stays under it says nothing


class Borders:
    """Pictures in; out comes the part that is not always black, where the rest is bars.

    Bars are straight, black in every picture and on both sides alike, at most twice as wide on one. So a night scene
    has none, whose sky ends where the lights begin, nor has a fade from black, once a brighter picture is seen.
    """

    def __init__(self) -> None:
        self._most: Image | None = None  # the brightest that each pixel was

    def push(self, image: Image) -> bool:
        """A grey picture, uint8 (h, w). Returns whether there can be a border still."""
        fits = self._most is not None and self._most.shape == image.shape
        self._most = np.maximum(self._most, image) if fits and self._most is not None else image.copy()
        return any(self._is_black_outside(axis) for axis in (0, 1))

    def _is_black_outside(self, axis: int) -> bool:
        assert self._most is not None
        lines = np.moveaxis(self._most, axis, 0)
        width = max(1, int(LEAST * len(lines)) - SOFT)
        return all(float((side > BLACK).mean()) <= STRAY for side in (lines[:width], lines[-width:]))

    @property
    def box(self) -> Box | None:
        """The picture alone; None where there are no borders, or nothing to tell them by."""
        if self._most is None:
            return None
        h, w = self._most.shape
        top, bottom = _bars(self._most)
        left, right = _bars(self._most[top : h - bottom].T)
        top, bottom = _bars(self._most[:, left : w - right])
        box = Box(left, top, w - left - right, h - top - bottom)
        inside = self._most[box.y : box.y + box.h, box.x : box.x + box.w]
        return None if box.wh == (w, h) or np.percentile(inside, 90) < DARK else box


def _bars(most: Image) -> tuple[int, int]:
    """How many lines the bars above and below have; 0 and 0 where those are no bars."""
    level = max(float(np.median(line)) for line in (most[0], most[-1]))
    lit = (most > level + NOISE).mean(1)
    picture = np.flatnonzero(lit >= EDGE)
    if level > BLACK or not len(picture):
        return 0, 0
    first, last = int(picture[0]), len(lit) - 1 - int(picture[-1])
    outside = np.concatenate([lit[: max(0, first - SOFT)], lit[len(lit) - max(0, last - SOFT) :]])
    narrow, wide = sorted((first, last))
    if narrow < LEAST * len(lit) or 2 * narrow < wide or (len(outside) and outside.max() > STRAY):
        return 0, 0
    return first, last
