"""Which picture and which sound of a file with several: the default ones, then the largest; or those asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from rallytrace.errors import InputError, VideoError
from rallytrace.video.container import EXPECTED

COVERS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
ASIDE = Disposition.comment | Disposition.hearing_impaired | Disposition.visual_impaired | Disposition.descriptions


class Choice:
    """The streams of one container that are used. wanted: as `--stream` has them: the number of a stream, counted from
    0 as ffprobe does, or "v:1", the second picture, or "a:0", the first sound.

    picture, sound: None where there is none. note: what was chosen, where there was a choice; empty elsewhere.
    Raises VideoError, InputError.
    """

    def __init__(self, container: InputContainer, path: str, wanted: Sequence[str] = ()) -> None:
        self._path = path
        self._container = container
        found = [self._find(each) for each in dict.fromkeys(wanted)]
        pictures = [each for each in found if isinstance(each, VideoStream)]
        sounds = [each for each in found if isinstance(each, AudioStream)]
        for kind, several in (("pictures", pictures), ("sounds", sounds)):
            if len(several) > 1:
                raise InputError(f"--stream names {len(several)} {kind} of {path}, expected one: {self._listed()}")
        self.picture = pictures[0] if pictures else self._best_picture()
        self.sound = sounds[0] if sounds else self._best_sound()
        self.note = "" if wanted else self._note()

    def require_picture(self) -> VideoStream:
        """The picture. Raises VideoError where there is none, or none that can be decoded."""
        if self.picture is None:
            only = "only sound" if self._container.streams.audio else "no pictures"
            raise VideoError(f"{self._path} holds {only}, {EXPECTED}")
        if self.picture.codec_context is None:
            raise VideoError(f"{self._path} is coded in a way that FFmpeg cannot decode, {EXPECTED}: convert it")
        return self.picture

    def _find(self, wanted: str) -> VideoStream | AudioStream:
        match = re.fullmatch(r"(?:([va]):)?(\d+)", wanted.strip().lower())
        if match is None:
            raise InputError(f"--stream {wanted!r}: expected the number of a stream, or v:0 or a:1 and the like")
        among = {"v": self._container.streams.video, "a": self._container.streams.audio}
        streams = among.get(match[1], list(self._container.streams))
        number = int(match[2])
        if number < len(streams):
            found = streams[number]
            if isinstance(found, VideoStream | AudioStream):
                return found
        raise InputError(f"--stream {wanted}: {self._path} has no such picture or sound, expected {self._listed()}")

    def _pictures(self) -> list[VideoStream]:
        return [each for each in self._container.streams.video if not each.disposition & COVERS]

    def _best_picture(self) -> VideoStream | None:
        def rank(stream: VideoStream) -> tuple[bool, bool, int, int]:
            context = stream.codec_context
            area = context.width * context.height if context else 0
            return context is not None, bool(stream.disposition & Disposition.default), area, -stream.index

        return max(self._pictures(), key=rank, default=None)

    def _best_sound(self) -> AudioStream | None:
        """In a transport stream of several programmes, the sound of the picture's own."""
        streams = self._container.streams.audio
        own = self._container.streams.best("audio", self.picture) if len(streams) > 1 else None

        def rank(stream: AudioStream) -> tuple[bool, bool, bool, int, bool, int]:
            context = stream.codec_context
            is_default = bool(stream.disposition & Disposition.default)
            channels = context.channels if context else 0
            is_aside = bool(stream.disposition & ASIDE)
            return context is not None, is_default, not is_aside, channels, stream is own, -stream.index

        if self._container.format.name == "mpegts" and isinstance(own, AudioStream):
            return own
        return max(streams, key=rank, default=None)

    def _note(self) -> str:
        said = []
        if len(self._pictures()) > 1 and self.picture is not None:
            said.append(f"the picture is stream {_name(self.picture)}")
        if len(self._container.streams.audio) > 1 and self.sound is not None:
            said.append(f"the sound is stream {_name(self.sound)}")
        return f"{' and '.join(said)}; --stream chooses among {self._listed()}" if said else ""

    def _listed(self) -> str:
        streams: list[VideoStream | AudioStream] = [*self._pictures(), *self._container.streams.audio]
        return ", ".join(_name(each) for each in sorted(streams, key=lambda each: each.index))


def _name(stream: VideoStream | AudioStream) -> str:
    """Its number and what it holds, in words."""
    words = [stream.codec_context.codec.canonical_name if stream.codec_context else "unknown codec"]
    if isinstance(stream, VideoStream) and stream.codec_context:
        words.append(f"{stream.codec_context.width}x{stream.codec_context.height}")
    if isinstance(stream, AudioStream) and stream.codec_context:
        words.append(f"{stream.codec_context.channels} ch")
    if language := stream.metadata.get("language"):
        words.append(language)
    if stream.disposition & Disposition.default:
        words.append("default")
    return f"{stream.index} ({' '.join(words)})"
