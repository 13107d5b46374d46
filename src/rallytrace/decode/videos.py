"""Videos of strangers: the frames of a file, decoded in a child at the size that a network wants."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np

from rallytrace.decode.child import Child, Limits, Pipe
from rallytrace.errors import VideoError
from rallytrace.geometry import FrameTransform
from rallytrace.models import ModelSpec
from rallytrace.types import Box, Frame, Image

WHAT = "the video"
_TIME = struct.Struct("<d")  # pts_s, before the picture


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """Of one video. child: of the process; frames, pixels of one of them, seconds: of what it shows."""

    child: Limits
    frames: int
    pixels: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Source:
    """What the video says of itself; `n_frames` is an estimate, None where it does not say."""

    wh: tuple[int, int]
    fps: Fraction
    n_frames: int | None
    picture: Box | None = None  # what is within black borders


class Decoder(Iterator[Frame]):
    """The frames of `path`, at `transform.content_wh` for `spec`. A context manager; leaving it ends the child.

    Raises VideoError where the video is broken, or larger than the limits allow.
    """

    def __init__(self, path: str, spec: ModelSpec, limits: VideoLimits) -> None:
        order = {
            "path": path,
            "size_wh": spec.size_wh,
            "multiple": spec.multiple,
            "colour": spec.colour,
            "frames": limits.frames,
            "pixels": limits.pixels,
            "seconds": limits.seconds,
        }
        work = f"{__name__}:send_frames"
        most = limits.pixels * 3 + (1 << 16)
        self._child = Child(work, order, limits.child, WHAT, most=most, error=VideoError)
        self._spec = spec
        self._index = 0
        self.problems: list[str] = []

    def __enter__(self) -> Self:
        try:
            head = json.loads(next(self._child))
            picture = head["picture"] and Box(*head["picture"])
            source = Source((head["wh"][0], head["wh"][1]), Fraction(head["fps"]), head["n_frames"], picture)
            self.source = source
            spec = self._spec
            self.transform = FrameTransform.fit_picture(source.wh, source.picture, spec.size_wh, spec.multiple)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the child; may be called from any thread, and twice."""
        self._child.close()

    def __next__(self) -> Frame:
        try:
            data = next(self._child)
        except StopIteration:
            self.problems = self._child.result
            raise
        (pts_s,) = _TIME.unpack_from(data)
        w, h = self.transform.content_wh
        shape = (h, w) if self._spec.colour == "grey" else (h, w, 3)
        image: Image = np.frombuffer(data, np.uint8, offset=_TIME.size).reshape(shape)
        self._index += 1
        return Frame(self._index - 1, pts_s, image)


def send_frames(order: dict[str, Any], pipe: Pipe) -> list[str]:
    """The child's work: a message that describes the video, one for each frame. Returns problems, one line each."""
    from rallytrace import video

    try:
        with video.read(order["path"]) as reader:
            info = reader.info
            n_frames = info.n_frames or (round(info.duration_s * info.fps) if info.duration_s else None)
            _check(info.wh, info.n_frames, order)
            reader.find_picture()
            picture = reader.info.picture
            about = {"wh": info.wh, "fps": str(info.fps), "n_frames": n_frames, "picture": picture}
            pipe.send(json.dumps(about).encode())
            transform = FrameTransform.fit_picture(info.wh, picture, tuple(order["size_wh"]), order["multiple"])
            reader.give(wh=transform.content_wh, colour=order["colour"], box=transform.box)
            film = video.Film(float(1 / info.fps))  # in which no jump of the clock counts as length
            for frame in reader:
                at_s = film.picture(frame.pts_s)
                if frame.index >= order["frames"] or at_s > order["seconds"]:
                    raise VideoError(f"the video is longer than {order['frames']} frames or {order['seconds']:g} s")
                pipe.send(_TIME.pack(frame.pts_s), frame.image.tobytes())
            return [problem[:500] for problem in [*reader.notes, *reader.problems][:20]]
    except VideoError as error:
        raise VideoError(str(error).replace(order["path"], WHAT)) from None


def _check(wh: tuple[int, int], n_frames: int | None, order: dict[str, Any]) -> None:
    if wh[0] * wh[1] > order["pixels"]:
        raise VideoError(f"the video is {wh[0]}x{wh[1]}: at most {order['pixels']} pixels are allowed")
    if n_frames is not None and n_frames > order["frames"]:
        raise VideoError(f"the video has {n_frames} frames: at most {order['frames']} are allowed here")
