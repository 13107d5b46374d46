"""The sound of a video, moved into an mp4 in step with its pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.error import FFmpegError

from rallytrace.video.choice import Choice
from rallytrace.video.clock import Clock, Film, Jump
from rallytrace.video.container import open_container

MP4_SOUND = {"aac", "mp2", "mp3", "ac3", "eac3", "opus", "flac", "alac"}  # codecs that players expect in mp4
AAC_RATES_HZ = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
OPEN_TIMEOUT_S = 10.0
BREAK_S = 0.1  # sound whose time is off by more does not go on from what came before
LEAD_S = 0.5  # of sound before the first picture that is kept, for decoders that need a start
MOST_AHEAD = 4000  # packets that are read ahead to see whether sound plays through a stretch
TS_DISCONT = 0x200  # FFmpeg's AVFMT_TS_DISCONT: such containers are joined byte by byte
EARLY = 1  # packets of pictures by which the sound of a new part may come before its first picture
BEHIND = 300  # packets of pictures after which a jump of the sound is its own

Piece = tuple[int, "av.Packet[AudioStream]"]  # how many packets of pictures came before; a packet of sound


@dataclass(frozen=True, slots=True)
class Heard:
    """Whose sound. streams: see `Choice`. clock: of its pictures, while they are read; None where they are not."""

    path: str
    streams: Sequence[str] = ()
    clock: Clock[av.VideoFrame] | None = None


class Sound:
    """Copies packet by packet, or as AAC where mp4 has no room for the codec. Raises VideoError.

    film: the clock of the pictures that are written; times are kept as they are where it is None. problems: gets a
    line for what becomes of unreadable sound.
    """

    def __init__(self, heard: Heard, out: OutputContainer, film: Film | None, problems: list[str]) -> None:
        self._heard = heard
        self._film = film
        self._problems = problems
        self._mp4 = out
        self._container = open_container(heard.path, OPEN_TIMEOUT_S)
        self._may_jump = bool(self._container.format.flags & TS_DISCONT)
        choice = Choice(self._container, heard.path, heard.streams)
        self._ahead: deque[Piece] = deque()
        self._pieces: Iterator[Piece] = iter(())
        self._encoder: _Encoder | None = None
        self._epoch = 0  # how many jumps of the clock are behind the sound
        self._said_s: float | None = None  # where the next packet is due, by the source's clock
        self._end_ticks: int | None = None
        stream = choice.sound
        if stream is None:
            return
        if stream.codec_context is None:
            problems.append(f"the sound of {heard.path} is left out: FFmpeg does not know its codec")
            return
        if not (stream.codec_context.sample_rate and stream.codec_context.channels):
            problems.append(f"the sound of {heard.path} is left out: it begins after the file's start, unannounced")
            return
        self._pieces = self._read(choice, stream)
        if stream.codec_context.codec.canonical_name in MP4_SOUND:
            self._stream = out.add_stream_from_template(stream)
        else:
            self._stream = _add_aac(stream.codec_context, out)
            self._encoder = _Encoder(self._stream)

    def copy(self, until_s: float | None) -> None:
        """Mux what is heard up to `until_s` of the written video, all that is left when None."""
        while (piece := self._peek()) is not None:
            time_s = self._time_s(piece, is_end=until_s is None)
            if time_s is None or (until_s is not None and time_s > until_s):
                return
            self._ahead.popleft()
            self._said_s = _start_s(piece[1]) + _length_s(piece[1])
            self._put(piece[1], time_s)
        if until_s is None and self._encoder:
            self._mux(self._encoder.flush())

    def is_heard(self, start_s: float, stop_s: float) -> bool:
        """Whether sound plays between two times of the mended clock."""
        for place in range(MOST_AHEAD):
            if place == len(self._ahead) and not self._pull():
                return False
            time_s = _start_s(self._ahead[place][1]) + self._shift_s
            if time_s > start_s:
                return time_s < stop_s
        return False

    def close(self) -> None:
        """Frees the file."""
        self._container.close()

    @property
    def _jumps(self) -> Sequence[Jump]:
        return self._heard.clock.jumps if self._heard.clock else ()

    @property
    def _shift_s(self) -> float:
        return self._jumps[self._epoch - 1].shift_s if self._epoch else 0.0

    def _peek(self) -> Piece | None:
        return self._ahead[0] if self._ahead or self._pull() else None

    def _pull(self) -> bool:
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._ahead.append(piece)
        return True

    def _read(self, choice: Choice, stream: AudioStream) -> Iterator[Piece]:
        """The packets of `stream` with a time; ends early, and says so, where the file is damaged."""
        pictures = 0
        wanted = [stream] if choice.picture is None else [choice.picture, stream]
        try:
            for packet in self._container.demux(wanted):
                if packet.stream_index != stream.index:
                    pictures += packet.size > 0
                elif packet.dts is not None and not packet.is_corrupt:
                    yield pictures, cast("av.Packet[AudioStream]", packet)
        except FFmpegError as error:
            self._problems.append(f"the sound of {self._heard.path} ends early: {error.strerror}")

    def _time_s(self, piece: Piece, *, is_end: bool) -> float | None:
        """When it is heard in the written video; None where that is not known before more pictures are read."""
        start_s = _start_s(piece[1])
        is_first = self._said_s is None and self._may_jump
        off_s = 0.0 if self._said_s is None else start_s - self._said_s
        if is_first or abs(off_s) > BREAK_S:
            if not (is_end or self._knows(piece[0], is_back=off_s < 0)):
                return None
            self._epoch = max(self._epoch, self._reached(piece[0], is_back=off_s < 0))
            self._said_s = start_s
        mended_s = start_s + self._shift_s
        return mended_s if self._film is None else self._film.sound(mended_s)

    def _reached(self, pictures: int, *, is_back: bool) -> int:
        """How many jumps of the pictures' clock are behind sound that comes after so many packets of pictures."""
        reached = sum(jump.packet <= pictures + EARLY for jump in self._jumps)
        if is_back and reached == self._epoch:
            reached += 1
        return min(reached, len(self._jumps))

    def _knows(self, pictures: int, *, is_back: bool) -> bool:
        """Whether the pictures have come so far that such sound can be placed."""
        clock = self._heard.clock
        if clock is None or clock.packet > pictures + BEHIND:
            return True
        is_placed = self._reached(pictures, is_back=is_back) > self._epoch
        return clock.packet > pictures + EARLY and (is_placed or not is_back)

    def _put(self, packet: av.Packet[AudioStream], time_s: float) -> None:
        assert packet.dts is not None
        time_base = packet.time_base
        ticks = packet.dts
        if self._film is not None:
            ticks += round((time_s - _start_s(packet)) / time_base)
        length = packet.duration or 0
        if self._film is not None and (ticks + length) * time_base < -LEAD_S:
            return  # long before the first picture
        if self._end_ticks is not None and ticks < self._end_ticks - length / 2:
            return  # out of order, or already heard at the end of the part before
        self._end_ticks = ticks + max(length, 1)
        move = ticks - packet.dts
        packet.pts = None if packet.pts is None else packet.pts + move
        packet.dts = ticks
        if self._encoder:
            self._mux(self._encoder.encode(packet))
        else:
            packet.stream = self._stream
            self._mp4.mux(packet)

    def _mux(self, packets: Iterator[av.Packet[AudioStream]]) -> None:
        for packet in packets:
            self._mp4.mux(packet)


