"""What holds for every stream of points, however wild."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rallytrace.trajectory import Linker, link
from rallytrace.types import BallPoint, PointSource

from ..often import examples

WH = (1280, 720)

steps = st.sampled_from([1, 1, 1, 1, 2, 40])
places = st.tuples(st.floats(0, 1279), st.floats(0, 719))
near = st.tuples(st.floats(-20, 20), st.floats(-20, 20))


@st.composite
def streams(draw: st.DrawFn) -> list[BallPoint]:
    """Walks with jumps, misses, dropped frames and repeated timestamps."""
    points, frame, xy = [], -1, (640.0, 360.0)
    for _ in range(draw(st.integers(0, 40))):
        frame += draw(steps)
        kind = draw(st.sampled_from(["near", "near", "near", "jump", "miss"]))
        if kind == "near":
            dx, dy = draw(near)
            xy = (min(max(xy[0] + dx, 0), 1279), min(max(xy[1] + dy, 0), 719))
        here = None if kind == "miss" else draw(places) if kind == "jump" else xy
        source = PointSource.NONE if here is None else PointSource.MODEL
        pts_s = (frame - draw(st.integers(0, 1))) / 30
        points.append(BallPoint(frame, pts_s, here, draw(st.floats(0, 1)), source))
    return points


options = st.fixed_dictionaries({"fill": st.integers(0, 5), "reject": st.booleans()})


@examples(40)
@given(points=streams(), how=options)
def test_every_frame_once_in_order_and_only_marked_changes(points: list[BallPoint], how: dict) -> None:
    out = list(link(points, WH, **how))
    assert [p.frame for p in out] == [p.frame for p in points]
    for before, after in zip(points, out, strict=True):
        assert (after.pts_s, after.score) == (before.pts_s, before.score)
        match after.source:
            case PointSource.MODEL:
                assert after == before
            case PointSource.FILLED:
                assert how["fill"] > 0
                assert before.xy is None or how["reject"]
                assert after.xy is not None
                assert -0.5 <= after.xy[0] <= 1279.5
                assert -0.5 <= after.xy[1] <= 719.5
            case PointSource.NONE:
                assert before.xy is None or how["reject"]


@examples(30)
@given(points=streams(), how=options, cut=st.integers(0, 40))
def test_what_came_out_does_not_depend_on_what_comes_later(points: list[BallPoint], how: dict, cut: int) -> None:
    whole = list(link(points, WH, **how))
    linker = Linker(WH, **how)
    early = [out for p in points[:cut] for out in linker.push(p)]
    assert early == whole[: len(early)]
    assert len(early) >= min(cut, len(points)) - linker.delay_frames


@examples(30)
@given(points=streams(), how=options, power=st.sampled_from([-1, 1, 2]))
def test_decisions_scale_with_the_picture(points: list[BallPoint], how: dict, power: int) -> None:
    k = 2.0**power
    scaled = [p if p.xy is None else replace(p, xy=(p.xy[0] * k, p.xy[1] * k)) for p in points]
    wh = (int(WH[0] * k), int(WH[1] * k))
    inside = {"fill": 0, "reject": how["reject"]}  # the picture's edge, half a pixel out, does not scale
    assert [p.source for p in link(scaled, wh, **inside)] == [p.source for p in link(points, WH, **inside)]


@examples(30)
@given(points=streams(), how=options)
def test_mirrored_points_give_the_mirrored_result(points: list[BallPoint], how: dict) -> None:
    def mirrored(p: BallPoint) -> BallPoint:
        return p if p.xy is None else replace(p, xy=(1279 - p.xy[0], p.xy[1]))

    plain = [p.source for p in link(points, WH, **how)]
    assert [p.source for p in link(map(mirrored, points), WH, **how)] == plain
