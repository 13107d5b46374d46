"""Reading: files, folders of pictures, URLs and cameras as one iterator of Frames."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import av
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from rallytrace.errors import VideoError
from rallytrace.names import PICTURE_SUFFIXES
from rallytrace.types import Clip, Frame, VideoInfo
from rallytrace.video.frames import (
    DECODER_OPTIONS,
    Colour,
    Converter,
    check_size,
    decode_picture,
    rotation_deg,
    upright_wh,
)
from rallytrace.video.shard import SUFFIX, Shard

DEFAULT_FPS = Fraction(30)  # also where a stream gives no hint of its rate
MAX_GUESSED_FPS = 120
OUTPUT_CORRUPT = 8  # FFmpeg's AV_CODEC_FLAG_OUTPUT_CORRUPT
GEN_PTS = 1  # FFmpeg's AVFMT_FLAG_GENPTS, which PyAV sets
DEMUX_RETRIES = 10  # errors in a row after which a file counts as unreadable from there
# Containers that keep to their own file. Not playlists (hls, dash, concat) and the like: those make FFmpeg open
# other files and URLs, which a hostile file may name.
CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,obu,ivf,m4v,flv,asf,ogg,nut,mxf,gxf,dv,rm,"
    "yuv4mpegpipe,mjpeg,gif,mp3,wav,flac,aac"
)
STREAM_CONTAINERS = CONTAINERS + ",hls,dash,mpjpeg,rtsp,rtp,sdp"
STREAM_PROTOCOLS = "http,https,httpproxy,tcp,tls,crypto,rtsp,rtp,srtp,udp,rtmp,rtmps"
LIVE_SCHEMES = {"rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp"}
SCHEMES = LIVE_SCHEMES | {"http", "https"}
EXPECTED = "expected H.264, HEVC, VP9, AV1, MPEG-4 or MJPEG in mp4, mkv, webm, avi, mov or ts"


TimedFrames: TypeAlias = Generator[tuple[float, av.VideoFrame], None, None]  # pts_s and the picture
Stored: TypeAlias = tuple[tuple[int, int], Colour] | None  # size and colour, where they are not those of the source


class _Source(Protocol):
    problems: list[str]

    @property
    def stored(self) -> Stored: ...

    def frames(self) -> TimedFrames: ...
    def info(self, start_s: float, first: av.VideoFrame) -> VideoInfo: ...
    def close(self) -> None: ...


class VideoReader:
    """An iterator of `Frame`: the n-th picture in presentation order has index n. Use it as a context manager.

    pts_s is the stream's own presentation time, its start offset included, and always increases. `problems` has a
    line for each thing that was wrong but survivable; it is complete once the iteration has ended. Not thread-safe:
    close it where nobody is iterating.
    """

    info: VideoInfo
    problems: list[str]

    def __init__(self, source: _Source, wh: tuple[int, int] | None, colour: Colour, keep_picture: bool) -> None:
        self._source, self._frames, self._converter = source, source.frames(), Converter()
        self._colour, self._keep_picture, self._index = colour, keep_picture, 0
        self.problems, self._stored = source.problems, source.stored
        try:
            first = next(self._frames)  # its size, format and orientation are the video's
            self.info = source.info(*first)
        except BaseException:
            self.close()
            raise
        self._first: tuple[float, av.VideoFrame] | None = first
        self._wh = wh or self.info.wh

    def give(self, *, wh: tuple[int, int], colour: Colour, keep_picture: bool = False) -> None:
        """From the next frame on, give images of this size and colour; for when they depend on `info`. See `read`.

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

    @property
    def count(self) -> int:
        """How many frames it has given."""
        return self._index

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        pts_s, frame = self._first or next(self._frames)
        self._first = None
        if (
            not self._stored
            and upright_wh(frame) != self.info.wh
            and not any("size changes" in line for line in self.problems)
        ):
            at = f"frame {self._index} ({pts_s:.2f} s)"
            self.problems.append(f"the size changes at {at} to {upright_wh(frame)}: resized to {self.info.wh}")
        image = self._converter.image(frame, self._wh, self._colour)
        picture = self._converter.picture(frame, self.info.wh) if self._keep_picture else None
        self._index += 1
        return Frame(self._index - 1, pts_s, image, picture)

    def close(self) -> None:
        """Frees the decoder; further iteration raises StopIteration. May be called twice."""
        self._first = None
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
    timeout_s: float = 10.0,
) -> VideoReader:
    """Open a video file, a folder of numbered pictures, a shard of a feature set (.tar), an http(s):// or rtsp:// URL,
    or a camera (`camera:0`).

    wh: size of the images, of the upright picture; the source's own when None. colour: uint8 (h, w) "grey" or
    (h, w, 3) "rgb", 0..255. keep_picture: give Frame.picture too, the source-size planes. fps: of a folder, 30 when
    None. timeout_s: how long a URL or camera may stay silent, when it is opened and later.
    Pixels that are not square stay as they are stored. Raises VideoError.
    """
    source: _Source
    if _scheme(path) is None and Path(path).is_dir():
        source = _Folder(Path(path), fps or DEFAULT_FPS)
    elif _scheme(path) is None and str(path).endswith(SUFFIX):
        source = Shard(Path(path))
    elif fps is not None:
        raise ValueError(f"fps is for folders of pictures, {path} states its own")
    else:
        source = _Stream(str(path), timeout_s)
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


