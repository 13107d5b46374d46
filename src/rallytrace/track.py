"""One video in, its CSV and its video with the ball marked out: `Tracker` between a reader and two writers."""

from __future__ import annotations

import json
import queue
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from rallytrace import video
from rallytrace.annotate import Style, Trail, draw
from rallytrace.errors import InputError, OutputError, VideoError
from rallytrace.files import make_folder, write_text
from rallytrace.names import DRAWN, LONGEST, RECORD, checked_stem, fits, stem_of
from rallytrace.runtime import Network, load_network
from rallytrace.tracker import OpenTracker, PointStream, Tracker
from rallytrace.trajectory import CsvWriter, Linker
from rallytrace.types import BallPoint, Frame, PointSource, VideoInfo, Yuv

T = TypeVar("T")
FILL = 5  # frames; longer gaps are left open by default


@dataclass(frozen=True, slots=True)
class Progress:
    """Told while a video is tracked. `frames_total` is None where the source does not say its length."""

    source: str
    frames_done: int
    frames_total: int | None
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class TrackResult:
    """What `track_video` made. `problems` says, a line each, what was wrong with the video but survivable, `notes` what
    was chosen where there was a choice."""

    source: str
    csv: Path
    video: Path | None
    frames: int
    found: int
    filled: int
    elapsed_s: float
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def track_video(
    source: str | Path,
    out: str | Path = ".",
    *,
    network: Network | None = None,
    draw_video: bool = True,
    threshold: float | None = None,
    overlap: int = 1,
    fill: int = FILL,
    fields: bool = False,
    style: Style | None = None,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_point: Callable[[BallPoint], None] | None = None,
    stop: threading.Event | None = None,
    open_tracker: OpenTracker | None = None,
    name: str | None = None,
    record: Mapping[str, object] | None = None,
    streams: Sequence[str] = (),
) -> TrackResult:
    """Track one video: `out`/<stem>.csv and, with `draw_video`, `out`/<stem>.tracked.mp4, complete or not at all.

    source: a video file, a folder of numbered images, a URL or a camera. network: the bundled one when None. fill:
    longest gap in frames that is interpolated (such points are marked). fields: of interlaced video, one point and
    one picture for each field. on_point: told each finished point. stop: set it to end a live source, keeping the
    results; a file is abandoned with KeyboardInterrupt. open_tracker: where the points come from instead of
    `network`, such as a server; threshold and overlap are then its own. name: the stem of the results' names, that of
    `source` when None. record: kept as `out`/<stem>.track.json. streams: which picture and sound of a file with
    several: see `video.read`. The video begins at 0, the CSV's times are the source's own. Raises InputError for a
    wrong option, VideoError for a bad source, OutputError where a result exists or cannot be written.
    """
    began = time.monotonic()
    csv, drawn = output_paths(source, out, name)
    for path in (csv, drawn) if draw_video else (csv,):
        if not fits(path.name):
            raise OutputError(f"{path.name!r} is longer than the {LONGEST} bytes of a file's name: give --name")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already: use --overwrite, or another --out folder")
    if open_tracker is None:
        open_tracker = _here(network or load_network(), threshold, overlap)
    done = 0
    with ExitStack() as stack:
        reader = stack.enter_context(video.read(source, fields=fields, streams=streams))
        reader.find_picture()
        info = reader.info
        tracker = stack.enter_context(open_tracker(info))
        # A file is read a second time to be drawn on, so that no picture waits in memory for its point to be known.
        keep = draw_video and info.is_live
        reader.give_to(tracker, keep_picture=keep)

        def tell(point: BallPoint) -> None:
            nonlocal done
            done += 1
            if on_point:
                on_point(point)
            if on_progress:
                on_progress(Progress(str(source), done, _length(info), time.monotonic() - began))

        points = stack.enter_context(closing(_points(reader, tracker, Linker(info.wh, fill=fill), info, stop)))
        to = drawn if draw_video else None
        lost: list[str] = []
        counts = write_track(
            source,
            info,
            points,
            csv,
            to,
            style=style,
            on_point=tell,
            record=record,
            streams=streams,
            problems=lost,
        )
        problems = (*_about(info, draw_video), *reader.problems, *lost)
        notes = tuple(reader.notes)
    return TrackResult(
        source=str(source),
        csv=csv,
        video=drawn if draw_video else None,
        frames=sum(counts.values()),
        found=counts[PointSource.MODEL],
        filled=counts[PointSource.FILLED],
        elapsed_s=time.monotonic() - began,
        problems=problems,
        notes=notes,
    )


