"""Writing H.264 mp4 with the input's times, range and sound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from rallytrace.errors import OutputError, VideoError
from rallytrace.files import drop_partial, partial_path
from rallytrace.types import Yuv
from rallytrace.video.clock import Film
from rallytrace.video.frames import FULL, LIMITED, MATRICES, convert, frame_of_yuv, matrix_of
from rallytrace.video.read import VideoReader
from rallytrace.video.sound import Heard, Sound

TICKS_PER_S = 90_000  # of the times in the file: a frame of 29.97 fps is 3003, a millisecond 90


class VideoWriter:
    """An H.264 mp4 that appears under its name only after a clean exit; after an exception nothing is left.

    path: the file, replaced if it exists. wh: size of the pictures; where a side is odd, which H.264 4:2:0 cannot be,
    its last column or row is repeated once. fps: nominal rate, for players; times are those given to `write`, or with
    `from_zero` counted from the first of them, where also waits of more than 10 s without sound are left out, which are
    jumps of a source's clock. audio_from: a video whose sound is kept in step: the same packets, or AAC where mp4 has
    no room for its codec; or the reader that gives the pictures, so that its clock and its choice of streams count.
    crf, preset: of x264. full_range: of the file; that of the first picture when None. pixel_aspect: width to height of
    a pixel, by which players stretch the picture. Colours are those of the first picture.
    `problems` says what became of unreadable sound. Raises OutputError where the file cannot be written.
    """

    problems: list[str]

    def __init__(
        self,
        path: str | Path,
        wh: tuple[int, int],
        fps: Fraction,
        *,
        audio_from: str | Path | VideoReader | None = None,
        from_zero: bool = False,
        crf: int = 23,
        preset: str = "veryfast",
        full_range: bool | None = None,
        pixel_aspect: Fraction = Fraction(1),
    ) -> None:
        self.problems = []
        self._path, self._wh, self._fps, self._audio_from = Path(path), wh, fps, audio_from
        self._film = Film(float(1 / fps)) if from_zero else None
        self._temporary = partial_path(self._path)
        self._pixel_aspect = pixel_aspect
        self._options, self._full_range = {"crf": str(crf), "preset": preset}, full_range
        self._container: OutputContainer | None = None
        self._sound: Sound | None = None
        self._last: tuple[float, int] | None = None  # pts_s and ticks
        self._scaler = VideoReformatter()

    def __enter__(self) -> Self:
        with self._output_errors():
            if self._path.is_dir():
                raise OutputError(f"{self._path} is a folder, expected the name of a file: add one, as in out.mp4")
            self._temporary.touch()  # says early that the folder is missing or read-only
        return self

    def write(self, picture: Yuv, pts_s: float) -> None:
        """Append a picture of size `wh`, shown from `pts_s` on, which must grow. Raises ValueError, OutputError."""
        if picture.y.shape[::-1] != self._wh:
            raise ValueError(f"picture must be {self._wh} wide and high, got {picture.y.shape[::-1]}")
        if self._last is not None and pts_s <= self._last[0]:
            raise ValueError(f"pts_s must grow, got {pts_s} after {self._last[0]}")
        with self._output_errors():
            container = self._container or self._open(picture)
            shown_s = self._film.picture(pts_s, self._is_heard) if self._film else pts_s
            ticks = round(shown_s * TICKS_PER_S)
            if self._last is not None:  # a source may have finer times than a video can say
                ticks = max(ticks, self._last[1] + 1)
            self._last = pts_s, ticks
            frame = self._in_range(frame_of_yuv(picture))
            frame.pts, frame.time_base = ticks, Fraction(1, TICKS_PER_S)
            container.mux(self._stream.encode(frame))
            if self._sound:
                self._sound.copy(until_s=shown_s)

    def _is_heard(self, start_s: float, stop_s: float) -> bool:
        return self._sound is not None and self._sound.is_heard(start_s, stop_s)

    def _open(self, first: Yuv) -> OutputContainer:
        options = {"movflags": "+faststart", "movie_timescale": str(TICKS_PER_S)}  # start offsets are in the latter
        container = av.open(f"file:{self._temporary}", "w", format="mp4", container_options=options)
        self._container = container
        self._full_range = first.full_range if self._full_range is None else self._full_range
        self._colours = colours = first.colours
        self._stream: VideoStream = container.add_stream("libx264", rate=self._fps, options=self._options)
        context = self._stream.codec_context
        w, h = self._wh
        context.width, context.height, context.pix_fmt = w + w % 2, h + h % 2, "yuv420p"
        context.time_base, context.sample_aspect_ratio = Fraction(1, TICKS_PER_S), self._pixel_aspect
        context.color_range = FULL if self._full_range else LIMITED
        context.colorspace = colours.matrix
        context.color_primaries = colours.primaries
        context.color_trc = colours.transfer
        self._sound = self._open_sound(container)
        container.start_encoding()
        return container

    def _open_sound(self, container: OutputContainer) -> Sound | None:
        """None, and a line in `problems`, where it cannot be opened."""
        source = self._audio_from
        if isinstance(source, VideoReader):
            heard = source.heard()
        else:
            heard = None if source is None or Path(source).is_dir() else Heard(str(source))
        try:
            return None if heard is None else Sound(heard, container, self._film, self.problems)
        except VideoError as error:
            self.problems.append(f"no sound: {error}")
            return None

    def _in_range(self, frame: av.VideoFrame) -> av.VideoFrame:
        to_range = FULL if self._full_range else LIMITED
        if frame.color_range == to_range and frame.colorspace == self._colours.matrix:
            return frame
        matrices = (matrix_of(frame), MATRICES.get(self._colours.matrix, matrix_of(frame)))
        wh = frame.width, frame.height
        return convert(self._scaler, frame, wh, "yuv420p", matrices=matrices, to_range=to_range)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._clean_up()

    def _finish(self) -> None:
        if self._container is None:
            raise OutputError(f"{self._path} is not written: it was given no picture")
        with self._output_errors():
            self._container.mux(self._stream.encode(None))
            if self._sound:
                self._sound.copy(until_s=None)
            self._container.close()
            os.replace(self._temporary, self._path)

    def _clean_up(self) -> None:
        with suppress(OSError):  # first, so that an unfinished file is not moved about by `faststart`
            self._temporary.unlink(missing_ok=True)
        if self._sound:
            self._sound.close()
        if self._container:
            with suppress(FFmpegError):
                self._container.close()
        drop_partial(self._temporary)

    @contextmanager
    def _output_errors(self) -> Iterator[None]:
        try:
            yield
        except (FFmpegError, OSError) as error:
            if isinstance(error, OutputError):
                raise
            advice = "check that its folder exists, can be written to and has room, or choose another"
            raise OutputError(f"{self._path} cannot be written ({error.strerror}): {advice}") from None
