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
from av.audio.codeccontext import AudioCodecContext
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from rallytrace.errors import OutputError, VideoError
from rallytrace.files import drop_partial, partial_path
from rallytrace.types import Yuv
from rallytrace.video.container import open_container
from rallytrace.video.frames import FULL, LIMITED, MATRICES, convert, frame_of_yuv, matrix_of

TICKS_PER_S = 90_000  # of the times in the file: a frame of 29.97 fps is 3003, a millisecond 90
MP4_SOUND = {"aac", "mp2", "mp3", "ac3", "eac3", "opus", "flac", "alac"}  # codecs that players expect in mp4
AAC_RATES_HZ = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
OPEN_TIMEOUT_S = 10.0


class VideoWriter:
    """An H.264 mp4 that appears under its name only after a clean exit; after an exception nothing is left.

    path: the file, replaced if it exists. wh: size of the pictures; where a side is odd, which H.264 4:2:0 cannot be,
    its last column or row is repeated once. fps: nominal rate, for players; times are those given to `write`.
    audio_from: a video whose first sound is kept at its times: the same packets, or AAC where mp4 has no room for its
    codec. crf, preset: of x264. full_range: of the file; that of the first picture when None. pixel_aspect: width
    to height of a pixel, by which players stretch the picture. Colours are those of the
    first picture. `problems` says what became of unreadable sound. Raises OutputError where the file cannot
    be written.
    """

    problems: list[str]

    def __init__(
        self,
        path: str | Path,
        wh: tuple[int, int],
        fps: Fraction,
        *,
        audio_from: str | Path | None = None,
        crf: int = 23,
        preset: str = "veryfast",
        full_range: bool | None = None,
        pixel_aspect: Fraction = Fraction(1),
    ) -> None:
        self.problems = []
        self._path, self._wh, self._fps, self._audio_from = Path(path), wh, fps, audio_from
        self._temporary = partial_path(self._path)
        self._pixel_aspect = pixel_aspect
        self._options, self._full_range = {"crf": str(crf), "preset": preset}, full_range
        self._container: OutputContainer | None = None
        self._sound: _Sound | None = None
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
        ticks = round(pts_s * TICKS_PER_S)
        if self._last is not None:  # a source may have finer times than a video can say
            ticks = max(ticks, self._last[1] + 1)
        self._last = pts_s, ticks
        with self._output_errors():
            container = self._container or self._open(picture)
            frame = self._in_range(frame_of_yuv(picture))
            frame.pts, frame.time_base = ticks, Fraction(1, TICKS_PER_S)
            container.mux(self._stream.encode(frame))
            if self._sound:
                self._sound.copy(until_s=pts_s)

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
        if self._audio_from is not None:
            self._sound = _Sound.of(self._audio_from, container, self.problems)
        container.start_encoding()
        return container

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


class _Sound:
    """The sound of another video, moved into an mp4 in step with the pictures."""

    def __init__(self, source: str | Path, out: OutputContainer, problems: list[str]) -> None:
        self._source, self._container, self._mp4 = source, open_container(str(source), OPEN_TIMEOUT_S), out
        self._problems = problems
        self._waiting: av.Packet[AudioStream] | None = None
        self._packets: Iterator[av.Packet[AudioStream]] = iter(())
        streams = self._container.streams.audio
        if not streams:
            return
        if streams[0].codec_context is None:
            problems.append(f"the sound of {source} is left out: FFmpeg does not know its codec")
        elif streams[0].codec_context.codec.canonical_name in MP4_SOUND:
            self._packets = self._copied(streams[0], out.add_stream_from_template(streams[0]))
        else:
            self._packets = self._encoded(streams[0], _add_aac(streams[0].codec_context, out))

    @classmethod
    def of(cls, source: str | Path, out: OutputContainer, problems: list[str]) -> Self | None:
        """None, and a line in `problems`, where `source` cannot be opened."""
        if Path(source).is_dir():
            return None
        try:
            return cls(source, out, problems)
        except VideoError as error:
            problems.append(f"no sound: {error}")
            return None

    def copy(self, until_s: float | None) -> None:
        """Mux the packets up to `until_s`, all that are left when None."""
        while (packet := self._waiting or next(self._packets, None)) is not None:
            self._waiting = packet
            if until_s is not None and packet.dts is not None and packet.dts * packet.time_base > until_s:
                return
            self._mp4.mux(packet)
            self._waiting = None

    def _read(self, stream: AudioStream) -> Iterator[av.Packet[AudioStream]]:
        """The packets of `stream`, then an empty one; ends early, and says so, where the file is damaged."""
        try:
            yield from self._container.demux(stream)
        except FFmpegError as error:
            self._problems.append(f"the sound of {self._source} ends early: {error.strerror}")

    def _copied(self, stream: AudioStream, out: AudioStream) -> Iterator[av.Packet[AudioStream]]:
        last = None
        for packet in self._read(stream):
            if packet.dts is None or packet.is_corrupt or (last is not None and packet.dts <= last):
                continue  # the end, a packet cut off, or one out of order, which mp4 cannot hold
            last = packet.dts
            packet.stream = out
            yield packet

    def _encoded(self, stream: AudioStream, out: AudioStream) -> Iterator[av.Packet[AudioStream]]:
        context = out.codec_context
        resampler = AudioResampler(context.format, context.layout, context.rate, frame_size=1024)
        for packet in self._read(stream):
            try:
                frames = packet.decode()
            except FFmpegError:
                continue  # a damaged piece is silent
            for frame in frames:
                for piece in resampler.resample(frame):
                    yield from out.encode(piece)
        for piece in resampler.resample(None):
            yield from out.encode(piece)
        yield from out.encode(None)

    def close(self) -> None:
        self._container.close()


def _add_aac(source: AudioCodecContext, out: OutputContainer) -> AudioStream:
    rate = source.sample_rate if source.sample_rate in AAC_RATES_HZ else 48_000
    stream: AudioStream = out.add_stream("aac", rate=rate, bit_rate=160_000)
    stream.codec_context.layout = LAYOUTS.get(source.channels, "stereo")
    return stream