def _about(info: VideoInfo, draw_video: bool) -> list[str]:
    """What is worth knowing of a video that is tracked, a line each."""
    lines = []
    if info.is_live and info.path.lower().startswith(("http://", "https://")):
        lines.append("read as a live stream: points from the past alone, no sound; if it is a file, download it first")
    if info.picture is not None:
        x, y, w, h = info.picture
        lines.append(f"black borders: the network sees the {w}x{h} picture at ({x}, {y}) alone")
    if info.interlaced == "frame":
        lines.append("interlaced: each frame is its first field's moment, --fields gives the second one's too")
    if draw_video and info.colours.hdr is not None:
        lines.append(f"HDR ({info.colours.hdr}): the drawn video keeps transfer and primaries, but has 8 bits")
    return lines


def write_track(
    source: str | Path,
    info: VideoInfo,
    points: Iterable[tuple[Yuv | None, BallPoint]],
    csv: Path,
    drawn: Path | None,
    *,
    style: Style | None = None,
    on_point: Callable[[BallPoint], None] | None = None,
    record: Mapping[str, object] | None = None,
    streams: Sequence[str] = (),
    problems: list[str] | None = None,
) -> dict[PointSource, int]:
    """Finished points, with their pictures where the source is live -> `csv` and, where it is not None, `drawn`.

    Both appear complete, the CSV last, or not at all; so does `record`, which says what they were made from.
    problems: gets a line for what `drawn` lacks. Returns how many points of each kind there are. Raises OutputError;
    VideoError where there is no point.
    """
    counts = {PointSource.MODEL: 0, PointSource.FILLED: 0, PointSource.NONE: 0}
    make_folder(csv.parent)
    with ExitStack() as stack:
        rows = stack.enter_context(CsvWriter(csv))
        stack.push(partial(_keep_record, csv, record))
        sink = stack.enter_context(_VideoSink(drawn, info, style or Style(), source, streams)) if drawn else None
        for picture, point in points:
            counts[point.source] += 1
            rows.write(point)
            if sink is not None:
                sink.put(point, picture)
            if on_point:
                on_point(point)
        if not sum(counts.values()):
            raise VideoError(f"{source} holds no picture that can be decoded: check that it plays")
        rows.flush()  # a full disk must show before the video gets its name
    if sink is not None and problems is not None:
        problems += sink.problems
    return counts


def _keep_record(csv: Path, record: Mapping[str, object] | None, kind: type[BaseException] | None, *_: object) -> None:
    """Before the CSV gets its name, and never beside an older one."""
    path = csv.with_name(f"{csv.name.removesuffix('.csv')}{RECORD}")
    if kind is None and (record is not None or path.exists()):
        csv.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        if record is not None:
            write_text(path, json.dumps(record, indent=2) + "\n")


def _here(network: Network, threshold: float | None, overlap: int) -> OpenTracker:
    """Tracks in this process."""

    def open_tracker(info: VideoInfo) -> AbstractContextManager[PointStream]:
        batch = 8 if network.device == "cuda" and not info.is_live else 1  # on a CPU, larger ones gain nothing
        return nullcontext(
            Tracker(
                network,
                info.wh,
                threshold=threshold,
                overlap=overlap,
                live=info.is_live,
                batch=batch,
                picture=info.picture,
            )
        )

    return open_tracker


def output_paths(source: str | Path, out: str | Path, name: str | None = None) -> tuple[Path, Path]:
    """Where `track_video` puts the CSV and the annotated video. Raises InputError for an impossible name."""
    stem = stem_of(source) if name is None else checked_stem(name)
    if name is not None and (stem != unicodedata.normalize("NFC", name) or not stem.strip(". ")):
        raise InputError(f"{name!r} cannot be the name of results: expected one without / and control characters")
    return Path(out) / f"{stem}.csv", Path(out) / f"{stem}{DRAWN}"


