"""`Scenes`: at which frames a fresh tracker would be in step with one that has seen all before."""

from dataclasses import replace

import numpy as np
import pytest

from rallytrace.tracker import Scenes
from rallytrace.types import Frame, Image

from .networks import brightest_spec

SPEC = replace(brightest_spec(frames=2, background=False), size_wh=(64, 48))  # a window begins with each picture


def pictures(moments: list[int]) -> list[Image]:
    """The picture of each moment: a bar of 8 columns that moves on; equal moments are equal pictures."""
    made = []
    for moment in moments:
        picture = np.zeros((48, 64), np.uint8)
        picture[:, moment % 56 : moment % 56 + 8] = 200
        made.append(picture)
    return made


def walk(source: list[Image], first: int = 0) -> tuple[list[bool], list[int]]:
    """Of each frame from `first` on: whether it is new, and the frame that must be kept from then on."""
    scenes = Scenes(SPEC, overlap=2, path=False)
    new, kept = [], []
    for i in range(first, len(source)):
        for shown in scenes.look(Frame(i, i / 30, source[i]), source[i]):
            assert not shown.begins
            scenes.enter(shown)
            new.append(shown.is_new)
        scenes.forget(scenes.position)
        kept.append(scenes.keep_from)
    return new, kept


def test_a_still_picture_is_no_place_to_begin() -> None:
    """Frames 10 to 19 show one moment: two repeats are left out, then all count. A fresh filter leaves out two more."""
    new, kept = walk(pictures([*range(10), *[10] * 10, *range(11, 21)]))
    assert new == [True] * 11 + [False] * 2 + [True] * 17
    # A window is two pictures long: who goes on at the latest picture needs the two before it.
    assert kept[:11] == [0, 0, *range(9)]
    assert kept[12:20] == [8, 9, *[10] * 6]  # 10 is the last frame at which a fresh filter would go on in this way
    assert kept[20:] == [10, 10, *range(20, 28)]


@pytest.mark.parametrize("still", [1, 2, 3, 4, 7])
def test_a_fresh_one_decides_in_the_same_way(still: int) -> None:
    source = pictures([k for n in range(30) for k in [n] * (still if n % 9 == 4 else 1 + (n % 6 == 5))])
    new, kept = walk(source)
    for at in set(kept):
        assert walk(source, at)[0] == new[at:]
    assert kept[-1] > len(source) - 8
