"""Windows, their merging, and the background."""

import numpy as np
import pytest

from rallytrace.types import Frame, Image
from rallytrace.window import (
    BACKGROUND_EVERY,
    BACKGROUND_REACH,
    FLASH,
    Background,
    Merger,
    Moments,
    RepeatFilter,
    Window,
    WindowMaker,
    backgrounds,
    is_repeat,
    median,
    moments,
    stack_channels,
)


def pictures(n: int) -> list[Image]:
    return [np.full((16, 32), i % 256, np.uint8) for i in range(n)]


def walk(
    n: int, *, length: int, step: int, outputs: int, background: Background | None
) -> tuple[list[Window], list[int]]:
    """All windows of a scene whose picture i is filled with i, and the positions in the order they were settled."""
    maker, merger = WindowMaker(length, step=step, outputs=outputs, background=background), Merger(length)
    windows: list[Window] = []
    order: list[int] = []

    def use(made: list[Window]) -> None:
        for window in made:
            said = window.positions if outputs == length else window.positions[-1:]
            merger.add(window, np.stack([np.full((2, 2), p, np.float32) for p in said]), None)
            windows.append(window)

    def take(before: int | None) -> None:
        for position, heat, offsets in merger.pop(before):
            assert offsets is None
            assert (heat == position).all()  # what was said of a picture comes out at its own position
            order.append(position)

    for picture in pictures(n):
        use(maker.push(picture))
        take(maker.settled)
    use(maker.flush())
    take(None)
    return windows, order


@pytest.mark.parametrize("background", ["none", "file", "live"])
@pytest.mark.parametrize(("outputs", "step"), [(5, 5), (5, 4), (5, 2), (5, 1), (1, 1)])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 9, 10, 11, 57, 103])
def test_each_picture_is_predicted_once_in_order(n: int, outputs: int, step: int, background: str) -> None:
    maker = {"none": None, "file": Background(), "live": Background(live=True)}[background]
    windows, order = walk(n, length=5, step=step, outputs=outputs, background=maker)
    assert order == list(range(n))
    for window in windows:
        for plane, position in zip(window.stack, window.positions, strict=False):
            assert (plane == position).all()  # the picture in the stack is the picture it claims to be


def test_every_interior_picture_is_seen_by_all_overlapping_windows() -> None:
    windows, _ = walk(40, length=5, step=1, outputs=5, background=None)
    seen = [sum(p in [w.positions[i] for i in w.predicts] for w in windows) for p in range(40)]
    assert seen[4:-4] == [5] * 32


def test_last_frame_network_predicts_the_first_pictures_too() -> None:
    """The field loses the first T-1 frames; here the first picture is repeated before the scene."""
    windows, order = walk(6, length=3, step=1, outputs=1, background=None)
    assert [w.positions for w in windows[:3]] == [(0, 0, 0), (0, 0, 1), (0, 1, 2)]
    assert order == list(range(6))


def test_window_of_one_frame() -> None:
    _, order = walk(4, length=1, step=1, outputs=1, background=None)
    assert order == [0, 1, 2, 3]


def test_wrong_step_or_outputs() -> None:
    with pytest.raises(ValueError, match="step must be between 1 and"):
        WindowMaker(5, step=6, outputs=5, background=None)
    with pytest.raises(ValueError, match="step must be between 1 and"):
        WindowMaker(5, step=0, outputs=5, background=None)
    with pytest.raises(ValueError, match="1 or all"):
        WindowMaker(5, step=1, outputs=3, background=None)


def test_windows_begin_with_the_scene_and_follow_each_other() -> None:
    windows, _ = walk(10, length=5, step=5, outputs=5, background=None)
    assert [w.positions for w in windows] == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)]


def test_a_scene_without_pictures_has_no_window() -> None:
    assert WindowMaker(5, step=5, outputs=5, background=Background()).flush() == []
    assert WindowMaker(3, step=1, outputs=1, background=None).flush() == []


def window(start: int, length: int = 3) -> Window:
    return Window(tuple(range(start, start + length)), tuple(range(length)), np.zeros((length, 2, 2), np.uint8))