def _length(info: VideoInfo) -> int | None:
    """The number of frames, estimated where only the duration is known."""
    return info.n_frames or (round(info.duration_s * info.fps) if info.duration_s else None)


def _points(
    reader: Iterable[Frame], tracker: PointStream, linker: Linker, info: VideoInfo, stop: threading.Event | None
) -> Generator[tuple[Yuv | None, BallPoint], None, None]:
    """The finished points, each with its picture where the reader keeps them; decoding runs ahead in its own thread."""
    pictures: deque[Yuv | None] = deque()

    def linked(points: Iterable[BallPoint]) -> Iterator[tuple[Yuv | None, BallPoint]]:
        for point in points:
            for done in linker.push(point):
                yield pictures.popleft(), done

    with _Ahead(reader) as ahead:
        for frame in ahead:
            if stop is not None and stop.is_set():
                if not info.is_live:
                    raise KeyboardInterrupt
                break  # a live source ends when its user says so, and its results are whole
            pictures.append(frame.picture)
            yield from linked(tracker.push(frame))
    yield from linked(tracker.flush())
    yield from zip(pictures, linker.flush(), strict=True)


class _Ahead(Iterator[T]):
    """Runs an iterator in a thread, `depth` items ahead; its exceptions come out where they would have."""

    _END = object()

    def __init__(self, items: Iterable[T], depth: int = 8) -> None:
        self._items, self._queue = items, queue.Queue[object](depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():  # the worker may be waiting for room
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _work(self) -> None:
        try:
            for item in self._items:
                self._queue.put(item)
                if self._stop.is_set():
                    return
            self._queue.put(self._END)
        except BaseException as error:  # handed over, to be raised by whoever iterates
            self._queue.put(error)

    def __next__(self) -> T:
        item = self._queue.get()
        if item is self._END:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return item  # type: ignore[return-value]


class _VideoSink:
    """Draws and encodes in a thread of its own. The file appears only after a clean exit.

    Pictures of a live source come with their points; those of a file are read again, one per point.
    """

    def __init__(
        self, path: Path, info: VideoInfo, style: Style, source: str | Path, streams: Sequence[str] = ()
    ) -> None:
        self.problems: list[str] = []  # what the video lacks
        self._path = path
        self._info = info
        self._source = source
        self._streams = streams
        self._style = style
        self._queue = queue.Queue[tuple[BallPoint, Yuv | None] | None](8)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._again: video.VideoReader | None = None

    def __enter__(self) -> Self:
        info = self._info
        with ExitStack() as stack:
            if not info.is_live:
                fields = info.interlaced == "field"
                again = video.read(self._source, wh=(16, 16), keep_picture=True, fields=fields, streams=self._streams)
                self._again = stack.enter_context(again)
            self._writer = video.VideoWriter(
                self._path, info.wh, info.fps, audio_from=self._again, from_zero=True, pixel_aspect=info.pixel_aspect
            )
            stack.enter_context(self._writer)
            self._opened = stack.pop_all()
        self.problems = self._writer.problems
        self._thread.start()
        return self

    def put(self, point: BallPoint, picture: Yuv | None) -> None:
        if self._error:
            raise self._error
        self._queue.put((point, picture))

    def _work(self) -> None:
        items = iter(self._queue.get, None)
        try:
            self._draw(items)
        except BaseException as error:  # raised by the next put(), or at exit
            self._error = error
            for _ in items:  # keep emptying the queue: put() must not wait for a thread that has given up
                pass

    def _draw(self, items: Iterable[tuple[BallPoint, Yuv | None]]) -> None:
        trail = Trail(self._style.trail_s)
        for point, fresh in items:
            picture = fresh or self._read_again()
            self._writer.write(draw(picture, point, trail.push(point), self._style), point.pts_s)

    def _read_again(self) -> Yuv:
        frame = next(self._again, None) if self._again else None
        if frame is None or frame.picture is None:
            count = self._again.count if self._again else 0
            raise VideoError(
                f"{self._source} has only {count} pictures now that it is read again to be drawn on: it was changed, "
                "or is still being written; try again when it is whole, or use --no-video"
            )
        return frame.picture

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error and error is None:
            self._opened.__exit__(type(self._error), self._error, self._error.__traceback__)
            raise self._error
        self._opened.__exit__(kind, error, at)
