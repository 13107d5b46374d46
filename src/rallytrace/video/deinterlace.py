"""Interlaced video -> pictures of one moment each, by FFmpeg's bwdif.

A picture of broadcast video may hold two moments, one in its even rows, one in its odd rows: in it a fast ball is two
combs, and its place is neither's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import Literal, TypeAlias

import av
import numpy as np
from av.error import BlockingIOError as NothingYet
from av.error import EOFError as NothingMore
from av.filter import Graph
from numpy.typing import NDArray

from rallytrace.video.frames import Converter

# flagged: those are that say so; tff, bff: all are, though they do not say so, and the even or the odd rows come first
Scan: TypeAlias = Literal["progressive", "flagged", "tff", "bff"]

LOOK = 24  # pictures that are looked at for the combs of motion, at most
ENOUGH = 2000  # moving pixels that say enough
MOVING_LEVELS = 12  # of 255, between the picture before and the one after
COMBED = 1.4  # how much better one order of the fields fits than the other; see `_Combs`
MIN_H, MAX_H = 400, 1088  # of what is made interlaced,
MAX_FPS = Fraction(61, 2)  # in pictures of two fields each


class Deinterlacer:
    """Decoded pictures in, pictures of one moment out; those that are progressive stay as they are.

    time_base: of the pictures' pts. scan: how they are interlaced; `find_scan` finds out where it is None. fields: one
    picture for each field, whose pts are in half a time_base; else one for each picture, of its first field's moment.
    What comes out for a picture depends on it and its two neighbours only. Each is used for one run of pictures.
    """

    def __init__(self, time_base: Fraction, *, scan: Scan, fields: bool = False) -> None:
        self._time_base, self._scan, self._fields = time_base, scan, fields
        self.has_worked = False

    def pictures(self, decoded: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """One run of consecutive pictures. The first one that was interlaced lacks what the one before would add."""
        graph: _Graph | None = None
        last: av.VideoFrame | None = None
        for frame in decoded:
            if frame.pts is None:
                frame.pts = frame.dts
            if graph is not None and not graph.fits(frame):
                yield from self._timed(graph.flush())
                graph = last = None
            if graph is None and (self._scan in ("tff", "bff") or self._is_flagged(frame)):
                graph = self._graph(frame, last)
            if graph is not None:
                yield from self._timed(graph.push(frame))
                continue
            last = frame
            if self._fields and frame.pts is not None:
                frame.pts *= 2
            yield frame
        if graph is not None:
            yield from self._timed(graph.flush())

    def _is_flagged(self, frame: av.VideoFrame) -> bool:
        return self._scan == "flagged" and frame.interlaced_frame

    def _graph(self, frame: av.VideoFrame, last: av.VideoFrame | None) -> _Graph:
        self.has_worked = True
        mode = "send_field" if self._fields else "send_frame"
        which = "parity=auto:deint=interlaced" if self._scan == "flagged" else f"parity={self._scan}:deint=all"
        graph = _Graph(frame, self._time_base, f"mode={mode}:{which}")
        if last is not None and graph.fits(last):  # is given already; here it only helps its neighbour
            list(graph.push(last))
            graph.skip = 1
        return graph

    def _timed(self, made: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """bwdif counts in half a time_base."""
        for frame in made:
            frame.dts = None
            if not self._fields and frame.pts is not None:
                frame.pts //= 2
            yield frame


class _Graph:
    """FFmpeg's filter graph of one bwdif. skip: pictures that come out first and are not given."""

    def __init__(self, frame: av.VideoFrame, time_base: Fraction, options: str) -> None:
        self._shape = frame.format.name, frame.width, frame.height
        self.skip = 0
        self._graph = Graph()
        self._graph.threads = 1  # the decoder's threads keep the cores busy
        source = self._graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=time_base
        )
        self._graph.link_nodes(source, self._graph.add("bwdif", options), self._graph.add("buffersink")).configure()

    def fits(self, frame: av.VideoFrame) -> bool:
        return (frame.format.name, frame.width, frame.height) == self._shape

    def push(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        self._graph.vpush(frame)
        while True:
            try:
                made = self._graph.vpull()
            except (NothingYet, NothingMore):
                return
            if self.skip:
                self.skip -= 1
            else:
                yield made

    def flush(self) -> Iterator[av.VideoFrame]:
        return self.push(None)


def may_hide_fields(height: int, fps: Fraction) -> bool:
    """Whether a stream that flags no field may have some."""
    return MIN_H <= height <= MAX_H and fps <= MAX_FPS


def find_scan(decoded: Iterator[av.VideoFrame]) -> tuple[Scan, Iterator[av.VideoFrame]]:
    """How a stream is interlaced, by the flags of its first pictures and by their motion; and all of its pictures.

    Few pictures are enough where something moves. Interlaced pictures without motion show nothing of it, and where they
    are not flagged either they count as progressive.
    """
    seen: list[av.VideoFrame] = []
    combs = _Combs()
    for frame in decoded:
        seen.append(frame)
        if frame.interlaced_frame or len(seen) == LOOK or combs.push(frame):
            break
    scan: Scan = "flagged" if seen and seen[-1].interlaced_frame else combs.scan
    return scan, chain(_given(seen), decoded)


def _given(seen: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Each is forgotten once it is given."""
    waiting = deque(seen)
    seen.clear()
    while waiting:
        yield waiting.popleft()


class _Combs:
    """Tells the order of fields by motion, as FFmpeg's idet does.

    In a moving place, the rows of one field fit between their neighbours of the other field best as they were in the
    picture that is nearer in time: the one before for the field that comes second, the one after for the first. In
    progressive pictures both fit alike, however fine the pattern is, and the rows as they are fit better.
    """

    def __init__(self) -> None:
        self._converter = Converter()
        self._images: deque[NDArray[np.int16]] = deque(maxlen=3)
        self._misfits = np.zeros(3)  # if the even rows came first, if the odd ones did, if all came at once
        self._n_moving = 0

    def push(self, frame: av.VideoFrame) -> bool:
        """Whether that is enough."""
        image = self._converter.stored_grey(frame)[:, ::4].astype(np.int16)
        if self._images and self._images[-1].shape != image.shape:
            self._images.clear()
        self._images.append(image)
        if len(self._images) == 3:
            self._look(*self._images)
        return self._n_moving >= ENOUGH

    def _look(self, before: NDArray[np.int16], now: NDArray[np.int16], after: NDArray[np.int16]) -> None:
        moving = np.abs(after[1:-1] - before[1:-1]) > MOVING_LEVELS
        around = now[:-2] + now[2:]
        past, own, future = (np.abs(around - 2 * rows[1:-1]) * moving for rows in (before, now, after))
        even = past[::2].sum() + future[1::2].sum()
        odd = past[1::2].sum() + future[::2].sum()
        self._misfits += (even, odd, own.sum())
        self._n_moving += int(moving.sum())

    @property
    def scan(self) -> Scan:
        even, odd, whole = self._misfits
        best = min(even, odd)
        if self._n_moving < ENOUGH // 10 or max(even, odd) < COMBED * best or whole < 0.8 * best:
            return "flagged"
        return "tff" if best == even else "bff"
