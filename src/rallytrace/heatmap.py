"""Ball position <-> heatmap: one inverse pair, sub-pixel, the only one in the project.

A heatmap cell (i, j) at `stride` s is centred on model pixel ((j + 0.5) * s - 0.5, (i + 0.5) * s - 0.5): the pixel
convention of `geometry`, once more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rallytrace.types import XY

Floats = NDArray[np.float32]
MOST_CELLS = 400  # of a heatmap are looked at for peaks: an untrained network lights up everywhere
NEAR_CELLS = 1.5  # offsets are defined (and trained) on cells whose centre is this near to the ball


def _to_cells(xy: XY, stride: int) -> XY:
    return (xy[0] + 0.5) / stride - 0.5, (xy[1] + 0.5) / stride - 0.5


def render(points: Sequence[XY | None], hw: tuple[int, int], *, sigma_px: float, stride: int = 1) -> Floats:
    """One 2D Gaussian per point, peak 1 at the exact sub-pixel place; an all-zero map where the point is None.

    points: T positions in model pixels. hw: size of the heatmap in cells. sigma_px: standard deviation in model
    pixels. Returns float32 (T, h, w).
    """
    maps = np.zeros((len(points), *hw), np.float32)
    rows, cols = np.arange(hw[0], dtype=np.float32), np.arange(hw[1], dtype=np.float32)
    for t, xy in enumerate(points):
        if xy is not None:
            u, v = _to_cells(xy, stride)
            gx = np.exp(-0.5 * ((cols - u) * stride / sigma_px) ** 2)
            gy = np.exp(-0.5 * ((rows - v) * stride / sigma_px) ** 2)
            maps[t] = gy[:, None] * gx[None, :]
    return maps


def render_offsets(
    points: Sequence[XY | None], hw: tuple[int, int], *, stride: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Where the ball lies from each near cell's centre, in cells.

    Returns offsets float32 (T, 2, h, w), x before y, and near bool (T, h, w): the cells on which they are defined.
    """
    offsets = np.zeros((len(points), 2, *hw), np.float32)
    near = np.zeros((len(points), *hw), np.bool_)
    rows, cols = np.arange(hw[0], dtype=np.float32), np.arange(hw[1], dtype=np.float32)
    for t, xy in enumerate(points):
        if xy is not None:
            u, v = _to_cells(xy, stride)
            dx, dy = np.broadcast_to(u - cols, hw), np.broadcast_to((v - rows)[:, None], hw)
            near[t] = np.hypot(dx, dy) < NEAR_CELLS
            offsets[t] = np.where(near[t], np.stack([dx, dy]), 0)
    return offsets, near


def decode(heatmap: Floats, offsets: Floats | None = None, *, stride: int = 1) -> tuple[XY, float]:
    """The peak of one heatmap (h, w): its position in model pixels and its height.

    With `offsets` (2, h, w) in cells, the position is the mean of what the peak's 3x3 cells point at, weighted by their
    height. Without, it is the vertex of the parabola through the logarithms around the peak, which inverts `render`
    exactly (the standard Gaussian three-point estimator of particle image velocimetry).
    """
    i, j = np.unravel_index(int(np.argmax(heatmap)), heatmap.shape)
    return _read(heatmap, offsets, int(i), int(j), stride)


def peaks(
    heatmap: Floats, offsets: Floats | None = None, *, stride: int = 1, apart_px: float, least: float, most: int
) -> list[tuple[XY, float]]:
    """The local maxima of one heatmap (h, w), as `decode` reads each: at most `most`, highest first.

    The first is `decode`'s own, whatever its height; the others are at least `least` high and `apart_px` model pixels
    from those before them.
    """
    i, j = np.unravel_index(int(np.argmax(heatmap)), heatmap.shape)
    cells = [(int(i), int(j))]
    rows, cols = np.nonzero(heatmap >= least)
    order = np.argsort(-heatmap[rows, cols], kind="stable")[:MOST_CELLS]
    for row, col in zip(rows[order].tolist(), cols[order].tolist(), strict=True):
        if len(cells) == most:
            break
        around = heatmap[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2]
        apart = all(math.hypot(row - r, col - c) * stride > apart_px for r, c in cells)
        if apart and heatmap[row, col] >= around.max():
            cells.append((row, col))
    return [_read(heatmap, offsets, row, col, stride) for row, col in cells]


def _read(heatmap: Floats, offsets: Floats | None, row: int, col: int, stride: int) -> tuple[XY, float]:
    score = float(min(max(heatmap[row, col], 0.0), 1.0))
    if offsets is None:
        u = col + _vertex(heatmap[row, max(col - 1, 0) : col + 2], has_left=col > 0)
        v = row + _vertex(heatmap[max(row - 1, 0) : row + 2, col], has_left=row > 0)
    else:
        u, v = _pointed_at(heatmap, offsets, row, col)
    return ((u + 0.5) * stride - 0.5, (v + 0.5) * stride - 0.5), score


def _vertex(values: Floats, *, has_left: bool) -> float:
    """Offset in [-0.5, 0.5] of the top of the parabola through three log heights; 0 at the heatmap's border."""
    if len(values) < 3 or not has_left:
        return 0.0
    left, mid, right = np.log(np.maximum(values.astype(np.float64), 1e-30))
    bend = left - 2 * mid + right
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def _pointed_at(heatmap: Floats, offsets: Floats, row: int, col: int) -> XY:
    top, left = max(row - 1, 0), max(col - 1, 0)
    near = (slice(top, row + 2), slice(left, col + 2))
    weights = np.maximum(heatmap[near].astype(np.float64), 0.0)
    rows, cols = np.indices(weights.shape)
    # Only cells that agree with the peak's own claim: a neighbour may belong to another maximum.
    u = cols + left + offsets[0][near]
    v = rows + top + offsets[1][near]
    agree = np.hypot(u - (col + offsets[0, row, col]), v - (row + offsets[1, row, col])) < 1.0
    weights = np.where(agree, weights, 0.0) + 1e-12 * agree
    total = float(weights.sum())
    return float((weights * u).sum() / total), float((weights * v).sum() / total)
