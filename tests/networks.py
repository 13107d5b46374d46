"""A network that needs no training, for tests of everything around networks: it finds what is bright and moves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rallytrace.models import ModelSpec
from rallytrace.types import Image

Floats = NDArray[np.float32]


def brightest_spec(*, frames: int = 5, outputs: int | None = None, background: bool = True) -> ModelSpec:
    return ModelSpec(
        name="brightest",
        arch="tests.networks:Brightest",
        frames=frames,
        outputs=frames if outputs is None else outputs,
        colour="grey",
        background=background,
        size_wh=(512, 288),
        stride=1,
        offsets=False,
        sigma_px=2.0,
    )


class Brightest:
    """Implements `runtime.Network`: how much brighter each pixel is than the background, as a heatmap."""

    device = "cpu"

    def __init__(self, spec: ModelSpec | None = None) -> None:
        self.spec = spec or brightest_spec()
        self.batches: list[int] = []

    def run(self, windows: Image) -> tuple[Floats, Floats | None]:
        self.batches.append(len(windows))
        x = windows.astype(np.float32)
        pictures, background = x[:, : self.spec.frames], x[:, self.spec.frames :]
        if not self.spec.background:
            background = np.median(pictures, axis=1, keepdims=True)
        return np.clip((pictures - background)[:, -self.spec.outputs :] / 200, 0, 1), None


def dot_frame(xy: tuple[float, float] | None, wh: tuple[int, int] = (512, 288), level: int = 30) -> Image:
    """A grey picture with a Gaussian ball, peak 200 over the ground."""
    w, h = wh
    picture = np.full((h, w), level, np.float32)
    if xy is not None:
        rows, cols = np.indices((h, w))
        picture += 200 * np.exp(-0.5 * ((cols - xy[0]) ** 2 + (rows - xy[1]) ** 2) / 1.5**2)
    return np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
