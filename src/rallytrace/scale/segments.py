"""A long video in segments: where each may begin, one of them tracked, and all of them joined without a seam.

What a tracker says of a frame depends on the pictures near it only, and on where its windows begin. A scout reads the
video once, without the network, and notes at which frames a fresh tracker would be in step with one that has seen
everything (`track.Scenes`). A segment is fed from such a frame on, a few hundred pictures before its own first one, and
a few hundred beyond its last, so that its points are those of the whole video, to the last bit.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from rallytrace import video
from rallytrace.errors import InputError
from rallytrace.geometry import FrameTransform
from rallytrace.models import ModelSpec
from rallytrace.runtime import Network
from rallytrace.tracker import Scenes, Tracker
from rallytrace.trajectory import Trajectory
from rallytrace.types import BallPoint, Box, Frame
from rallytrace.video import FrameTable, IndexedReader
from rallytrace.window import Shown

PARTS = ("frame", "pts_s", "xy", "score", "source")


@dataclass(frozen=True, slots=True)
class Segment:
    """Frames `first` to `stop` - 1; a tracker is fed from `feed_from` on."""

    first: int
    stop: int
    feed_from: int

    def __post_init__(self) -> None:
        if not 0 <= self.feed_from <= self.first < self.stop:
            raise ValueError(f"expected feed_from <= first < stop, got {self}")


@dataclass(frozen=True, slots=True)
class Plan:
    """How one video is tracked in pieces. table: where its pictures are. picture: what is within black borders."""

    table: FrameTable
    segments: tuple[Segment, ...]
    picture: Box | None = None

    def pack(self) -> bytes:
        """As bytes that `unpack` reads."""
        out = io.BytesIO()
        bounds = np.array([(s.first, s.stop, s.feed_from) for s in self.segments], np.int64)
        picture = np.array(self.picture or (), np.int64)
        np.savez(out, table=np.frombuffer(self.table.pack(), np.uint8), bounds=bounds, picture=picture)
        return out.getvalue()

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Raises InputError for bytes that are no plan."""
        with _npz_errors(), np.load(io.BytesIO(data), allow_pickle=False) as parts:
            bounds = [Segment(*map(int, row)) for row in parts["bounds"]]
            picture = Box(*map(int, parts["picture"])) if len(parts["picture"]) else None
            return cls(FrameTable.unpack(parts["table"].tobytes()), tuple(bounds), picture)


class Scout:
    """Looks at every frame of a video and says where segments of about `length` frames may begin: at cuts if it can."""

    def __init__(
        self, spec: ModelSpec, wh: tuple[int, int], *, overlap: int = 1, length: int, picture: Box | None = None
    ) -> None:
        self.transform = FrameTransform.fit_picture(wh, picture, spec.size_wh, spec.multiple)
        self._scenes, self._length = Scenes(spec, overlap), length
        self._begins: list[tuple[int, int]] = []  # first frame, and where to feed from
        self._n = 0

    def look(self, frame: Frame) -> None:
        """`frame.image` as a tracker gets it."""
        self._see(self._scenes.look(frame, self.transform.pad(frame.image)))
        self._n = frame.index + 1

    def _see(self, known: Iterable[Shown[tuple[int, float]]]) -> None:
        for shown in known:
            if shown.begins:
                self._scenes.begin()
            self._scenes.enter(shown)
            self._scenes.forget(self._scenes.position)
            index = shown.of[0]
            since = index - self._begins[-1][0] if self._begins else self._length
            if since >= self._length or (shown.begins and since >= self._length / 2):
                self._begins.append((index, self._scenes.keep_from))

    def segments(self) -> tuple[Segment, ...]:
        """Of all frames; the video has ended."""
        self._see(self._scenes.flush())
        begins = list(self._begins)
        if len(begins) > 1 and self._n - begins[-1][0] < self._length / 2:
            begins.pop()  # its overlaps would cost more than it holds
        stops = [first for first, _ in begins[1:]] + [self._n]
        return tuple(Segment(first, stop, feed) for (first, feed), stop in zip(begins, stops, strict=True))


def plan(path: str | Path, spec: ModelSpec, *, overlap: int = 1, length: int) -> Plan:
    """Decodes the video once, and cuts it into segments of about `length` frames.

    A file that cannot be entered in its middle, or is damaged, is one segment. Raises VideoError, InputError.
    """
    with video.read(path) as reader:
        reader.find_picture()
        info = reader.info
    scout = Scout(spec, info.wh, overlap=overlap, length=length, picture=info.picture)
    to = scout.transform
    table = video.frame_table(path, on_frame=scout.look, wh=to.content_wh, colour=spec.colour, box=to.box)
    if not len(table.ticks) or table.problems:
        return Plan(table, (Segment(0, len(table), 0),), info.picture)
    return Plan(table, scout.segments(), info.picture)


def track_segment(
    path: str | Path, whole: Plan, number: int, network: Network, *, threshold: float | None = None, overlap: int = 1
) -> list[BallPoint]:
    """The points of one segment, as the tracker gives them: not linked yet. Raises VideoError, InputError."""
    segment = whole.segments[number]
    batch = 8 if network.device == "cuda" else 1
    picture = whole.picture
    tracker = Tracker(network, whole.table.wh, threshold=threshold, overlap=overlap, batch=batch, picture=picture)
    to = tracker.transform
    points: list[BallPoint] = []
    with IndexedReader(path, whole.table) as reader:
        for frame in reader.onwards(segment.feed_from, wh=to.content_wh, colour=tracker.colour, box=to.box):
            points += tracker.push(frame)
            if points and points[-1].frame >= segment.stop - 1:
                break
        else:
            points += tracker.flush()
    return [point for point in points if segment.first <= point.frame < segment.stop]


def pack_points(points: Iterable[BallPoint]) -> bytes:
    """Lossless; `unpack_points` reads it."""
    columns, out = Trajectory.from_points(points), io.BytesIO()
    np.savez_compressed(out, **{name: getattr(columns, name) for name in PARTS})
    return out.getvalue()


def unpack_points(data: bytes) -> list[BallPoint]:
    """Raises InputError for bytes that are no points."""
    with _npz_errors(), np.load(io.BytesIO(data), allow_pickle=False) as parts:
        return list(Trajectory(*(parts[name] for name in PARTS)))


@contextmanager
def _npz_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"a part of a tracked video cannot be read ({error}): delete it and run again") from None
