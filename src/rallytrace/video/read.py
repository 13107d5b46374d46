"""Reading: files, folders of pictures, URLs and cameras as one iterator of Frames."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import av

from rallytrace.errors import InputError, VideoError
from rallytrace.geometry import FrameTransform
from rallytrace.names import PICTURE_SUFFIXES
from rallytrace.types import Box, Clip, Frame, VideoInfo
from rallytrace.video.borders import Borders
from rallytrace.video.container import scheme_of, without_file_scheme
from rallytrace.video.frames import Colour, Converter, decode_picture, rotation_deg, upright_wh
from rallytrace.video.shard import SUFFIX, Shard
from rallytrace.video.sound import Heard
from rallytrace.video.stream import DEFAULT_FPS, SAMPLES, Stored, Stream, TimedFrames

LIVE_LOOK = 25  # pictures of a live source that are held to look for borders, where there may be some


class Taker(Protocol):
    """What takes frames: a tracker, here or on a server."""

    @property
    def transform(self) -> FrameTransform: ...

    @property
    def colour(self) -> Colour: ...


class _Source(Protocol):
    problems: list[str]
    notes: list[str]

    @property
    def stored(self) -> Stored: ...

    def frames(self) -> TimedFrames: ...
    def samples(self) -> Iterator[av.VideoFrame]: ...
    def info(self, start_s: float, first: av.VideoFrame) -> VideoInfo: ...
    def heard(self) -> Heard | None: ...
    def close(self) -> None: ...


class VideoReader:
    """An iterator of `Frame`: the n-th picture in presentation order has index n. Use it as a context manager.

    pts_s is the stream's own presentation time, its start offset included, and always increases: see `clock`.
    `problems` has a line for each thing that was wrong but survivable; it is complete once the iteration has ended.
    `notes` has a line for each choice that was made. Not thread-safe: close it where nobody is iterating.
    """

    info: VideoInfo
    problems: list[str]
    notes: list[str]

    def __init__(self, source: _Source, wh: tuple[int, int] | None, colour: Colour, keep_picture: bool) -> None:
        self._source, self._frames, self._converter = source, source.frames(), Converter()
        self._colour, self._keep_picture, self._index = colour, keep_picture, 0
        self.problems, self._stored = source.problems, source.stored
        self.notes = source.notes
        self._seen: deque[tuple[float, av.VideoFrame]] = deque()  # decoded, but not given yet
        try:
            first = next(self._frames)  # its size, format and orientation are the video's
            self.info = source.info(*first)
        except BaseException:
            self.close()
            raise
        self._seen.append(first)
        self._wh = wh or self.info.wh
        self._box: Box | None = None

    def find_picture(self) -> None:
        """Looks for black borders: `info.picture` is what is within them, None where there are none. Call it before the
        first frame. Pictures from all over a file are looked at, of a live source those of about the first second."""
        if self._stored:
            return  # a shard says it itself
        borders = Borders()
        w, h = self.info.wh
        for frame in self._samples():
            upright = upright_wh(frame) == (w, h)
            if upright and not borders.push(self._converter.image(frame, (w, h), "grey")):
                return
        self.info = replace(self.info, picture=borders.box)

    def _samples(self) -> Iterator[av.VideoFrame]:
        yield self._seen[0][1]
        if not self.info.is_live:
            yield from self._source.samples()
            return
        for timed in islice(self._frames, LIVE_LOOK):
            self._seen.append(timed)
            yield timed[1]

    def give_to(self, taker: Taker, *, keep_picture: bool = False) -> None:
        """`give` what a tracker needs: the picture within black borders, at its size and in its colour."""
        transform = taker.transform
        self.give(wh=transform.content_wh, colour=taker.colour, keep_picture=keep_picture, box=transform.box)

    def give(self, *, wh: tuple[int, int], colour: Colour, keep_picture: bool = False, box: Box | None = None) -> None:
        """From the next frame on, give images of this size and colour; for when they depend on `info`. See `read`.
        box: the part of the picture that they show, all of it when None.

        Raises VideoError where a shard of a feature set holds less than that.
        """
        if self._stored and (
            max(a / b for a, b in zip(wh, self._stored[0], strict=True)) > 1
            or (colour == "rgb" and self._stored[1] == "grey")
        ):
            (w, h), kept = self._stored
            raise VideoError(
                f"{self.info.path} holds {kept} pictures of {w}x{h}, but {colour} ones of {wh[0]}x{wh[1]} are needed: "
                "prepare the features for this network (--model, --size, --colour)"
            )
        self._wh, self._colour, self._keep_picture = wh, colour, keep_picture
        self._box = None if self._stored else box  # a shard holds that part only

    @property
    def count(self) -> int:
        """How many frames it has given."""
        return self._index

    def heard(self) -> Heard | None:
        """The sound that belongs to the pictures, for `VideoWriter`."""
        return self._source.heard()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        pts_s, frame = self._seen.popleft() if self._seen else next(self._frames)
        if (
            not self._stored
            and upright_wh(frame) != self.info.wh
            and not any("size changes" in line for line in self.problems)
        ):
            at = f"frame {self._index} ({pts_s:.2f} s)"
            self.problems.append(f"the size changes at {at} to {upright_wh(frame)}: resized to {self.info.wh}")
        image = self._converter.part(frame, self._box, self._wh, self._colour, of_wh=self.info.wh)
        picture = self._converter.picture(frame, self.info.wh) if self._keep_picture else None
        self._index += 1
        return Frame(self._index - 1, pts_s, image, picture)

    def close(self) -> None:
        """Frees the decoder; further iteration raises StopIteration. May be called twice."""
        self._seen.clear()
        self._frames.close()
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def probe(path: str | Path) -> VideoInfo:
    """What `path` holds; decodes one picture. Raises VideoError, as `read` does."""
    with read(path) as reader:
        return reader.info


def read(
    path: str | Path,
    *,
    wh: tuple[int, int] | None = None,
    colour: Colour = "grey",
    keep_picture: bool = False,
    fps: Fraction | None = None,
    fields: bool = False,
    timeout_s: float = 10.0,
    streams: Sequence[str] = (),
) -> VideoReader:
    """Open a video file, a folder of numbered pictures, a shard of a feature set (.tar), a URL of one of `SCHEMES`, a
    camera (`camera:0`), or a pipe, which is live: "-" for standard input, or the path of a FIFO.

    wh: size of the images, of the upright picture; the source's own when None. colour: uint8 (h, w) "grey" or
    (h, w, 3) "rgb", 0..255. keep_picture: give Frame.picture too, the source-size planes. fps: of a folder, 30 when
    None. fields: of an interlaced source, give a picture for each field; else one for each frame, of its first field's
    moment. timeout_s: how long a URL or camera may stay silent, when it is opened and later. streams: which picture and
    which sound of a container: "1" is the second stream of all, "v:1" the second picture, "a:0" the first sound; the
    default ones, then the largest, where none is named. Pixels that are not square stay as they are stored. Raises
    VideoError, InputError.
    """
    source: _Source
    path = without_file_scheme(path)
    if scheme_of(path) is None and Path(path).is_dir():
        source = _Folder(Path(path), fps or DEFAULT_FPS)
    elif scheme_of(path) is None and str(path).endswith(SUFFIX):
        source = Shard(Path(path))
    elif fps is not None:
        raise ValueError(f"fps is for folders of pictures, {path} states its own")
    else:
        source = Stream(str(path), timeout_s, fields=fields, streams=streams)
    if streams and not isinstance(source, Stream):
        raise InputError(f"--stream is for video files, {path} holds pictures only")
    return VideoReader(source, wh, colour, keep_picture)


def read_clip(clip: Clip) -> VideoReader:
    """`read` of the clip's video. Raises VideoError, also where the file is not the one whose checksum the clip has."""
    if clip.sha256:
        try:
            with open(clip.video, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise VideoError(f"cannot read {clip.video}: {error.strerror}") from None
        if found != clip.sha256:
            raise VideoError(
                f"{clip.video} is damaged or was replaced (SHA-256 {found[:12]}, expected "
                f"{clip.sha256[:12]}): copy it or prepare it again"
            )
    return read(clip.video)


class _Folder:
    """A folder of pictures of one size, in the order of their numbers."""

    stored: Stored = None

    def __init__(self, folder: Path, fps: Fraction) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._folder, self._fps = folder, fps
        found = (f for f in folder.iterdir() if f.suffix.lower() in PICTURE_SUFFIXES and not f.name.startswith("."))
        self._files = sorted(found, key=lambda file: _natural(file.name))
        if not self._files:
            raise VideoError(
                f"{folder} holds no pictures, expected numbered ones ({', '.join(sorted(PICTURE_SUFFIXES))})"
            )

    def frames(self) -> TimedFrames:
        wh = None
        for i, file in enumerate(self._files):
            frame = decode_picture(file.read_bytes(), str(file))
            wh = wh or upright_wh(frame)
            if upright_wh(frame) != wh:
                raise VideoError(f"{file} is {upright_wh(frame)}, expected {wh} as the pictures before it")
            yield float(i / self._fps), frame

    def samples(self) -> Iterator[av.VideoFrame]:
        """Some pictures from all over the folder."""
        for file in self._files[:: -(-len(self._files) // SAMPLES)]:
            yield decode_picture(file.read_bytes(), str(file))

    def info(self, start_s: float, first: av.VideoFrame) -> VideoInfo:
        n = len(self._files)
        return VideoInfo(
            path=str(self._folder),
            wh=upright_wh(first),
            fps=self._fps,
            n_frames=n,
            duration_s=float(n / self._fps),
            start_s=start_s,
            codec=self._files[0].suffix[1:].lower(),
            pixel_format=first.format.name,
            rotation_deg=rotation_deg(first),
            has_audio=False,
            is_live=False,
        )

    def heard(self) -> Heard | None:
        return None

    def close(self) -> None:
        pass


def _natural(name: str) -> list[str | int]:
    """Sorts frame10 after frame9."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"([0-9]+)", name)]