def _scheme(path: str | Path) -> str | None:
    """The scheme of a URL, "camera" for a camera, None for a path."""
    if re.fullmatch(r"camera:\d+|/dev/video\d+", str(path)):
        return "camera"
    match = re.match(r"([a-z][a-z0-9+.-]+)://", str(path), re.IGNORECASE)
    return match[1].lower() if match and not isinstance(path, Path) else None


class _Folder:
    """A folder of pictures of one size, in the order of their numbers."""

    stored: Stored = None

    def __init__(self, folder: Path, fps: Fraction) -> None:
        self.problems: list[str] = []
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

    def close(self) -> None:
        pass


def _natural(name: str) -> list[str | int]:
    """Sorts frame10 after frame9."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"([0-9]+)", name)]


def open_container(path: str, timeout_s: float) -> InputContainer:
    """A file, URL or camera, opened such that a local file cannot make FFmpeg open another. Raises VideoError."""
    scheme, file = _scheme(path), Path(path)
    try:
        if scheme is None:
            if not file.exists():
                raise VideoError(f"{path} does not exist: check the path")
            if file.is_file() and file.stat().st_size == 0:
                raise VideoError(f"{path} is empty, {EXPECTED}: copy it again")
            own = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
            return av.open(f"file:{path}", "r", options=DECODER_OPTIONS, container_options=own)
        if scheme == "camera":
            return _open_camera(path, timeout_s)
        if scheme not in SCHEMES:
            raise VideoError(f"{path}: unknown scheme {scheme}://, expected a file, http(s)://, rtsp:// or camera:0")
        own = {"protocol_whitelist": STREAM_PROTOCOLS, "format_whitelist": STREAM_CONTAINERS}
        if scheme.startswith("rtsp"):
            own["rtsp_flags"] = "prefer_tcp"
        return av.open(path, "r", options=DECODER_OPTIONS, container_options=own, timeout=timeout_s)
    except ExitError:
        raise VideoError(f"{path} gave no answer in {timeout_s:g} s: check the address and that it is up") from None
    except (FFmpegError, OSError) as error:
        advice = f"{EXPECTED}: convert or copy it again" if scheme is None else "check the address and that it is up"
        raise VideoError(f"{path} cannot be opened as a video ({error.strerror}), {advice}") from None


def _open_camera(path: str, timeout_s: float) -> InputContainer:
    device, number = {"linux": ("v4l2", "/dev/video"), "darwin": ("avfoundation", "")}.get(sys.platform, ("", ""))
    if not device:
        raise VideoError(f"{path}: cameras are read on Linux and macOS only, use an rtsp:// or http:// URL")
    return av.open(number + re.sub(r"\D", "", path), "r", format=device, timeout=timeout_s)


class _Stream:
    """The first picture stream of a container: its decoded frames, with their times, and what went wrong."""

    stored: Stored = None

    def __init__(self, path: str, timeout_s: float) -> None:
        self.problems: list[str] = []
        self._path, self._timeout_s = path, timeout_s
        self._container = open_container(path, timeout_s)
        try:
            self._stream = self._find_stream()
            self._read_header()
        except BaseException:
            self.close()
            raise
        self._n_packets = self._n_errors = self._n_damaged = self._n_times = 0
        self._first_error = ""

    def _find_stream(self) -> VideoStream:
        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            only = "only sound" if self._container.streams.audio else "no pictures"
            raise VideoError(f"{self._path} holds {only}, {EXPECTED}")
        if streams[0].codec_context is None:
            raise VideoError(f"{self._path} is coded in a way that FFmpeg cannot decode, {EXPECTED}: convert it")
        return streams[0]

    def _read_header(self) -> None:
        container, stream, context = self._container, self._stream, self._stream.codec_context
        container.flags &= ~GEN_PTS  # it would invent wrong times in an AVI with B-frames
        duration = _duration_s(container, stream)
        scheme = _scheme(self._path)
        self._is_live = scheme == "camera" or scheme in LIVE_SCHEMES or (scheme is not None and duration is None)
        self._duration_s = None if self._is_live else duration
        self._fps = stream.guessed_rate or stream.average_rate or DEFAULT_FPS
        if stream.average_rate is None and self._fps > MAX_GUESSED_FPS:  # then the guess is a unit of time
            self._fps = DEFAULT_FPS
        self._time_base = stream.time_base or Fraction(1, 90_000)
        is_mov = "mov" in container.format.name.split(",")  # whose index is whole: one entry per packet
        self._n_indexed = stream.frames if is_mov else 0
        self._n_hidden = sum(entry.is_discard for entry in stream.index_entries) if is_mov else 0  # by an edit list
        # A packet that is cut off is flagged corrupt; in a transport stream the flag says only that a piece is lost.
        self._skips_corrupt = container.format.name != "mpegts"
        context.thread_type = "SLICE" if self._is_live else "AUTO"  # frame threads would delay a live picture
        context.options = dict(DECODER_OPTIONS)
        if context.codec.canonical_name == "hevc":  # FFmpeg 8 would drop all from a damaged picture to a key
            context.flags |= OUTPUT_CORRUPT

    def info(self, start_s: float, first: av.VideoFrame) -> VideoInfo:
        check_size(first.width, first.height, self._path)
        aspect = self._stream.sample_aspect_ratio or self._stream.codec_context.sample_aspect_ratio or Fraction(1)
        return VideoInfo(
            path=self._path,
            wh=upright_wh(first),
            pixel_aspect=1 / aspect if rotation_deg(first) % 180 else aspect,
            fps=self._fps,
            n_frames=self._n_indexed - self._n_hidden or None,
            duration_s=self._duration_s,
            start_s=start_s,
            codec=self._stream.codec_context.codec.canonical_name,
            pixel_format=first.format.name,
            rotation_deg=rotation_deg(first),
            has_audio=bool(self._container.streams.audio),
            is_live=self._is_live,
        )

    def frames(self) -> TimedFrames:
        """Each decoded frame with its time. A frame without one, or one that goes back, comes 1/fps after the last; one
        that repeats a time halfway to where the next is due, so that this still comes later."""
        step_s, n, last_s, start_s, true_s = float(1 / self._fps), 0, 0.0, 0.0, 0.0
        for frame in self._decoded():
            ticks = frame.dts if frame.pts is None else frame.pts
            pts_s = None if ticks is None else float(ticks * self._time_base)
            if pts_s is not None and n and pts_s <= last_s:
                self._n_times += 1
                due_s = true_s + step_s
                pts_s = (last_s + due_s) / 2 if pts_s == true_s and last_s < due_s else last_s + step_s
            elif pts_s is not None:
                true_s = pts_s
            if pts_s is None:
                pts_s = last_s + step_s if n else 0.0
            start_s = start_s if n else pts_s
            self._n_damaged += frame.is_corrupt
            if (frame.is_corrupt or self._n_errors) and not self._first_error:
                self._first_error = f"frame {n} ({pts_s:.2f} s)"
            yield pts_s, frame
            n, last_s = n + 1, pts_s
        if not n:
            raise VideoError(f"{self._path} holds no picture that can be decoded, {EXPECTED}: check that it plays")
        self._report(n, last_s, last_s + step_s - start_s)

    def _decoded(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets():
            if packet is not None and packet.is_corrupt and self._skips_corrupt:
                continue
            self._n_packets += packet is not None and packet.size > 0
            try:
                frames = self._stream.decode(packet)
            except FFmpegError:
                self._n_errors += 1
                continue
            yield from frames

    def _packets(self) -> Iterator[av.Packet[VideoStream] | None]:
        """The stream's packets, then an empty one (or None) that makes the decoder give its last pictures."""
        retries = DEMUX_RETRIES
        while retries:
            try:
                for packet in self._container.demux(self._stream):
                    yield packet
                    retries = DEMUX_RETRIES
                return
            except ExitError:
                self.problems.append(f"{self._path} gave nothing for {self._timeout_s:g} s: taken as its end")
                break
            except FFmpegError:
                self._n_errors += 1
                retries = 0 if self._is_live else retries - 1
        yield None

    def _report(self, n: int, last_s: float, length_s: float) -> None:
        """Says what was wrong, once all `n` frames are out."""
        at = f"frame {n} ({last_s:.2f} s)"
        if self._n_indexed and self._n_packets < self._n_indexed:
            about = self._n_indexed - self._n_hidden
            self.problems.append(f"decoding stopped at {at} of about {about}: the file is truncated")
        elif (
            not self._n_indexed and self._duration_s and length_s < self._duration_s - max(0.5, 0.02 * self._duration_s)
        ):
            whole = f"of {self._duration_s:.2f} s that the file states"
            self.problems.append(f"decoding stopped at {at} {whole}: the file is truncated")
        if self._n_errors or self._n_damaged:
            counts = f"pictures that could not be decoded: {self._n_errors}, damaged ones: {self._n_damaged}"
            self.problems.append(f"{counts}; the first near {self._first_error or at}")
        if self._n_times:
            counts = f"pictures whose time repeats or goes back: {self._n_times}"
            self.problems.append(f"{counts}; each is set 1/fps or less after the one before")

    def close(self) -> None:
        self._container.close()


def _duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    """How long the pictures last, as the header says; in Matroska a tag of the stream says when they end."""
    unit_s = stream.time_base or Fraction(1, 90_000)
    if stream.duration is not None:
        units = max(stream.duration, stream.frames) if container.format.name == "avi" else stream.duration
        return float(units * unit_s)  # AVI counts pictures in time units; its duration shrinks when cut
    if match := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):
        end_s = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
        return end_s - float((stream.start_time or 0) * unit_s)
    return None if container.duration is None else container.duration / av.time_base
