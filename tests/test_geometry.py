"""The pixel convention: the one that every other module leans on."""

import pytest

from rallytrace.geometry import FrameTransform, flip_x

SIZES = [(1280, 720), (1920, 1080), (3840, 2160), (640, 480), (720, 1280), (333, 187), (64, 36)]


@pytest.mark.parametrize(
    ("xy", "expected"),
    [
        ((0.0, 0.0), (-0.3, -0.3)),  # the centre of the first source pixel lies left of the first model pixel's centre
        ((-0.5, -0.5), (-0.5, -0.5)),  # edges map to edges
        ((1279.5, 719.5), (511.5, 287.5)),
        ((639.5, 359.5), (255.5, 143.5)),  # and the middle to the middle
    ],
)
def test_to_model_by_hand(xy: tuple[float, float], expected: tuple[float, float]) -> None:
    transform = FrameTransform.fit_area((1280, 720), (512, 288))
    assert transform.to_model(xy) == pytest.approx(expected, abs=1e-9)
    assert transform.to_source(expected) == pytest.approx(xy, abs=1e-9)


def test_naive_scaling_is_not_our_convention() -> None:
    """The field's `x * scale` is 0.75 source px off at 1280 -> 512: that is what the module exists to prevent."""
    transform = FrameTransform.fit_area((1280, 720), (512, 288))
    assert transform.to_source((100.0, 100.0))[0] - 100 * 1280 / 512 == pytest.approx(0.75)


@pytest.mark.parametrize("wh", SIZES)
def test_fit_area_keeps_aspect_and_cost(wh: tuple[int, int]) -> None:
    transform = FrameTransform.fit_area(wh, (512, 288))
    sx, sy = transform.scale_xy
    assert sx == pytest.approx(sy, rel=0.003)
    cw, ch = transform.canvas_wh
    assert cw % 16 == 0
    assert ch % 16 == 0
    assert 0.95 < cw * ch / (512 * 288) < 1.15


def test_fit_area_of_16_9_is_exactly_the_networks_size() -> None:
    for wh in SIZES[:3]:
        assert FrameTransform.fit_area(wh, (512, 288)).canvas_wh == (512, 288)


def test_fit_inside_is_as_large_as_fits() -> None:
    transform = FrameTransform.fit_inside((640, 480), (640, 360))
    assert transform.content_wh == (480, 360)
    assert transform.canvas_wh == (640, 360)
    assert FrameTransform.fit_inside((480, 640), (640, 360)).content_wh == (270, 360)
    assert FrameTransform.fit_inside((1280, 360), (640, 360)).content_wh == (640, 180)


def test_a_thread_of_a_picture_keeps_a_pixel() -> None:
    """A million pixels wide and one high would be 0.4 model pixels high, or wide."""
    assert FrameTransform.fit_area((2**20, 1), (512, 288)).content_wh[1] == 1
    assert FrameTransform.fit_area((1, 2**20), (512, 288)).content_wh[0] == 1


def test_pad_puts_the_picture_top_left() -> None:
    import numpy as np

    transform = FrameTransform((4, 2), (4, 2), (16, 16))
    padded = transform.pad(np.full((2, 4, 3), 9, np.uint8))
    assert padded.shape == (16, 16, 3)
    assert padded[:2, :4].min() == 9
    assert padded.sum() == 9 * 2 * 4 * 3
    with pytest.raises(ValueError, match="must be"):
        transform.pad(np.zeros((3, 4), np.uint8))


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="positive"):
        FrameTransform((0, 10), (1, 1), (1, 1))
    with pytest.raises(ValueError, match="does not fit"):
        FrameTransform((10, 10), (20, 20), (16, 16))


def test_flip_by_hand() -> None:
    assert flip_x((0.0, 3.0), 10) == (9.0, 3.0)
    assert flip_x((-0.5, 0.0), 10) == (9.5, 0.0)
