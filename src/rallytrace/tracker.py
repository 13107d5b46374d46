"""Frames in, ball positions out. Hops 2 to 4 are one object, `Tracker`; everything that tracks is a loop around it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import numpy as np

from rallytrace import heatmap
from rallytrace.errors import InputError
from rallytrace.geometry import FrameTransform
from rallytrace.models import ModelSpec
from rallytrace.runtime import Floats, Network
from rallytrace.trajectory.path import AHEAD, BLOCK, LEAST, MOST_PEAKS, PathFinder, Peak
from rallytrace.types import XY, BallPoint, Box, Frame, Image, PointSource, VideoInfo, is_whole
from rallytrace.window import (
    BACKGROUND_EVERY,
    BACKGROUND_REACH,
    Background,
    MergeMode,
    Merger,
    Moments,
    Shown,
    Window,
    WindowMaker,
)


class PointStream(Protocol):
    """What turns the frames of one video into points: a `Tracker`, or a session of one on a server."""

    @property
    def transform(self) -> FrameTransform: ...

    @property
    def colour(self) -> Literal["grey", "rgb"]: ...

    def push(self, frame: Frame) -> list[BallPoint]: ...

    def flush(self) -> list[BallPoint]: ...


OpenTracker = Callable[[VideoInfo], AbstractContextManager[PointStream]]


class Scenes:
    """Which pictures of a video are new, where its scenes begin, and at which frames a fresh tracker would be in step.

    spec, overlap, live, path: of the tracker. step: of its windows. position: of the latest picture, counted through
    all scenes, repeats left out. first: the position at which the present scene begins.
    """

    def __init__(self, spec: ModelSpec, overlap: int = 1, *, live: bool = False, path: bool = True) -> None:
        if not is_whole(overlap, 1) or overlap > spec.frames:
            raise InputError(f"overlap must be between 1 and the network's {spec.frames} frames, got {overlap}")
        self.step = max(1, round(spec.frames / overlap))
        # Pictures that windows, samples of the background and blocks of the path begin with: where a fresh tracker
        # would be in step.
        path = path and not live
        self._in_step = math.lcm(self.step, BACKGROUND_EVERY if spec.background else 1, BLOCK if path else 1)
        behind = BACKGROUND_EVERY * (BACKGROUND_REACH * (2 if live else 1) + 1) if spec.background else 0
        self._reach = behind + spec.frames + AHEAD * path  # no point depends on pictures farther back
        self._starts: list[tuple[int, int, int]] = []  # position, frame index, how far ahead it serves
        self._moments: Moments[tuple[int, float]] = Moments()
        self.position = -1
        self.begin()

    def begin(self) -> None:
        """The next picture is the first of a new scene."""
        self.first = self.position + 1

    def look(self, frame: Frame, image: Image) -> Iterator[Shown[tuple[int, float]]]:
        """The pictures that are known now, `of` frame index and pts_s. `enter` each; before, `begin` if it does."""
        return self._moments.push((frame.index, frame.pts_s), image)

    def flush(self) -> Iterator[Shown[tuple[int, float]]]:
        """The pictures still held back; then the next picture is the first of a new video."""
        yield from self._moments.flush()
        self._moments = Moments()

    def enter(self, shown: Shown[tuple[int, float]]) -> None:
        """That picture comes next."""
        if not shown.is_new:
            return
        self.position += 1
        count = self.position - self.first
        if count % self._in_step == 0 and shown.is_fresh:
            self._starts.append((self.position, shown.of[0], self._reach if count else 0))

    @property
    def keep_from(self) -> int:
        """The frame that a fresh tracker must be fed from to give the same points from what `forget` was told on."""
        return self._starts[0][1] if self._starts else 0

    def forget(self, oldest: int) -> None:
        """No point of a picture before position `oldest` will be asked for."""
        serving = [k for k, (position, _, after) in enumerate(self._starts) if position + after <= oldest]
        del self._starts[: serving[-1] if serving else 0]


class Tracker:
    """Feed it the frames of one video in order; it gives one BallPoint per frame, in order, some frames later.

    network: see `runtime.load_network`. source_wh: size of the video. threshold: peaks below are "no ball", but for
    those on a path, which need 0.6 of it; the network's own when None. overlap: how many windows see each frame, from 1
    (fastest) to the window's length.
    live: use the past only, so that points come after one window instead of after nine seconds. path: take the peak of
    each frame that the motion before and after speaks for (`trajectory.path`; not live), instead of its highest one.
    batch: windows per run of the network. picture: the part of the video within black borders (`info.picture`); frames
    hold it alone, positions are those of the whole video.

        with video.read(path) as reader:
            reader.find_picture()
            tracker = Tracker(load_network(), reader.info.wh, picture=reader.info.picture)
            reader.give_to(tracker)
            for frame in reader:
                for point in tracker.push(frame): ...
            for point in tracker.flush(): ...
    """

    def __init__(
        self,
        network: Network,
        source_wh: tuple[int, int],
        *,
        threshold: float | None = None,
        overlap: int = 1,
        merge: MergeMode = "mean",
        live: bool = False,
        path: bool = True,
        batch: int = 1,
        picture: Box | None = None,
    ) -> None:
        spec = _checked(network, threshold, batch)
        self.network = network
        self.transform = FrameTransform.fit_picture(source_wh, picture, spec.size_wh, spec.multiple)
        self.threshold = spec.threshold if threshold is None else threshold
        self._scenes = Scenes(spec, overlap, live=live, path=path)
        self._merge, self._live, self._path, self._batch = merge, live, path and not live, batch
        self._diagonal_px = math.hypot(*self.transform.source_wh)
        self._last_frame = -1
        self._waiting: deque[tuple[int, float, int | None]] = deque()  # frame index, pts_s, position
        self._results: dict[int, tuple[XY | None, float]] = {}  # position -> source xy, score
        self._begin_scene()

    @property
    def colour(self) -> Literal["grey", "rgb"]:
        """The colour that frames must have."""
        return self.network.spec.colour

    @property
    def keep_from(self) -> int:
        """The frame that a fresh tracker must be fed from to give the same points as this one from now on.

        It is a few hundred frames back at most: who keeps those can go on elsewhere when this tracker is lost.
        """
        return self._scenes.keep_from

    def push(self, frame: Frame) -> list[BallPoint]:
        """`frame.image` at `transform.content_wh`, grey or RGB as `colour` says; it is copied. Raises InputError."""
        self._check(frame)
        self._last_frame = frame.index
        self._see(self._scenes.look(frame, self.transform.pad(frame.image)))
        return self._emit()

    def flush(self) -> list[BallPoint]:
        """The points of the last frames; the tracker is then ready for another video of the same size."""
        self._see(self._scenes.flush())
        self._end_scene()
        points = self._emit()
        self._begin_scene()
        self._last_frame = -1
        return points

    def _check(self, frame: Frame) -> None:
        if not isinstance(frame, Frame):
            raise InputError(f"push takes a Frame, got {type(frame).__name__}: give it Frame(index, pts_s, image)")
        w, h = self.transform.content_wh
        found = frame.image.shape
        if found != ((h, w) if self.colour == "grey" else (h, w, 3)):
            wanted = f"{self.colour}, {w} wide and {h} high"
            raise InputError(
                f"image must be {wanted}, got an array of {found}: see Tracker's transform.content_wh and colour"
            )
        if frame.index <= self._last_frame:
            order = f"frame {frame.index} comes after frame {self._last_frame}"
            raise InputError(f"{order}: push frames in order, each once, and flush before another video")

    def _see(self, known: Iterable[Shown[tuple[int, float]]]) -> None:
        for shown in known:
            if shown.begins:
                self._end_scene()
                self._begin_scene()
            self._scenes.enter(shown)
            if shown.is_new:
                self._windows += self._maker.push(shown.image)
                if len(self._windows) >= self._batch:
                    self._predict(settled=self._maker.settled)
            self._waiting.append((*shown.of, None if shown.is_flash else self._scenes.position))

    def _begin_scene(self) -> None:
        spec = self.network.spec
        background = Background(live=self._live) if spec.background else None
        self._maker = WindowMaker(spec.frames, step=self._scenes.step, outputs=spec.outputs, background=background)
        self._merger = Merger(spec.frames, self._merge)
        self._windows: list[Window] = []
        self._finder = PathFinder(self._diagonal_px, self.threshold)
        self._undecided: deque[tuple[int, list[Peak]]] = deque()  # position, peaks

    def _end_scene(self) -> None:
        self._windows += self._maker.flush()
        self._predict(settled=None)
        self._settle(self._finder.flush())
        self._scenes.begin()

    def _predict(self, *, settled: int | None) -> None:
        """Run the windows that wait; keep the results of the positions that no later window will speak of."""
        for start in range(0, len(self._windows), self._batch):
            batch = self._windows[start : start + self._batch]
            heatmaps, offsets = self.network.run(np.stack([window.stack for window in batch]))
            for i, window in enumerate(batch):
                self._merger.add(window, heatmaps[i], None if offsets is None else offsets[i])
        self._windows = []
        for position, heat, off in self._merger.pop(settled):
            peaks = self._peaks(heat, off)
            if self._path:
                self._undecided.append((self._scenes.first + position, peaks))
                self._settle(self._finder.push(peaks))
            else:
                found = peaks[0].score >= self.threshold
                self._results[self._scenes.first + position] = peaks[0].xy if found else None, peaks[0].score

    def _peaks(self, heat: Floats, offsets: Floats | None) -> list[Peak]:
        spec = self.network.spec
        most, least = (MOST_PEAKS, LEAST * self.threshold) if self._path else (1, 1.0)
        found = heatmap.peaks(heat, offsets, stride=spec.stride, apart_px=spec.sigma_px, least=least, most=most)
        return [Peak(self.transform.to_source(xy), score) for xy, score in found]

    def _settle(self, decided: list[int | None]) -> None:
        for choice in decided:
            position, peaks = self._undecided.popleft()
            self._results[position] = (
                (None, peaks[0].score) if choice is None else (peaks[choice].xy, peaks[choice].score)
            )

    def _emit(self) -> list[BallPoint]:
        points = []
        while self._waiting and (self._waiting[0][2] is None or self._waiting[0][2] in self._results):
            index, pts_s, position = self._waiting.popleft()
            xy, score = (None, 0.0) if position is None else self._results[position]
            source = PointSource.NONE if xy is None else PointSource.MODEL
            points.append(BallPoint(index, pts_s, xy, score, source))
        newest = self._scenes.position  # a repeat of this picture may still come
        oldest = next((position for _, _, position in self._waiting if position is not None), newest)
        for position in [p for p in self._results if p < min(oldest, newest)]:
            del self._results[position]
        self._scenes.forget(oldest)
        return points


def _checked(network: Network, threshold: float | None, batch: int) -> ModelSpec:
    """The network's spec. Raises InputError for options that no tracker can have."""
    spec = getattr(network, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise InputError(f"network must be one that load_network gives, got {type(network).__name__}")
    if threshold is not None and not (isinstance(threshold, float | np.floating) and 0 < threshold < 1):
        raise InputError(f"threshold must be between 0 and 1, or None for the network's own, got {threshold!r}")
    if not is_whole(batch, 1):
        raise InputError(f"batch must be a whole number of windows, 1 or more, got {batch!r}")
    return spec
