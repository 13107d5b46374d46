"""The pictures of a container: decoded in order, with mended times, and what went wrong."""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from fractions import Fraction
from typing import TypeAlias

import av
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.video.stream import VideoStream

from rallytrace.errors import VideoError
from rallytrace.types import VideoInfo
from rallytrace.video.choice import Choice
from rallytrace.video.clock import LEAP_S, MOST_HELD, Clock, Item
from rallytrace.video.container import EXPECTED, LIVE_SCHEMES, open_container, scheme_of
from rallytrace.video.deinterlace import Deinterlacer, Scan, find_scan, may_hide_fields
from rallytrace.video.frames import DECODER_OPTIONS, Colour, check_size, colours_of, rotation_deg, upright_wh
from rallytrace.video.sound import Heard

PLAYLISTS = ("hls", "dash", "sdp")  # whose own size says nothing
DEFAULT_FPS = Fraction(30)  # also where a stream gives no hint of its rate
MAX_GUESSED_FPS = 120
OUTPUT_CORRUPT = 8  # FFmpeg's AV_CODEC_FLAG_OUTPUT_CORRUPT
GEN_PTS = 1  # FFmpeg's AVFMT_FLAG_GENPTS, which PyAV sets
DEMUX_RETRIES = 10  # errors in a row after which a file counts as unreadable from there
HELD_BYTES = 256_000_000  # of decoded pictures that wait for their time
SAMPLES = 25  # pictures that stand for all of a file
SHORT = 250  # pictures that are rather decoded one after the other than jumped to
LIVE_HELD = 3  # pictures that a live source may be held back by
IN_DECODER = 256  # packets that a decoder may keep before their pictures come out

TimedFrames: TypeAlias = Generator[tuple[float, av.VideoFrame], None, None]  # pts_s and the picture
Stored: TypeAlias = tuple[tuple[int, int], Colour] | None  # size and colour, where they are not those of the source


def ticks_of(thing: av.VideoFrame | av.Packet[VideoStream]) -> int | None:
    """The presentation time in the stream's own unit; the decoding time where there is none."""
    return thing.dts if thing.pts is None else thing.pts