@pytest.mark.parametrize(
    ("mode", "expected", "second"),
    [
        # picture 2 is last in window 0 (says 6), middle in window 1 (says 3), first in window 2 (says 12);
        # picture 1 is the middle of window 0 and the first of window 1
        ("last", 12.0, 3.0),
        ("mean", 7.0, 4.5),
        ("centre", (1 * 6 + 2 * 3 + 1 * 12) / 4, (2 * 6 + 1 * 3) / 3),
    ],
)
def test_merging_by_hand(mode: str, expected: float, second: float) -> None:
    merger = Merger(3, mode)  # type: ignore[arg-type]
    for start, says in ((0, 6.0), (1, 3.0), (2, 12.0)):
        offsets = np.full((3, 2, 1, 1), says / 3, np.float32)
        merger.add(window(start), np.full((3, 1, 1), says, np.float32), offsets)
    popped = merger.pop()
    assert popped[1][1].item() == pytest.approx(second)
    assert popped[1][2].ravel() == pytest.approx([second / 3] * 2)
    position, heat, offsets_2 = popped[2]
    assert position == 2
    assert heat.item() == pytest.approx(expected)
    assert offsets_2 is not None
    assert offsets_2.ravel() == pytest.approx([expected / 3] * 2)


def test_unknown_merge_mode() -> None:
    with pytest.raises(ValueError, match="last, mean or centre"):
        Merger(3, "best")  # type: ignore[arg-type]


@pytest.mark.parametrize("n", range(1, 20))
def test_median_is_the_sorted_middle(n: int) -> None:
    rng = np.random.default_rng(n)
    stack = rng.integers(0, 256, (n, 7, 5), dtype=np.uint8)
    assert (median(list(stack)) == np.sort(stack, axis=0)[n // 2]).all()


def test_background_removes_what_moves() -> None:
    """A bright dot that moves on every picture over a fixed texture: the median is the texture."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 200, (32, 64), dtype=np.uint8)
    stack = np.repeat(texture[None], 120, axis=0)
    for i in range(120):
        stack[i, i % 32, (3 * i) % 64] = 255
    medians, index = backgrounds(stack)
    assert len(index) == 120
    assert all((m == texture).all() for m in medians)


def ramp(n: int) -> np.ndarray:
    """Pictures of one grey level each: the number of their sample, which every sixth picture is."""
    return np.repeat((np.arange(n) // 6).astype(np.uint8), 4).reshape(n, 2, 2)


def test_the_background_of_a_ramp_is_its_middle() -> None:
    """Of samples 24 back and 24 ahead, seventeen evenly spread: every third, and the ninth of them is the present's.

    At the beginning there are 0 to 24, whose middle is 12, and at the end 25 to 49, whose middle is 37.
    """
    medians, index = backgrounds(ramp(300))
    levels = [int(medians[k][0, 0]) for k in index]
    assert levels[:6] == [12] * 6
    assert levels[24 * 6 : 26 * 6] == [24] * 6 + [25] * 6
    assert levels[-6:] == [37] * 6


def test_a_median_is_kept_once() -> None:
    medians, index = backgrounds(ramp(300))
    assert len(medians) == 50
    assert (np.diff(index) >= 0).all()


def test_a_live_background_looks_back_twice_as_far() -> None:
    """Samples 0 to 48 for the last picture: 24 is the middle. Nothing ahead is waited for."""
    live = Background(live=True)
    for picture in ramp(290):
        live.push(picture)
    assert live.ready(289)
    assert int(live.at(289)[0, 0]) == 24


def test_a_held_ball_does_not_become_background() -> None:
    """Two seconds in the server's hand, then gone: the median still shows the hand without it."""
    stack = np.full((300, 8, 8), 50, np.uint8)
    stack[:60, 3:5, 3:5] = 250
    medians, index = backgrounds(stack)
    assert medians[index[0]].max() == 50


def test_background_follows_a_change_of_light() -> None:
    stack = np.concatenate([np.full((300, 4, 4), 10, np.uint8), np.full((300, 4, 4), 90, np.uint8)])
    medians, index = backgrounds(stack)
    assert (medians[index[0]] == 10).all()
    assert (medians[index[599]] == 90).all()


def test_backgrounds_of_a_scene_are_what_a_stream_sees() -> None:
    """Training reads `backgrounds`, tracking pushes: both must give a window the same background."""
    rng = np.random.default_rng(1)
    stack = rng.integers(0, 256, (400, 16, 16), dtype=np.uint8)
    medians, index = backgrounds(stack)
    maker = WindowMaker(5, step=5, outputs=5, background=Background())
    windows = [w for picture in stack for w in maker.push(picture)] + maker.flush()
    for made in windows:
        if made.predicts == tuple(range(5)):
            assert (made.stack[5] == medians[index[made.positions[2]]]).all()


def test_live_background_knows_the_past_only() -> None:
    live = Background(live=True)
    for i in range(BACKGROUND_EVERY * BACKGROUND_REACH):
        live.push(np.full((2, 2), 10 if i < 50 else 200, np.uint8))
        if i == 49:
            assert live.ready(49)
            assert (live.at(49) == 10).all()


def test_stack_channels_order() -> None:
    grey = stack_channels(pictures(3), np.full((16, 32), 77, np.uint8))
    assert grey.shape == (4, 16, 32)
    assert [int(plane[0, 0]) for plane in grey] == [0, 1, 2, 77]
    rgb = np.zeros((2, 2, 3), np.uint8)
    rgb[..., 0], rgb[..., 1], rgb[..., 2] = 1, 2, 3
    assert [int(plane[0, 0]) for plane in stack_channels([rgb, rgb + 10], None)] == [1, 2, 3, 11, 12, 13]


def test_repeats_and_real_motion() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (288, 512), dtype=np.uint8)
    noisy = np.clip(picture.astype(int) + rng.integers(-1, 2, picture.shape), 0, 255).astype(np.uint8)
    assert is_repeat(picture, noisy)  # a repeat that was coded again
    moved = picture.copy()
    moved[100:103, 200:203] = np.where(picture[100:103, 200:203] > 128, 20, 235)  # a ball of 3x3 px, nothing else
    assert not is_repeat(picture, moved)


def test_repeat_of_tiny_pictures() -> None:
    assert is_repeat(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8))
    assert not is_repeat(np.zeros((8, 8), np.uint8), np.eye(8, dtype=np.uint8) * 9)


