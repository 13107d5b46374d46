"""The court through a video: found once in a scene, then checked and followed as the camera pans and zooms."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rallytrace.court.camera import project
from rallytrace.court.find import SURE, Court, believe, find_court, to_source, to_work, work_image
from rallytrace.court.fit import refine
from rallytrace.court.model import CourtModel, Floats, court_model
from rallytrace.types import Image

EVERY = 15  # pictures between two looks while the camera stands still
EVERY_MOVING = 2
STILL_PX = 0.6  # of the work image, that corners may move while the camera counts as still
REACH_PX = 10.0  # of the work image: how far lines may have moved between two looks
SEARCHES = 3  # full searches in a scene, after which it counts as one without a court
COARSE_M = 0.75  # between profiles, where the court is only checked
WAIT = 25  # pictures between two full searches


@dataclass(frozen=True, slots=True, eq=False)
class CourtStretch:
    """Frames `first` to `last`, both counted, in which the court stands still in the picture, or is not seen: None."""

    first: int
    last: int
    court: Court | None


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What one picture showed. court: (3, 3) of the work image, None where there was none."""

    index: int
    court: Floats | None
    support: float


class CourtFollower:
    """Feed it the pictures of one video in order; `flush` gives the stretches, which together hold all frames.

    sport: whose court. Raises InputError for an unknown sport, MissingDependency without OpenCV.

        follower = CourtFollower("tennis")
        for frame in reader:
            follower.push(frame.index, frame.image)
        stretches = follower.flush()
    """

    def __init__(self, sport: str) -> None:
        self._model = court_model(sport)
        self._known: Floats | None = None  # the last court of an earlier scene
        self._scale = 1.0
        self._done: list[CourtStretch] = []
        self._begin(0)

    def wants(self, index: int, *, cut: bool = False) -> bool:
        """Whether the picture of frame `index` will be looked at; others need not be made."""
        return cut or index >= self._next

    def push(self, index: int, image: Image | None, *, cut: bool = False) -> None:
        """Frame `index`; its grey picture, uint8 (h, w) of the source's size, may be None where it is not wanted.

        cut: whether a scene begins with this frame.
        """
        if cut and index > self._first:
            self._end()
            self._begin(index)
        self._last = index
        if image is not None and index >= self._next:
            self._look(index, image)

    def flush(self) -> list[CourtStretch]:
        """The stretches of all frames; the follower is then ready for another video."""
        if self._last >= self._first:
            self._end()
        done = self._done
        self._done = []
        self._begin(0)
        return done

    def _begin(self, first: int) -> None:
        self._first = first
        self._last = first - 1
        self._next = first
        self._looks: list[_Look] = []
        self._searches = 0
        self._search_at = first

    def _look(self, index: int, image: Image) -> None:
        small, self._scale = work_image(image)
        grey = small.astype(np.float64)
        before = self._looks[-1].court if self._looks else self._known
        found = None if before is None else self._fit(grey, before)
        if found is None and self._searches < SEARCHES and index >= self._search_at:
            found = self._search(image)
            self._searches += 1
            self._search_at = index + WAIT
        court, support = found or (None, 0.0)
        self._looks.append(_Look(index, court, support))
        if court is None:
            self._next = index + EVERY
            return
        moving = before is None or _moved_px(before, court, self._model) > STILL_PX
        self._next = index + (EVERY_MOVING if moving else EVERY)
        self._known = court

    def _fit(self, grey: Floats, before: Floats) -> tuple[Floats, float] | None:
        quick = refine(grey, before, self._model, 0.6 * REACH_PX, rounds=1, step_m=COARSE_M)
        if quick is not None and _moved_px(before, quick, self._model) <= STILL_PX:
            support = believe(grey, quick, self._model, COARSE_M)
            if support >= SURE:
                return quick, support
        fitted = refine(grey, before, self._model, REACH_PX, rounds=3)
        if fitted is None:
            return None
        support = believe(grey, fitted, self._model)
        return (fitted, support) if support >= SURE else None

    def _search(self, image: Image) -> tuple[Floats, float] | None:
        court = find_court(image, self._model.sport)
        if court is None:
            return None
        return to_work(court.court_to_image, self._scale), court.support

    def _end(self) -> None:
        """The scene's looks become stretches, which meet half-way between two looks."""
        groups = _groups(self._looks, self._model)
        first = self._first
        for group, after in pairwise([*groups, None]):
            assert group is not None
            last = self._last if after is None else (group[-1].index + after[0].index) // 2
            self._done.append(CourtStretch(first, last, self._court(group)))
            first = last + 1
        if not groups:
            self._done.append(CourtStretch(first, self._last, None))

    def _court(self, group: list[_Look]) -> Court | None:
        courts = [look.court for look in group if look.court is not None]
        if not courts:
            return None
        support = float(np.mean([look.support for look in group]))
        mean = np.mean(courts, axis=0)  # all are nearly equal, and 1 in the last place
        return Court(self._model.sport, to_source(mean, self._scale), support)


def _groups(looks: list[_Look], model: CourtModel) -> list[list[_Look]]:
    """Looks in a row that show the court in one place. A single look that misses it does not count."""
    kept = [
        look
        for before, look, after in zip([None, *looks[:-1]], looks, [*looks[1:], None], strict=True)
        if look.court is not None or not (before and after and before.court is not None and after.court is not None)
    ]
    groups: list[list[_Look]] = []
    for look in kept:
        if groups and _is_same(groups[-1][0], look, model):
            groups[-1].append(look)
        else:
            groups.append([look])
    return groups


def _is_same(a: _Look, b: _Look, model: CourtModel) -> bool:
    if a.court is None or b.court is None:
        return a.court is None and b.court is None
    return _moved_px(a.court, b.court, model) <= STILL_PX


def _moved_px(a: Floats, b: Floats, model: CourtModel) -> float:
    return float(np.abs(project(a, model.corners) - project(b, model.corners)).max())
