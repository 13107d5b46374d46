"""Pictures by index: a table of all pictures of a file, made once, and a reader that jumps by it, exactly."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, get_args

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import PictureType
from numpy.typing import NDArray

from rallytrace.errors import VideoError
from rallytrace.types import Box, Frame, Image
from rallytrace.video.deinterlace import Scan
from rallytrace.video.frames import Colour, Converter, check_size, decode_picture, encode_jpeg, upright_wh
from rallytrace.video.stream import Stream, ticks_of

NEAR = 8  # pictures that are rather decoded and dropped than jumped over
PROBES = 4  # jumps that a new table is checked by
PROBE_WH = (64, 36)
MAX_PICTURES = 4_000_000  # 18 hours at 60 pictures a second


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class FrameTable:
    """All pictures of a video, as `read` gives them: index n is the n-th in presentation order.

    pts_s float64 (n,): presentation times, s, increasing. ticks int64 (n,): the same in the stream's own unit, as the
    decoder says them; empty where jumping by them does not arrive at the right picture (such a file is read from its
    start). keys int64: indices at which decoding may begin. wh: upright size, px. rate: of the stream. problems: what
    was wrong with the file but survivable, a line each. scan: how its pictures are interlaced.
    """

    pts_s: NDArray[np.float64]
    ticks: NDArray[np.int64]
    keys: NDArray[np.int64]
    wh: tuple[int, int]
    rate: Fraction
    problems: tuple[str, ...] = ()
    scan: Scan = "progressive"

    def __post_init__(self) -> None:
        if len(self.ticks) not in (0, len(self.pts_s)):
            raise ValueError(f"ticks must be none or one per picture, got {len(self.ticks)} for {len(self.pts_s)}")

    def __len__(self) -> int:
        return len(self.pts_s)

    def __repr__(self) -> str:
        return f"FrameTable({len(self)} pictures, wh={self.wh}, rate={self.rate}, keys={len(self.keys)})"

    def pack(self) -> bytes:
        """As bytes that `unpack` reads."""
        out = io.BytesIO()
        whole = np.array([*self.wh, self.rate.numerator, self.rate.denominator], np.int64)
        lines = np.array(self.problems, np.str_)
        arrays = {"pts_s": self.pts_s, "ticks": self.ticks, "keys": self.keys, "whole": whole, "problems": lines}
        np.savez_compressed(out, **arrays, scan=np.array(self.scan))  # type: ignore[arg-type]
        return out.getvalue()

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Raises VideoError for bytes that are no table."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as parts:
                w, h, num, den = map(int, parts["whole"])
                problems = tuple(map(str, parts["problems"]))
                scan = str(parts["scan"]) if "scan" in parts else "progressive"  # as tables were before they had it
                if scan not in get_args(Scan):
                    raise ValueError(f"scan {scan!r}")
                rate = Fraction(num, den)
                return cls(parts["pts_s"], parts["ticks"], parts["keys"], (w, h), rate, problems, scan)  # type: ignore[arg-type]
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, ZeroDivisionError) as error:
            raise VideoError(f"a frame table of {len(data)} bytes cannot be read ({error}): import again") from None


def frame_table(
    path: str | Path,
    on_picture: Callable[[int, int | None], None] | None = None,
    *,
    on_frame: Callable[[Frame], None] | None = None,
    wh: tuple[int, int] | None = None,
    colour: Colour = "grey",
    box: Box | None = None,
) -> FrameTable:
    """Decodes the whole file once. on_picture: told how many pictures are done, and of how many where that is known;
    what it raises ends the work. on_frame: told each frame as `read` gives it at size `wh` in that colour. box: the
    part of it that is given. The jumps are then checked against what was decoded. Raises VideoError."""
    stamps: list[tuple[float, int | None]] = []
    prints: dict[int, int] = {}  # of the picture after each key picture
    keys: list[int] = []
    converter, whole = Converter(), Converter()
    with closing(Stream(str(path), 10.0)) as source:
        for n, (pts_s, frame) in enumerate(source.frames()):
            if n == 0:
                info = source.info(pts_s, frame)
            if n >= MAX_PICTURES:
                raise VideoError(f"{path} has more than {MAX_PICTURES} pictures: cut it into parts")
            stamps.append((pts_s, ticks_of(frame)))
            if keys and keys[-1] == n - 1:
                prints[n] = _print(converter, frame)
            if _is_key(frame):
                keys.append(n)
            if on_picture:
                on_picture(n + 1, info.n_frames)
            if on_frame:
                on_frame(Frame(n, pts_s, whole.part(frame, box, wh or info.wh, colour, of_wh=info.wh)))
        problems = tuple(source.problems)
        scan = (source.scan or "flagged") if source.is_interlaced else "progressive"
    ticks = np.array([t for _, t in stamps if t is not None], np.int64)
    if len(ticks) != len(stamps) or (np.diff(ticks) <= 0).any():
        ticks = np.empty(0, np.int64)
    times = np.array([pts_s for pts_s, _ in stamps], np.float64)
    table = FrameTable(times, ticks, np.array(keys, np.int64), info.wh, info.fps, problems, scan)
    return table if _arrives(path, table, prints) else replace(table, ticks=np.empty(0, np.int64))


def _is_key(frame: av.VideoFrame) -> bool:
    """Not the points of a stream with rolling intra refresh, at which the picture is not whole yet."""
    return bool(frame.key_frame) and frame.pict_type == PictureType.I


def _print(converter: Converter, frame: av.VideoFrame) -> int:
    return zlib.crc32(converter.image(frame, PROBE_WH, "grey").tobytes())


def _arrives(path: str | Path, table: FrameTable, prints: dict[int, int]) -> bool:
    """Whether jumps to a few places show the pictures that were there when the file was read from its start."""
    if not len(table.ticks):
        return True
    places = sorted(prints)[1:]  # the first is at the start, where nothing can go wrong
    for index in places[:: -(-len(places) // PROBES) or 1]:
        with IndexedReader(path, table) as reader:
            converter = Converter()
            if _print(converter, reader.decode(index)) != prints[index]:
                return False
    return True


class IndexedReader:
    """Pictures of one video by index, each exactly the one that reading from the start would give. A context manager;
    not thread-safe. Every picture that a jump brings is held against the table, so that a wrong one is never given:
    where jumping fails, the file is read from its start. Raises VideoError, also where the file has changed since.
    """

    def __init__(self, path: str | Path, table: FrameTable) -> None:
        self.table = table
        self._path, self._converter = str(path), Converter()
        self._margin = 0  # a transport stream has no index: a jump must aim that much before the key picture
        self._open()

    def _open(self) -> None:
        self._source = Stream(self._path, 10.0, scan=self.table.scan)
        self._pictures: Iterator[av.VideoFrame] = (frame for _, frame in self._source.frames())
        self._at = 0  # index of the picture that decoding gives next

    def distance(self, index: int) -> int:
        """How many pictures must be decoded before `index` is."""
        ahead = index - self._at
        jumped = index - self._key(index)
        return jumped if ahead < 0 else min(ahead, jumped + NEAR)

    def _key(self, index: int) -> int:
        """The last picture at which decoding may begin for `index`; 0 where it must begin at the start."""
        last = index if self.table.scan == "progressive" else index - 1  # a deinterlaced picture needs the one before
        place = int(np.searchsorted(self.table.keys, last, side="right")) - 1
        return int(self.table.keys[place]) if place >= 0 and len(self.table.ticks) else 0

    def run(self, start: int, stop: int, first: int | None = None) -> Iterator[Frame]:
        """RGB frames `start` to `stop` - 1 at source size, decoded once; `first` comes before all others, then its
        neighbours on both sides by turns. The pictures before it stay in memory as decoded until they are given."""
        first = start if first is None else first
        if not 0 <= start <= first < stop <= len(self.table):
            raise IndexError(f"{self._path} has frames 0 to {len(self.table) - 1}, got {start}, {first}, {stop}")
        before = [self.decode(n) for n in range(start, first)]
        yield self._frame(first, self.decode(first))
        for ahead in range(first + 1, max(stop, 2 * first - start + 1)):
            if ahead < stop:
                yield self._frame(ahead, self.decode(ahead))
            if before:
                yield self._frame(start + len(before) - 1, before.pop())

    def onwards(
        self, start: int, *, wh: tuple[int, int], colour: Colour = "grey", box: Box | None = None
    ) -> Iterator[Frame]:
        """The frames from `start` to the last, as `read` gives them."""
        for index in range(start, len(self.table)):
            image = self._converter.part(self.decode(index), box, wh, colour, of_wh=self.table.wh)
            yield Frame(index, float(self.table.pts_s[index]), image)

    def _frame(self, index: int, picture: av.VideoFrame) -> Frame:
        return Frame(index, float(self.table.pts_s[index]), self._converter.image(picture, self.table.wh, "rgb"))

    def decode(self, index: int) -> av.VideoFrame:
        """The picture as the decoder gives it, for use within this package."""
        if not (index - self._at >= 0 and self.distance(index) == index - self._at) and not self._jump(index):
            self.close()
            self._open()
        for frame in islice(self._pictures, index - self._at, None):
            self._at = index + 1
            if len(self.table.ticks) and ticks_of(frame) != self.table.ticks[index]:
                break
            return frame
        self._at = len(self.table)  # nothing that follows is what the table says
        raise VideoError(f"{self._path} is not the file that was imported: frame {index} is not where it was")

    def _jump(self, index: int) -> bool:
        """Go to the key picture of `index`; False where only reading from the start leads there."""
        key = self._key(index)
        for margin in dict.fromkeys((self._margin, NEAR, 3 * NEAR)) if key and len(self.table.ticks) else ():
            if self._land(key, index, max(0, key - margin)):
                self._margin = margin
                return True
        return False

    def _land(self, key: int, index: int, aim: int) -> bool:
        """Seek to picture `aim` and decode from `key` to `index`, looking at the time of each picture on the way."""
        ticks, source = self.table.ticks, self._source
        try:
            source._container.seek(int(ticks[aim]), stream=source._stream, backward=True)
        except FFmpegError:
            return False
        decoded = source.decoded()
        landed = next((f for f in decoded if (ticks_of(f) or 0) >= ticks[key]), None)
        if landed is None or ticks_of(landed) != ticks[key] or not _is_key(landed):
            return False
        pictures = source.deinterlaced(_chain(landed, decoded))
        del landed
        held, at = next(pictures), key
        for frame in islice(pictures, index - key):
            held, at = frame, at + 1
            if ticks_of(frame) != ticks[at]:
                return False
        if at != index:
            return False
        self._pictures, self._at = _chain(held, pictures), index
        return True

    def close(self) -> None:
        """Frees the decoder."""
        self._pictures = iter(())
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _chain(first: av.VideoFrame, rest: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    yield first
    del first
    yield from rest


def read_at(path: str | Path, table: FrameTable, index: int) -> Frame:
    """One RGB frame at source size; opens the file for it. Raises VideoError, IndexError beyond the last frame."""
    with IndexedReader(path, table) as reader:
        return next(reader.run(index, index + 1))


def shrink_jpeg(data: bytes, width: int, quality: int = 85) -> bytes:
    """A JPEG at `width` px, its shape kept; as it is where it is no wider. Raises VideoError."""
    frame = decode_picture(data, "a cached frame")
    w, h = upright_wh(frame)
    if w <= width:
        return data
    check_size(w, h, "a cached frame")
    small: Image = Converter().image(frame, (width, max(1, round(h * width / w))), "rgb")
    return encode_jpeg(small, quality)