class _Encoder:
    """Packets of any codec -> AAC."""

    def __init__(self, out: AudioStream) -> None:
        self._out = out
        context = out.codec_context
        self._resampler = AudioResampler(context.format, context.layout, context.rate, frame_size=1024)
        self._last: int | None = None

    def encode(self, packet: av.Packet[AudioStream]) -> Iterator[av.Packet[AudioStream]]:
        try:
            frames = packet.decode()
        except FFmpegError:
            return  # a damaged piece is silent
        for frame in frames:
            yield from self._resampled(frame)

    def flush(self) -> Iterator[av.Packet[AudioStream]]:
        yield from self._resampled(None)
        yield from self._out.encode(None)

    def _resampled(self, frame: av.AudioFrame | None) -> Iterator[av.Packet[AudioStream]]:
        for piece in self._resampler.resample(frame):
            if self._last is not None and piece.pts is not None and piece.pts <= self._last:
                continue
            self._last = piece.pts
            yield from self._out.encode(piece)


def _start_s(packet: av.Packet[AudioStream]) -> float:
    return float((packet.dts or 0) * packet.time_base)


def _length_s(packet: av.Packet[AudioStream]) -> float:
    return float((packet.duration or 0) * packet.time_base)


def _add_aac(source: AudioCodecContext, out: OutputContainer) -> AudioStream:
    rate = source.sample_rate if source.sample_rate in AAC_RATES_HZ else 48_000
    stream: AudioStream = out.add_stream("aac", rate=rate, bit_rate=160_000)
    stream.codec_context.layout = LAYOUTS.get(source.channels, "stereo")
    return stream
