"""THE pixel convention, and the only road between source pixels and model pixels.

(0, 0) is the centre of the top-left pixel, so a picture of width w spans [-0.5, w - 0.5]. Resizing by `scale` maps
`x -> (x + 0.5) * scale - 0.5`, which is what swscale's area and bilinear filters do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from rallytrace.errors import InputError
from rallytrace.types import XY, Box, Image, check_wh


@dataclass(frozen=True, slots=True)
class FrameTransform:
    """Source pixels <-> model pixels. The picture fills the top-left `content_wh` of a canvas of `canvas_wh`.

    The picture keeps its aspect (to a model pixel): the rest of the canvas is padding on the right and below, so that
    4:3, portrait and odd-sized videos are not distorted. In a source with black borders the picture is what is within
    them: source_wh is its size then, origin_xy where it begins. Positions are those of the whole source all the same.
    """

    source_wh: tuple[int, int]
    content_wh: tuple[int, int]
    canvas_wh: tuple[int, int]
    origin_xy: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for name in ("source_wh", "content_wh", "canvas_wh"):
            check_wh(name, getattr(self, name))
        if self.content_wh[0] > self.canvas_wh[0] or self.content_wh[1] > self.canvas_wh[1]:
            raise ValueError(f"content_wh {self.content_wh} does not fit into canvas_wh {self.canvas_wh}")

    @classmethod
    def fit_area(cls, source_wh: tuple[int, int], model_wh: tuple[int, int], multiple: int = 16) -> Self:
        """The canvas with the source's aspect and about as many pixels as `model_wh`, a `multiple` on each side."""
        check_wh("source_wh", source_wh)
        scale = math.sqrt(model_wh[0] * model_wh[1] / (source_wh[0] * source_wh[1]))
        content = (max(1, round(source_wh[0] * scale)), max(1, round(source_wh[1] * scale)))
        canvas = (-(-content[0] // multiple) * multiple, -(-content[1] // multiple) * multiple)
        return cls(source_wh, content, canvas)

    @classmethod
    def fit_inside(cls, source_wh: tuple[int, int], model_wh: tuple[int, int]) -> Self:
        """Exactly the canvas `model_wh`, the picture as large as fits (networks of one fixed size)."""
        check_wh("source_wh", source_wh)
        scale = min(model_wh[0] / source_wh[0], model_wh[1] / source_wh[1])
        content = (max(1, round(source_wh[0] * scale)), max(1, round(source_wh[1] * scale)))
        return cls(source_wh, content, model_wh)

    @classmethod
    def fit_picture(
        cls, source_wh: tuple[int, int], picture: Box | None, model_wh: tuple[int, int], multiple: int
    ) -> Self:
        """`fit_area` of that part of the source; of the whole where it is None."""
        if picture is None:
            return cls.fit_area(source_wh, model_wh, multiple)
        return replace(cls.fit_area(picture.wh, model_wh, multiple), origin_xy=(picture.x, picture.y))

    @property
    def box(self) -> Box:
        """Where the picture is in the source."""
        return Box(*self.origin_xy, *self.source_wh)

    @property
    def scale_xy(self) -> tuple[float, float]:
        return self.content_wh[0] / self.source_wh[0], self.content_wh[1] / self.source_wh[1]

    def to_model(self, xy: XY) -> XY:
        sx, sy = self.scale_xy
        x0, y0 = self.origin_xy
        return (xy[0] - x0 + 0.5) * sx - 0.5, (xy[1] - y0 + 0.5) * sy - 0.5

    def to_source(self, xy: XY) -> XY:
        sx, sy = self.scale_xy
        x0, y0 = self.origin_xy
        return (xy[0] + 0.5) / sx - 0.5 + x0, (xy[1] + 0.5) / sy - 0.5 + y0

    def pad(self, image: Image) -> Image:
        """`image` (content h, w[, 3]) on the canvas, in memory of its own: whoever owns `image` may use it again.

        The padding is black, as outside a broadcast's picture. Raises InputError for another size.
        """
        cw, ch = self.canvas_wh
        h, w = image.shape[:2]
        if (w, h) != self.content_wh:
            raise InputError(f"image must be {self.content_wh} wide and high, got {(w, h)}: resize it to content_wh")
        if (w, h) == (cw, ch):
            return image.copy()
        return np.pad(image, ((0, ch - h), (0, cw - w), *(((0, 0),) * (image.ndim - 2))))


def flip_x(xy: XY, width_px: int) -> XY:
    """Where `xy` lies after the picture of `width_px` is mirrored left to right."""
    return width_px - 1 - xy[0], xy[1]
