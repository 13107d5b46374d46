"""Videos of strangers, decoded in a child process: what a hostile file can do ends with it.

The child lowers its own limits (memory, CPU seconds, no file may grow, few may be open), then sends the frames through
a pipe, at the size that the network wants. The parent kills it when it takes too long or nobody needs it any more.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, Any, Self

import numpy as np

from rallytrace.errors import VideoError
from rallytrace.geometry import FrameTransform
from rallytrace.models import ModelSpec
from rallytrace.types import Frame, Image

_FRAME = struct.Struct("<Bd")  # whether a frame follows (else a JSON line that says how it ended), pts_s
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")
MAX_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Of one video. memory: bytes of address space; wall_s: from start to end, tracking included."""

    memory: int
    cpu_s: int
    wall_s: float
    frames: int
    pixels: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Source:
    """What the video says of itself; `n_frames` is an estimate, None where it does not say."""

    wh: tuple[int, int]
    fps: Fraction
    n_frames: int | None


class Decoder(Iterator[Frame]):
    """The frames of `path`, at `transform.content_wh` for `spec`. A context manager; leaving it ends the child.

    Raises VideoError where the video is broken, or larger than the limits allow.
    """

    def __init__(self, path: str, spec: ModelSpec, limits: DecodeLimits) -> None:
        order = {
            "path": path,
            "size_wh": spec.size_wh,
            "multiple": spec.multiple,
            "colour": spec.colour,
            "memory": limits.memory,
            "cpu_s": limits.cpu_s,
            "frames": limits.frames,
            "pixels": limits.pixels,
            "seconds": limits.seconds,
        }
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "rallytrace.serve.decode", json.dumps(order)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            close_fds=True,
        )
        self._watchdog = threading.Timer(limits.wall_s, self._child.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        self._spec, self._index, self.problems = spec, 0, list[str]()

    def __enter__(self) -> Self:
        try:
            self._read(_FRAME.size)
            head = self._line()
            self.source = Source((head["wh"][0], head["wh"][1]), Fraction(head["fps"]), head["n_frames"])
            self.transform = FrameTransform.fit_area(self.source.wh, self._spec.size_wh, self._spec.multiple)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the child; may be called from any thread, and twice."""
        self._watchdog.cancel()
        self._child.kill()
        if self._child.stdout is not None:
            self._child.stdout.close()
        self._child.wait()

    def __next__(self) -> Frame:
        follows, pts_s = _FRAME.unpack(self._read(_FRAME.size))
        if not follows:
            self.problems = self._line()["problems"]
            raise StopIteration
        w, h = self.transform.content_wh
        shape = (h, w) if self._spec.colour == "grey" else (h, w, 3)
        image: Image = np.frombuffer(self._read(int(np.prod(shape))), np.uint8).reshape(shape)
        self._index += 1
        return Frame(self._index - 1, pts_s, image)

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._child.stdout is not None
        return self._child.stdout

    def _read(self, size: int) -> bytes:
        data = self._pipe.read(size)
        if len(data) < size:
            raise VideoError("the video takes more memory or time to decode than is allowed here")
        return data

    def _line(self) -> dict[str, Any]:
        line = self._pipe.readline(MAX_LINE)
        if not line.endswith(b"\n"):
            raise VideoError("the video takes more memory or time to decode than is allowed here")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise VideoError(found["error"])
        return found


def _lower_limits(memory: int, cpu_s: int) -> None:
    limits = (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    )
    for kind, value in limits:
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def _line(values: dict[str, Any]) -> bytes:
    return _FRAME.pack(0, 0.0) + json.dumps(values).encode() + b"\n"


def _serve_frames(order: dict[str, Any], out: IO[bytes]) -> None:
    """The child's work: a line that describes the video, the frames, a line of problems."""
    from rallytrace import video

    with video.read(order["path"]) as reader:
        info = reader.info
        if info.wh[0] * info.wh[1] > order["pixels"]:
            raise VideoError(f"the video is {info.wh[0]}x{info.wh[1]}: at most {order['pixels']} pixels are allowed")
        n_frames = info.n_frames or (round(info.duration_s * info.fps) if info.duration_s else None)
        if n_frames is not None and n_frames > order["frames"]:
            raise VideoError(f"the video has {n_frames} frames: at most {order['frames']} are allowed here")
        out.write(_line({"wh": info.wh, "fps": str(info.fps), "n_frames": n_frames}))
        transform = FrameTransform.fit_area(info.wh, tuple(order["size_wh"]), order["multiple"])
        reader.give(wh=transform.content_wh, colour=order["colour"])
        for frame in reader:
            if frame.index >= order["frames"] or frame.pts_s - info.start_s > order["seconds"]:
                raise VideoError(f"the video is longer than {order['frames']} frames or {order['seconds']:g} s")
            out.write(_FRAME.pack(1, frame.pts_s) + frame.image.tobytes())
        out.write(_line({"problems": [problem[:500] for problem in reader.problems[:20]]}))


def _main(order: dict[str, Any]) -> None:
    _lower_limits(order["memory"], order["cpu_s"])
    out = sys.stdout.buffer
    try:
        _serve_frames(order, out)
    except VideoError as error:
        message = str(error).replace(order["path"], "the video")
        out.write(_line({"error": message[:2000]}))
    except BrokenPipeError:
        os._exit(1)
    out.flush()


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