class Stream:
    """One picture stream of a container: its decoded frames, with their times, and what went wrong. streams: see
    `Choice`."""

    stored: Stored = None

    def __init__(
        self,
        path: str,
        timeout_s: float,
        *,
        scan: Scan | None = None,
        fields: bool = False,
        streams: Sequence[str] = (),
    ) -> None:
        """scan: how the pictures are interlaced, found out where it is None. fields: give one for each field."""
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._path = path
        self._timeout_s = timeout_s
        self._streams = streams
        self._container = open_container(path, timeout_s)
        try:
            choice = Choice(self._container, path, streams)
            self._stream = choice.require_picture()
            self._has_sound = choice.sound is not None
            self.notes += [choice.note] if choice.note else []
            self._read_header()
        except BaseException:
            self.close()
            raise
        self.scan = scan
        self.is_interlaced = False  # as far as it is read
        self._fields = fields
        self.clock = Clock[av.VideoFrame](float(1 / self._fps), self._room())
        self.n_packets = 0  # given to the decoder so far
        self._fed: deque[tuple[int | None, int]] = deque(maxlen=IN_DECODER)  # their times and numbers
        self._n_skipped = 0
        self._n_errors = 0
        self._n_damaged = 0
        self._first_error = ""

    def _read_header(self) -> None:
        container, stream, context = self._container, self._stream, self._stream.codec_context
        container.flags &= ~GEN_PTS  # it would invent wrong times in an AVI with B-frames
        duration = _duration_s(container, stream)
        scheme = scheme_of(self._path)
        # A web server that knows no ranges hides how long a file lasts, but says how many bytes it has.
        is_playlist = container.format.name in PLAYLISTS
        has_end = scheme in ("http", "https") and not is_playlist and container.size > 0
        is_endless = scheme is not None and duration is None and not has_end
        self._is_live = is_endless or scheme in ("camera", "pipe") or scheme in LIVE_SCHEMES
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
            fps=self._fps * self._per_picture,
            n_frames=(self._n_indexed - self._n_hidden) * self._per_picture or None,
            duration_s=self._duration_s,
            start_s=start_s,
            codec=self._stream.codec_context.codec.canonical_name,
            pixel_format=first.format.name,
            rotation_deg=rotation_deg(first),
            has_audio=self._has_sound,
            is_live=self._is_live,
            colours=colours_of(first),
            interlaced=("field" if self._fields else "frame") if self.is_interlaced else None,
        )

    def frames(self) -> TimedFrames:
        """Each decoded frame with its time; see `Clock`."""
        timed = self._timed()
        first = next(timed, None)  # now it is known whether fields are to be told apart
        step_s = float(1 / (self._fps * self._per_picture))
        self.clock.step_s = step_s
        n, last_s, start_s = 0, 0.0, 0.0
        for pts_s, frame in self.clock.mend(itertools.chain([] if first is None else [first], timed)):
            start_s = start_s if n else pts_s
            self._n_damaged += frame.is_corrupt
            if (frame.is_corrupt or self._n_errors) and not self._first_error:
                self._first_error = f"frame {n} ({pts_s:.2f} s)"
            yield pts_s, frame
            n, last_s = n + 1, pts_s
        if not n:
            raise VideoError(f"{self._path} holds no picture that can be decoded, {EXPECTED}: check that it plays")
        self._report(n, last_s, last_s + step_s - start_s)

    def _room(self) -> int:
        """How many pictures may wait for their time."""
        context = self._stream.codec_context
        room = LIVE_HELD if self._is_live else HELD_BYTES // (2 * context.width * context.height or 1)
        return max(1, min(room, MOST_HELD))

    def heard(self) -> Heard | None:
        """Its sound; None where there is none, or where it cannot be read a second time."""
        return Heard(self._path, self._streams, self.clock) if self._has_sound and not self._is_live else None

    def _timed(self) -> Iterator[Item[av.VideoFrame]]:
        parts = 2 if self._fields else 1
        for frame in self.deinterlaced(self.decoded()):
            ticks = ticks_of(frame)
            said_s = None if ticks is None else float(ticks * self._time_base / parts)
            yield said_s, self._packet_of(ticks and ticks // parts), frame

    def deinterlaced(self, decoded: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Consecutive pictures, each of one moment; see `Deinterlacer`."""
        if self.scan is None and not self._is_live and may_hide_fields(self._stream.codec_context.height, self._fps):
            self.scan, decoded = find_scan(decoded)
        work = Deinterlacer(self._time_base, scan=self.scan or "flagged", fields=self._fields)
        for frame in work.pictures(decoded):
            self.is_interlaced = work.has_worked
            yield frame

    def samples(self) -> Iterator[av.VideoFrame]:
        """Some pictures from all over the file, by a decoder of their own."""
        other = Stream(self._path, self._timeout_s, scan="progressive", streams=self._streams)
        length_s = self._duration_s or 0.0
        with closing(other):
            if length_s * self._fps <= SHORT:  # it may have no picture to jump to
                yield from itertools.islice(other.decoded(), 0, SHORT, SHORT // SAMPLES)
                return
            begin = other._container.start_time or 0
            for n in range(SAMPLES):
                with suppress(FFmpegError):
                    other._container.seek(begin + round(n / SAMPLES * length_s * av.time_base))
                    yield from itertools.islice(other.decoded(), 1)

    @property
    def _per_picture(self) -> int:
        return 2 if self._fields and self.is_interlaced else 1

    def _packet_of(self, ticks: int | None) -> int:
        """The number of the packet that held the picture of that time."""
        for place, (of, number) in enumerate(self._fed):
            if of == ticks:
                del self._fed[place]
                return number
        return self.n_packets

    def decoded(self) -> Iterator[av.VideoFrame]:
        """The pictures from where the container stands, without their times."""
        for packet in self._packets():
            if packet is not None and packet.size > 0:
                self._fed.append((ticks_of(packet), self.n_packets))
                self.n_packets += 1
            if packet is not None and packet.is_corrupt and self._skips_corrupt:
                self._n_skipped += 1
                continue
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
        if self._n_indexed and self.n_packets - self._n_skipped < self._n_indexed:
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
        self._report_times()

    def _report_times(self) -> None:
        clock = self.clock
        if clock.mended:
            counts = f"pictures whose time repeats or goes back: {clock.mended}"
            self.problems.append(f"{counts}; each is set 1/fps or less after the one before")
        if clock.jumps:
            first = f"first at frame {clock.jumps[0].frame} ({clock.jumps[0].pts_s:.2f} s)"
            counts = f"jumps of the clock back: {len(clock.jumps)}, {first}"
            self.problems.append(f"{counts}, as in recordings joined into one: the times go on from there")
        if clock.leaps:
            first = f"first at frame {clock.leaps[0][0]} ({clock.leaps[0][1]:.2f} s)"
            counts = f"jumps of the clock ahead by more than {LEAP_S:g} s: {len(clock.leaps)}, {first}"
            self.problems.append(f"{counts}: the times stay as they are")

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
