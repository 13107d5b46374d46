"""Marks land where they should, in the colour they should, and touch nothing else."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rallytrace.annotate import FAR_PX, KINDS, Mark, Style, Trail, disc, draw, draw_rgb, paint, ring
from rallytrace.errors import InputError
from rallytrace.types import XY, BallPoint, Colours, PointSource, Yuv


def flat(wh: tuple[int, int], *, full_range: bool = False, level: int = 60) -> Yuv:
    w, h = wh
    half = ((h + 1) // 2, (w + 1) // 2)
    chroma = np.full(half, 128, np.uint8)
    return Yuv(np.full((h, w), level, np.uint8), chroma, chroma.copy(), full_range)


def noise(wh: tuple[int, int], seed: int = 0) -> Yuv:
    rng, picture = np.random.default_rng(seed), flat(wh)
    return Yuv(*(rng.integers(16, 236, p.shape, np.uint8) for p in (picture.y, picture.u, picture.v)))


def point(frame: int, xy: XY | None, *, filled: bool = False) -> BallPoint:
    source = PointSource.NONE if xy is None else PointSource.FILLED if filled else PointSource.MODEL
    return BallPoint(frame, frame / 30, xy, 0.9, source)


def planes(picture: Yuv) -> tuple[NDArray[np.uint8], ...]:
    return picture.y, picture.u, picture.v


def same(a: Yuv, b: Yuv) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(planes(a), planes(b), strict=True))


def centroid(change: NDArray[np.float64]) -> tuple[float, float]:
    rows, cols = np.mgrid[: change.shape[0], : change.shape[1]]
    return float((cols * change).sum() / change.sum()), float((rows * change).sum() / change.sum())


def changed(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float64]:
    return abs(after.astype(float) - before)


# --- where ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dot", "ring"])
@pytest.mark.parametrize("radius_px", [2.0, 2.6, 5.1, 9.0])
def test_a_mark_is_centred_on_the_ball_in_luma_and_chroma(kind: str, radius_px: float) -> None:
    for x, y in np.random.default_rng(0).uniform(30, 34, (12, 2)):
        before = flat((80, 70), level=16)  # darker than the outline: every change is to brighter
        style = Style(kind, radius_px, colour=(255, 255, 255))  # type: ignore[arg-type]
        after = draw(before, point(0, (x, y)), [], style)
        assert centroid(changed(before.y, after.y)) == pytest.approx((x, y), abs=0.05)
        after = draw(before, point(0, (x, y)), [], replace(style, colour=(255, 0, 0)))
        assert centroid(changed(before.v, after.v)) == pytest.approx(((x - 0.5) / 2, (y - 0.5) / 2), abs=0.05)


def test_coverage_has_the_area_of_the_shape() -> None:
    box = (0, 0, 80, 60)
    for x in (30.0, 30.25, 30.5):
        assert disc((x, 30), 6).coverage(box).sum() == pytest.approx(math.pi * 36, rel=0.01)
        assert ring((x, 30), 8, 3).coverage(box).sum() == pytest.approx(2 * math.pi * 8 * 3, rel=0.01)
        capsule = Mark((20, 20), (x, 45), (4, 4)).coverage(box).sum()
        assert capsule == pytest.approx(math.pi * 16 + 8 * math.hypot(x - 20, 25), rel=0.01)
    cone = Mark((20, 30), (60, 30), (2, 6), (1, 0.5)).coverage(box)
    assert cone[:, 40].sum() == pytest.approx(2 * 4 * 0.75, rel=0.03)  # half way: radius 4, opacity 0.75


@pytest.mark.parametrize("wh", [(96, 64), (97, 65)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_outside_is_cut_as_by_a_frame(kind: str, wh: tuple[int, int]) -> None:
    margin, large = 60, noise((240, 200))
    rows, cols = slice(margin, margin + wh[1]), slice(margin, margin + wh[0])
    half = slice(margin // 2, margin // 2 + (wh[1] + 1) // 2), slice(margin // 2, margin // 2 + (wh[0] + 1) // 2)
    small = Yuv(large.y[rows, cols].copy(), large.u[half].copy(), large.v[half].copy())
    style = Style(kind, 4.3)  # type: ignore[arg-type]
    places = [(-3.2, 5.0), (0, 0), (wh[0] - 1, wh[1] - 1), (wh[0] + 2.6, 20.2), (30.3, -4.1), (-40, 70), (50, 30)]
    for k in range(1, len(places) + 1):
        moved = [point(i, (x + margin, y + margin)) for i, (x, y) in enumerate(places[:k])]
        whole = draw(large, moved[-1], moved[:-1], style)
        points = [point(i, xy) for i, xy in enumerate(places[:k])]
        cut = draw(small, points[-1], points[:-1], style)
        parts = whole.y[rows, cols], whole.u[half], whole.v[half]
        for here, there in zip(planes(cut), parts, strict=True):
            off = changed(here, there)
            assert off.max() <= 1  # float32 rounds otherwise at other coordinates
            assert (off > 0).mean() < 0.002


def test_places_far_outside_draw_nothing_and_are_no_error() -> None:
    picture = noise((64, 36))
    for far in (200.0, 2 * FAR_PX, 1e30, -1e300):
        for xy in ((far, 10.0), (10.0, far), (far, far)):
            for kind in ("dot", "ring"):
                assert same(draw(picture, point(0, xy), [], Style(kind)), picture)  # type: ignore[arg-type]
            draw(picture, point(1, xy), [point(0, (5, 5))], Style())


@pytest.mark.parametrize("wh", [(1, 1), (2, 1), (3, 5), (64, 36)])
def test_small_pictures(wh: tuple[int, int]) -> None:
    before = flat(wh)
    after = draw(before, point(1, (0, 0)), [point(0, (2, 2))], Style("dot", 3))
    assert after.y[0, 0] != before.y[0, 0]
    assert after.u.shape == before.u.shape


# --- what is left alone -----------------------------------------------------------------------------------------------


def test_untouched_pixels_are_bit_identical_and_the_input_is_left_alone() -> None:
    picture, style = noise((160, 120)), Style("comet", 4)
    kept = [plane.copy() for plane in planes(picture)]
    path = [(20 + 8.7 * i, 60 + 25 * math.sin(i)) for i in range(13)]
    points = [point(i, xy) for i, xy in enumerate(path)]
    drawn = draw(picture, points[-1], points[:-1], style)
    assert all(np.array_equal(a, b) for a, b in zip(kept, planes(picture), strict=True))
    near = np.zeros(picture.y.shape, bool)
    for a, b in itertools.pairwise([*path, path[-1]]):
        near |= Mark(a, b, (12, 12)).coverage((0, 0, 160, 120)) > 0
    assert np.array_equal(drawn.y[~near], picture.y[~near])
    near_half = near.reshape(60, 2, 80, 2).any((1, 3))
    for before, after in zip(planes(picture)[1:], planes(drawn)[1:], strict=True):
        assert np.array_equal(after[~near_half], before[~near_half])
    assert (drawn.y != picture.y).mean() > 0.02


def test_ring_and_comet_leave_the_ball_visible_and_a_dot_does_not() -> None:
    picture = noise((80, 60))
    for kind, seen in (("dot", False), ("ring", True), ("comet", True)):
        drawn = draw(picture, point(0, (40, 30)), [], Style(kind, 5))  # type: ignore[arg-type]
        assert np.array_equal(drawn.y[27:34, 37:44], picture.y[27:34, 37:44]) == seen


def test_no_ball_and_no_trail_draw_nothing() -> None:
    picture = noise((64, 36))
    assert same(draw(picture, None, [], Style()), picture)
    assert same(draw(picture, point(3, None), [], Style()), picture)
    assert same(draw(picture, None, [point(0, (5, 5))], Style("dot")), picture)


# --- the trail --------------------------------------------------------------------------------------------------------


def test_the_trail_does_not_join_what_no_ball_could_do() -> None:
    """300 px of a 400x300 picture within a frame is another thing; 40 px is a smash."""
    before = flat((400, 300))
    jump = draw(before, point(1, (350.0, 150.0)), [point(0, (50.0, 150.0))], Style())
    assert not changed(before.y, jump.y)[:, 70:320].any()
    smash = draw(before, point(1, (90.0, 150.0)), [point(0, (50.0, 150.0))], Style())
    assert changed(before.y, smash.y)[148:153, 55:75].any()


def test_the_trail_does_not_cross_a_gap() -> None:
    picture = flat((200, 60))
    ends = (40.0, 30.0), (70.0, 30.0), (130.0, 30.0), (160.0, 30.0)
    style = Style("comet", 4)
    for gap, joined in ((None, False), ((100.0, 30.0), True)):
        points = [point(3 * i, xy) for i, xy in enumerate([*ends[:2], gap, *ends[2:]])]
        drawn = draw(picture, points[-1], points[:-1], style)
        assert (drawn.y[:, 55] != picture.y[:, 55]).any()
        assert (drawn.y[:, 145] != picture.y[:, 145]).any()
        assert (drawn.y[:, 80:120] != picture.y[:, 80:120]).any() == joined


def test_a_frame_without_ball_keeps_the_fading_trail_but_has_no_head() -> None:
    picture, trail = flat((120, 60)), [point(i, (20.0 + 10 * i, 30.0)) for i in range(6)]
    drawn = draw(picture, point(6, None), trail, Style("comet", 4))
    assert (drawn.y[:, 25:65] != picture.y[:, 25:65]).any(0).all()
    assert np.array_equal(drawn.y[:, 74:], picture.y[:, 74:])


def test_the_trail_fades_and_tapers_with_age_and_ends_at_trail_s() -> None:
    picture = flat((700, 80), level=16)
    points = [point(i, (50.0 + 25 * i, 40.0)) for i in range(25)]
    drawn = draw(picture, points[-1], points[:-1], Style("comet", 8, trail_s=0.5, colour=(255, 255, 255)))
    light = changed(picture.y, drawn.y)
    steps = [light[:, 60 + 25 * i].max() for i in range(10, 23)]
    assert all(a < b for a, b in itertools.pairwise(steps))
    widths = [(light[:, 60 + 25 * i] > 0).sum() for i in range(10, 23)]
    assert widths == sorted(widths)
    assert widths[-1] > widths[0]
    assert not light[:, : 50 + 25 * 9 - 8].any()  # 15 frames back is half a second


def test_overlapping_steps_are_blended_once() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    marks = [disc((30 + 0.1 * i, 30), 8, 0.5) for i in range(20)]
    paint([(image[..., 0], 1, 200.0)], marks, (60, 60))
    assert image[..., 0].max() == 100


def test_trail_keeps_the_points_of_the_last_seconds() -> None:
    trail, points = Trail(0.5), [point(i, (i, i) if i % 4 else None) for i in range(60)]
    for i, p in enumerate(points):
        assert trail.push(p) == [q for q in points[:i] if p.pts_s - q.pts_s <= 0.5]
    assert Trail(0).push(points[0]) == []


# --- colour -----------------------------------------------------------------------------------------------------------


def rgb_of(picture: Yuv, row: int, col: int) -> list[float]:
    """R'G'B' of a pixel, scaled to 255: ITU-R BT.709-6, items 3.2 to 3.5, BT.601-7, 2.5, and BT.2020-2, table 4."""
    kr, kb = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}[picture.colours.matrix]
    y, u, v = (int(plane[row // n, col // n]) for plane, n in ((picture.y, 1), (picture.u, 2), (picture.v, 2)))
    full_range = picture.full_range
    if full_range:
        luma, pb, pr = y / 255, (u - 128) / 255, (v - 128) / 255
    else:
        luma, pb, pr = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    r, b = luma + 2 * (1 - kr) * pr, luma + 2 * (1 - kb) * pb
    return [255 * c for c in (r, (luma - kr * r - kb * b) / (1 - kr - kb), b)]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(
    "colour", [(255, 64, 32), (64, 176, 255), (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]
)
@pytest.mark.parametrize("matrix", [None, 1, 6, 9])
def test_the_colour_reads_back_by_the_picture_s_matrix(
    colour: tuple[int, int, int], full_range: bool, matrix: int | None
) -> None:
    picture = flat((100, 80), full_range=full_range)
    if matrix is not None:
        picture = replace(picture, colours=Colours(matrix, matrix, matrix))
    assert picture.colours.matrix == (matrix or 6)
    drawn = draw(picture, point(0, (50, 40)), [], Style("dot", 20, colour=colour))
    assert (drawn.full_range, drawn.colours) == (full_range, picture.colours)
    assert rgb_of(drawn, 40, 50) == pytest.approx(colour, abs=2.5)


@pytest.mark.parametrize(("transfer", "white"), [(16, 0.58), (18, 0.75)])
def test_a_mark_does_not_glare_in_high_dynamic_range(transfer: int, white: float) -> None:
    """Its white is that of a sheet (ITU-R BT.2408), not the brightest that a screen can do."""
    picture = replace(flat((100, 80)), colours=Colours(9, 9, transfer))
    drawn = draw(picture, point(0, (50, 40)), [], Style("dot", 20, colour=(255, 255, 255)))
    assert int(drawn.y[40, 50]) == pytest.approx(16 + 219 * white, abs=1)


def test_filled_points_have_a_colour_of_their_own() -> None:
    picture, style = flat((100, 80)), Style("dot", 20)
    drawn = draw(picture, point(0, (50, 40), filled=True), [], style)
    assert rgb_of(drawn, 40, 50) == pytest.approx(style.filled_colour, abs=2.5)
    assert style.filled_colour != style.colour
    comet = [draw(picture, None, [point(0, (20, 40)), point(6, (70, 40), filled=f)], Style("comet", 9)) for f in (0, 1)]
    assert abs(int(comet[0].v[20, 22]) - int(comet[1].v[20, 22])) > 30


# --- RGB --------------------------------------------------------------------------------------------------------------


def test_draw_rgb_marks_a_copy() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    kept = image.copy()
    for kind in ("dot", "ring", "cross"):
        drawn = draw_rgb(image, (40.3, 30.6), kind, colour=(0, 255, 0), radius_px=6)  # type: ignore[arg-type]
        assert np.array_equal(image, kept)
        assert (drawn != image).any()
        rows, cols = np.ogrid[:60, :80]
        far = np.hypot(cols - 40.3, rows - 30.6) > 9
        assert np.array_equal(drawn[far], image[far])


def test_draw_rgb_places_and_colours() -> None:
    image = np.full((60, 80, 3), 100, np.uint8)
    for kind in ("dot", "ring", "cross"):
        drawn = draw_rgb(image, (40.3, 30.6), kind, colour=(10, 250, 30))  # type: ignore[arg-type]
        assert centroid(changed(image[..., 2], drawn[..., 2])) == pytest.approx((40.3, 30.6), abs=0.05)
    assert tuple(draw_rgb(image, (40, 30), "dot", colour=(10, 250, 30))[30, 40]) == (10, 250, 30)
    cross = draw_rgb(image, (40, 30), "cross", colour=(10, 250, 30), radius_px=6)
    assert tuple(cross[30, 34]) == tuple(cross[24, 40]) == tuple(cross[30, 40]) == (10, 250, 30)
    assert tuple(cross[27, 37]) == (100, 100, 100)


def test_draw_rgb_takes_rgb_only() -> None:
    with pytest.raises(ValueError, match="RGB"):
        draw_rgb(np.zeros((5, 5), np.uint8), (2, 2))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "blob"}, "blob"),
        ({"radius_px": 0.0}, "radius_px"),
        ({"radius_px": math.nan}, "radius_px"),
        ({"trail_s": -1.0}, "-1"),
        ({"trail_s": math.inf}, "inf"),
        ({"colour": (0, 256, 0)}, "256"),
    ],
)
def test_a_style_that_cannot_be_drawn_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Style(**wrong)  # type: ignore[arg-type]


def test_the_default_radius_follows_the_height() -> None:
    widths = []
    for h in (360, 720, 1440):
        before = flat((160, h))
        after = draw(before, point(0, (80, h / 2)), [], Style("dot"))
        widths.append(math.sqrt((changed(before.y, after.y) > 0).sum()))
    assert widths[1] / math.sqrt(math.pi) == pytest.approx(1.25 * 720 / 140, abs=0.8)  # with its outline
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.3)
    assert widths[2] / widths[1] == pytest.approx(2, rel=0.3)