def test_a_still_source_is_not_held_back() -> None:
    still = np.zeros((32, 32), np.uint8)
    repeats = RepeatFilter()
    assert [repeats.is_new(still) for _ in range(7)] == [True, False, False, True, True, True, True]


def shown(pictures: list[Image]) -> list[tuple[int, int]]:
    """(frame, scene) of the pictures that are new."""
    frames = [Frame(i, i / 30, picture) for i, picture in enumerate(pictures)]
    return [(frame, scene) for frame, scene, _ in moments(frames, lambda image: image)]


def scene_of(seed: int, pictures: int) -> list[Image]:
    """Noise of some 60 grey levels around another mean, so that each is new and none a cut from the one before."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 120, (64, 64)) + 60 * seed
    return [np.clip(ground + rng.integers(0, 15, (64, 64)), 0, 255).astype(np.uint8) for _ in range(pictures)]


def test_a_cut_is_where_the_picture_stays_different() -> None:
    a, b = scene_of(0, 12), scene_of(2, 12)
    assert shown(a + b) == [(i, int(i >= 12)) for i in range(24)]
    assert shown(a + b[:2]) == [(i, int(i >= 12)) for i in range(14)]  # as far as the video goes
    brighter = [np.clip(picture.astype(int) + 12, 0, 255).astype(np.uint8) for picture in a]
    assert shown(a + brighter) == [(i, 0) for i in range(24)]


@pytest.mark.parametrize("level", [0, 150, 255])
@pytest.mark.parametrize("length", range(1, FLASH + 1))
def test_a_flash_belongs_to_its_scene(level: int, length: int) -> None:
    """White or black, fading or not, and twice in a row."""
    pictures = scene_of(1, 40)
    for start in (10, 10 + length + 1):
        for n in range(length):
            share = 1 - 0.5 * n / length
            lit = pictures[start + n] * (1 - share) + level * share
            pictures[start + n] = np.rint(lit).astype(np.uint8)
    assert {scene for _, scene in shown(pictures)} == {0}


def test_a_flash_may_come_next_to_a_cut() -> None:
    a, b = scene_of(0, 12), scene_of(2, 12)
    white = [np.full((64, 64), 255, np.uint8)]
    assert {scene for _, scene in shown(a + b[:1] + white + b[1:])} == {0, 1}
    assert {scene for _, scene in shown(a[:-1] + white + a[-1:] + b)} == {0, 1}


def test_what_lasts_longer_than_a_flash_is_a_scene() -> None:
    a, b = scene_of(0, 12), scene_of(2, FLASH + 1)
    assert [scene for _, scene in shown(a + b + a)][:: len(a)][:3] == [0, 1, 2]


@pytest.mark.parametrize(("levels", "begins"), [(30, []), (31, [1])])
def test_a_cut_is_more_than_thirty_levels(levels: int, begins: list[int]) -> None:
    told: Moments[int] = Moments()
    source = [np.full((16, 32), 50 + levels * (i > 0), np.uint8) for i in range(9)]
    shown = [each for i, picture in enumerate(source) for each in told.push(i, picture)] + list(told.flush())
    assert [each.of for each in shown if each.begins] == begins
