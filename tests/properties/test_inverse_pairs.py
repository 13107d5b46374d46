"""Every road to model space and back ends where it began, also through a mirror."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallytrace.geometry import FrameTransform, flip_x
from rallytrace.heatmap import decode, render, render_offsets

sides = st.integers(2, 8000)
sizes = st.tuples(sides, sides).filter(lambda wh: 0.02 < wh[0] / wh[1] < 50)
unit = st.floats(0, 1, allow_nan=False)


@given(sizes, unit, unit)
def test_to_model_and_back(wh: tuple[int, int], a: float, b: float) -> None:
    transform = FrameTransform.fit_area(wh, (512, 288))
    xy = (a * wh[0] - 0.5, b * wh[1] - 0.5)
    model = transform.to_model(xy)
    assert -0.51 <= model[0] <= transform.content_wh[0] - 0.49
    assert transform.to_source(model) == pytest.approx(xy, abs=1e-6)


@given(sizes, unit, unit)
def test_flip_commutes_with_scaling(wh: tuple[int, int], a: float, b: float) -> None:
    """Mirror then scale is scale then mirror: true of pixel centres only under the half-pixel convention."""
    transform = FrameTransform.fit_area(wh, (512, 288))
    xy = (a * wh[0] - 0.5, b * wh[1] - 0.5)
    there = transform.to_model(flip_x(xy, wh[0]))
    here = flip_x(transform.to_model(xy), transform.content_wh[0])
    assert there == pytest.approx(here, abs=1e-6)
    assert flip_x(flip_x(xy, wh[0]), wh[0]) == pytest.approx(xy, abs=1e-9)


@given(st.floats(1, 62), st.floats(1, 46), st.floats(0.8, 6))
def test_render_and_decode(x: float, y: float, sigma_px: float) -> None:
    xy, score = decode(render([(x, y)], (48, 64), sigma_px=sigma_px)[0])
    assert xy == pytest.approx((x, y), abs=2e-3)
    assert 0.6 <= score <= 1


@given(st.floats(-0.5, 127.4), st.floats(-0.5, 63.4), st.sampled_from([2, 4, 8]))
def test_render_and_decode_with_offsets(x: float, y: float, stride: int) -> None:
    hw = (64 // stride, 128 // stride)
    heat = render([(x, y)], hw, sigma_px=stride, stride=stride)
    offsets, _ = render_offsets([(x, y)], hw, stride=stride)
    xy, _ = decode(heat[0], offsets[0], stride=stride)
    assert xy == pytest.approx((x, y), abs=2e-3)


@given(st.floats(2, 61), st.floats(2, 45))
def test_flipped_heatmap_decodes_to_the_flipped_place(x: float, y: float) -> None:
    heat = render([(x, y)], (48, 64), sigma_px=2.0)[0]
    xy, _ = decode(np.ascontiguousarray(heat[:, ::-1]))
    assert xy == pytest.approx(flip_x((x, y), 64), abs=2e-3)
