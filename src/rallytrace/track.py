"""Frames in, ball positions out: hops 2 to 4 are one object, `Tracker`, and everything that tracks is a loop around it."""

from __future__ import annotations

from collections import deque

import numpy as np

from rallytrace import heatmap
from rallytrace.geometry import FrameTransform
from rallytrace.runtime import Floats, Network
from rallytrace.types import BallPoint, Frame, Image, PointSource
from rallytrace.window import Background, MergeMode, Merger, RepeatFilter, Window, WindowMaker, is_cut


class Tracker:
    """Feed it the frames of one video in order; it gives one BallPoint per frame, in order, some frames later.

    network: see `runtime.load_network`. source_wh: size of the video. threshold: peaks below are "no ball"; the
    network's own when None. overlap: how many windows see each frame, from 1 (fastest) to the window's length.
    live: use the past only for the background, so that points come after a window instead of after two seconds.
    batch: windows per run of the network.

        tracker = Tracker(load_network(), source_wh=(1280, 720))
        for frame in read(path, wh=tracker.transform.content_wh, colour=tracker.colour):
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
        batch: int = 1,
    ) -> None:
        spec = network.spec
        if not 1 <= overlap <= spec.frames:
            raise ValueError(f"overlap must be between 1 and the network's {spec.frames} frames, got {overlap}")
        self.network = network
        self.transform = FrameTransform.fit_area(source_wh, spec.size_wh, spec.multiple)
        self.threshold = spec.threshold if threshold is None else threshold
        self._step, self._merge, self._live, self._batch = max(1, round(spec.frames / overlap)), merge, live, batch
        self._waiting: deque[tuple[int, float, int]] = deque()  # frame index, pts_s, position of its picture
        self._results: dict[int, tuple[tuple[float, float], float]] = {}  # position -> source xy, score
        self._offset = 0  # the position, counted through all scenes, at which the present scene begins
        self._begin_scene()

    @property
    def colour(self) -> str:
        return self.network.spec.colour

    def push(self, frame: Frame) -> list[BallPoint]:
        """`frame.image` at `transform.content_wh`, grey or RGB as `colour` says."""
        image = self.transform.pad(frame.image)
        if self._count and is_cut(self._last, image):
            self._run(self._maker.flush())
            self._collect(final=True)
            self._offset += self._count
            self._begin_scene()
        if self._repeats.is_new(image):
            self._last = image
            self._count += 1
            self._windows += self._maker.push(image)
            if len(self._windows) >= self._batch:
                self._run_waiting()
        self._waiting.append((frame.index, frame.pts_s, self._offset + self._count - 1))
        return self._emit()

    def flush(self) -> list[BallPoint]:
        """The points of the last frames; the tracker is then ready for another video of the same size."""
        self._run(self._maker.flush())
        self._collect(final=True)
        points = self._emit()
        self._offset += self._count
        self._results.clear()
        self._begin_scene()
        return points

    def _begin_scene(self) -> None:
        spec = self.network.spec
        background = Background(live=self._live) if spec.background else None
        self._maker = WindowMaker(spec.frames, step=self._step, outputs=spec.outputs, background=background)
        self._merger = Merger(spec.frames, self._merge)
        self._repeats = RepeatFilter()
        self._windows: list[Window] = []
        self._count = 0  # pictures in this scene
        self._last: Image = np.empty((0, 0), np.uint8)

    def _run_waiting(self) -> None:
        windows, self._windows = self._windows, []
        self._run(windows)
        self._collect(final=False)

    def _run(self, windows: list[Window]) -> None:
        windows = self._windows + windows
        self._windows = []
        for start in range(0, len(windows), self._batch):
            batch = windows[start : start + self._batch]
            heatmaps, offsets = self.network.run(np.stack([window.stack for window in batch]))
            for i, window in enumerate(batch):
                self._merger.add(window, heatmaps[i], None if offsets is None else offsets[i])

    def _collect(self, *, final: bool) -> None:
        for position, heat, offsets in self._merger.pop(None if final else self._maker.settled):
            self._results[self._offset + position] = self._decode(heat, offsets)

    def _decode(self, heat: Floats, offsets: Floats | None) -> tuple[tuple[float, float], float]:
        spec = self.network.spec
        xy, score = heatmap.decode(heat, offsets, stride=spec.stride)
        return self.transform.to_source(xy), score

    def _emit(self) -> list[BallPoint]:
        points = []
        while self._waiting and self._waiting[0][2] in self._results:
            index, pts_s, position = self._waiting.popleft()
            xy, score = self._results[position]
            found = score >= self.threshold
            source = PointSource.MODEL if found else PointSource.NONE
            points.append(BallPoint(index, pts_s, xy if found else None, score, source))
        newest = self._offset + self._count - 1  # a repeat of this picture may still come
        oldest = self._waiting[0][2] if self._waiting else newest
        for position in [p for p in self._results if p < min(oldest, newest)]:
            del self._results[position]
        return points
