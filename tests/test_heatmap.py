"""The heatmap pair against closed forms that do not come from it."""

import math

import numpy as np
import pytest

from rallytrace.heatmap import NEAR_CELLS, decode, peaks, render, render_offsets


@pytest.mark.parametrize(("sigma_px", "stride"), [(2.5, 1), (3.2, 1), (4.0, 4), (5.0, 2)])
def test_sigma_is_a_standard_deviation(sigma_px: float, stride: int) -> None:
    """Measured back as a second moment: kornia used sigma for sigma squared for three years."""
    heat = render([(64.3, 40.9)], (96 // stride * 2, 128 // stride * 2), sigma_px=sigma_px, stride=stride)[0].astype(
        float
    )
    rows, cols = np.indices(heat.shape)
    x = (cols + 0.5) * stride - 0.5
    y = (rows + 0.5) * stride - 0.5
    total = heat.sum()
    assert (heat * x).sum() / total == pytest.approx(64.3, abs=0.02)
    assert (heat * y).sum() / total == pytest.approx(40.9, abs=0.02)
    assert math.sqrt((heat * (x - 64.3) ** 2).sum() / total) == pytest.approx(sigma_px, rel=0.02)
    assert math.sqrt((heat * (y - 40.9) ** 2).sum() / total) == pytest.approx(sigma_px, rel=0.02)


def test_render_by_hand() -> None:
    heat = render([(3.0, 1.0), None], (4, 8), sigma_px=1.0)
    assert heat.shape == (2, 4, 8)
    assert heat[0, 1, 3] == 1.0
    assert heat[0, 1, 4] == pytest.approx(math.exp(-0.5))
    assert heat[0, 3, 5] == pytest.approx(math.exp(-4.0))
    assert not heat[1].any()


def test_a_cell_of_stride_four_is_centred_on_its_pixels() -> None:
    """Cell 2 covers model pixels 8..11, whose middle is 9.5."""
    assert render([(9.5, 1.5)], (4, 8), sigma_px=4.0, stride=4)[0, 0, 2] == 1.0


def test_offsets_by_hand() -> None:
    offsets, near = render_offsets([(10.5, 1.5), None], (8, 8), stride=4)
    assert offsets[0, :, 0, 2] == pytest.approx([0.25, 0.0])  # 1 px right of the cell's centre: a quarter cell
    assert offsets[0, :, 0, 3] == pytest.approx([-0.75, 0.0])
    assert offsets[0, :, 1, 2] == pytest.approx([0.25, -1.0])
    assert near[0, 0, 3]
    assert not near[0, 0, 5]
    assert not near[1].any()
    assert NEAR_CELLS == 1.5


def test_decode_prefers_the_highest_peak() -> None:
    heat = np.maximum(
        0.6 * render([(10.0, 10.0)], (64, 64), sigma_px=2)[0], render([(40.0, 50.0)], (64, 64), sigma_px=2)[0]
    )
    (x, y), score = decode(heat)
    assert (x, y) == pytest.approx((40.0, 50.0), abs=0.01)
    assert score == 1.0


@pytest.mark.parametrize("corner", [(0, 0), (0, 15), (11, 0), (11, 15)])
def test_decode_at_the_border(corner: tuple[int, int]) -> None:
    heat = np.zeros((12, 16), np.float32)
    heat[corner] = 0.9
    (x, y), score = decode(heat)
    assert (y, x) == corner
    assert score == pytest.approx(0.9)


def test_decode_of_flat_and_empty_maps_is_finite() -> None:
    for value in (0.0, 1.0):
        (x, y), score = decode(np.full((9, 9), value, np.float32))
        assert math.isfinite(x)
        assert math.isfinite(y)
        assert score == value


def test_offsets_of_another_peak_do_not_pull() -> None:
    """Two balls three cells apart: the neighbour's cells point elsewhere and are left out."""
    near_a, near_b = (18.3, 17.1), (30.9, 17.1)
    heat = np.maximum(
        render([near_a], (16, 16), sigma_px=4, stride=4), 0.9 * render([near_b], (16, 16), sigma_px=4, stride=4)
    )
    offset_a, mask_a = render_offsets([near_a], (16, 16), stride=4)
    offset_b, mask_b = render_offsets([near_b], (16, 16), stride=4)
    offsets = np.where(mask_a[:, None], offset_a, np.where(mask_b[:, None], offset_b, 0)).astype(np.float32)
    xy, _ = decode(heat[0], offsets[0], stride=4)
    assert xy == pytest.approx(near_a, abs=0.01)


def test_peaks_are_read_like_the_highest_one() -> None:
    """Highest first, each at its own sub-pixel place; a shoulder is no peak, nor is what is under `least`."""
    places = [(20.3, 30.8), (90.1, 12.4), (60.0, 60.0)]
    maps = render(places, (18, 28), sigma_px=4.0, stride=4) * np.array([0.5, 0.9, 0.1], np.float32)[:, None, None]
    heat = maps.max(0)
    found = peaks(heat, stride=4, apart_px=4.0, least=0.2, most=5)
    assert [score for _, score in found] == pytest.approx([0.9, 0.5], abs=0.1)
    for (xy, _), place in zip(found, (places[1], places[0]), strict=True):
        assert xy == pytest.approx(place, abs=0.3)
    assert found[0] == decode(heat, stride=4)
    assert peaks(heat, stride=4, apart_px=4.0, least=0.2, most=1) == found[:1]
    assert peaks(heat, stride=4, apart_px=100.0, least=0.2, most=5) == found[:1]
    assert len(peaks(heat, stride=4, apart_px=4.0, least=0.05, most=5)) == 3
    offsets = render_offsets(places[:1], (18, 28), stride=4)[0][0]
    assert peaks(maps[0], offsets, stride=4, apart_px=4.0, least=0.2, most=2)[0][0] == pytest.approx(
        places[0], abs=0.01
    )


def test_offsets_are_weighted_by_height() -> None:
    """0.8 points at column 4.0 and 0.4 at 4.3; the other cells point at themselves, a whole cell away."""
    heat, offsets = np.zeros((9, 9), np.float32), np.zeros((2, 9, 9), np.float32)
    heat[4, 4], heat[4, 5] = 0.8, 0.4
    offsets[0, 4, 5] = -0.7
    assert decode(heat, offsets)[0] == pytest.approx((4.1, 4.0))


@pytest.mark.parametrize(("row", "col"), [(2, 4), (6, 4), (4, 2), (4, 6)])
def test_offsets_two_cells_away_are_not_read(row: int, col: int) -> None:
    """They are not trained there, whatever they say."""
    heat, offsets = np.zeros((9, 9), np.float32), np.zeros((2, 9, 9), np.float32)
    heat[4, 4], heat[row, col] = 0.8, 0.7
    offsets[:, row, col] = (4.5 - col, 4.5 - row)
    assert decode(heat, offsets)[0] == pytest.approx((4.0, 4.0))


def cells(heat: np.ndarray, apart_px: float) -> list[tuple[float, float]]:
    return [xy for xy, _ in peaks(heat, apart_px=apart_px, least=0.3, most=9)]


@pytest.mark.parametrize("turned", range(4))
def test_a_peak_is_higher_than_the_cells_that_touch_it(turned: int) -> None:
    """Two columns off is another peak. The cell beside a higher one is none, also beside the border's."""
    heat = np.zeros((9, 9), np.float32)
    heat[4, 4], heat[4, 6] = 0.9, 0.8
    assert len(cells(np.rot90(heat, turned).copy(), 1.5)) == 2
    heat[4, 6], heat[2, 0], heat[2, 1] = 0.0, 0.6, 0.5
    assert len(cells(np.rot90(heat, turned).copy(), 0.5)) == 2


def test_a_plateau_has_its_peaks_where_it_is() -> None:
    """Three equal cells in a column: the middle one is exactly there, the others lean to it by half a cell."""
    heat = np.full((9, 9), 0.1, np.float32)
    heat[3:6, 4] = 0.9
    assert sorted(y for _, y in cells(heat, 0.5)) == pytest.approx([3.5, 4.0, 4.5])


def test_a_score_is_a_share() -> None:
    assert decode(np.full((5, 5), -0.25, np.float32))[1] == 0.0
    assert decode(np.full((5, 5), 1.25, np.float32))[1] == 1.0


def test_the_highest_peak_counts_however_low_and_noise_ends() -> None:
    empty = np.zeros((72, 128), np.float32)
    assert len(peaks(empty, apart_px=4.0, least=0.2, most=5)) == 1
    flat = np.full((72, 128), 0.7, np.float32)
    assert 1 <= len(peaks(flat, apart_px=4.0, least=0.2, most=5)) <= 5
    noise = np.random.default_rng(0).random((72, 128), np.float32)
    assert len(peaks(noise, apart_px=4.0, least=0.2, most=5)) == 5
