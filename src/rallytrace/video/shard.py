"""A clip's pictures in one uncompressed tar: 000000.jpg and so on, then clip.json, which has their times and sizes.

A picture that repeats the one before is a hard link to it, so that it is a repeat for whoever reads the shard, too: the
noise of two JPEGs would hide it. Equal pictures make equal bytes. Nothing is ever unpacked: a shard is read by place,
and each header must be the one that `write_shard` would have written there.
"""

from __future__ import annotations

import itertools
import json
import math
import tarfile
from collections.abc import Generator, Iterable
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av

from rallytrace.errors import VideoError
from rallytrace.files import AtomicFile, output_errors
from rallytrace.geometry import FrameTransform
from rallytrace.types import Box, Frame, Image, VideoInfo
from rallytrace.video.frames import MAX_SIDE_PX, Colour, decode_picture, encode_jpeg
from rallytrace.window import is_repeat

SUFFIX = ".tar"
ABOUT = "clip.json"
BLOCK = 512  # bytes; the unit of a tar
MAX_ABOUT = 64 << 20  # bytes: the times of two million pictures

Place = tuple[int, int]  # offset of a picture's first byte in the shard, and how many bytes it has


def write_shard(
    path: Path, frames: Iterable[Frame], info: VideoInfo, transform: FrameTransform, colour: Colour, quality: int
) -> list[Place]:
    """One JPEG per frame, whose images are at `transform.content_wh`. `info`: of the video that they come from.

    Returns where each frame's picture lies. Raises OutputError.
    """
    places: list[Place] = []
    times: list[float] = []
    last: tuple[Image, str] | None = None  # the newest JPEG as it was before, and its name
    with AtomicFile(path, "wb") as file, output_errors(path):
        for n, frame in enumerate(frames):
            image = transform.pad(frame.image)
            times.append(frame.pts_s)
            if last and is_repeat(last[0], image):
                _add(file, f"{n:06}.jpg", b"", link=last[1])
                places.append(places[-1])
            else:
                last, jpeg = (image, f"{n:06}.jpg"), encode_jpeg(frame.image, quality)
                places.append((_add(file, last[1], jpeg), len(jpeg)))
        about: dict[str, Any] = {
            "source_wh": info.wh,
            "wh": transform.content_wh,
            "colour": colour,
            "fps": str(info.fps),
        }
        if info.picture is not None:
            about["picture"] = info.picture
        _add(file, ABOUT, json.dumps({**about, "pts_s": times}).encode())
        file.write(bytes(2 * BLOCK))
    return places


def _add(file: IO[bytes], name: str, data: bytes, link: str = "") -> int:
    member = tarfile.TarInfo(name)  # whose times and owners are all zero
    member.size, member.linkname = len(data), link
    member.type = tarfile.LNKTYPE if link else tarfile.REGTYPE
    file.write(member.tobuf(tarfile.USTAR_FORMAT))
    offset = file.tell()
    file.write(data + bytes(-len(data) % BLOCK))
    return offset


def shard_bytes(places: Iterable[Place]) -> int:
    """How many bytes of a shard its pictures take; -1 where they cannot lie in a shard in this way."""
    end, last = 0, (0, 0)
    for place in places:
        offset, size = place
        end += BLOCK
        if place != last:
            if offset != end or size < 1:
                return -1
            end += size + -size % BLOCK
        last = place
    return end


def jpeg_of(block: bytes, frame: int, what: str) -> bytes:
    """The picture of `frame` in what lies at its place, the header included. Raises VideoError for anything else."""
    name, size, _ = _header(block[:BLOCK], what)
    if name != f"{frame:06}.jpg" or len(block) != BLOCK + size:
        raise VideoError(f"{what}: {name[:40]!r} lies where picture {frame} should: the index is of another shard")
    return block[BLOCK:]


def _header(block: bytes, what: str) -> tuple[str, int, str]:
    """Name, size and, of a hard link, the name that it links to."""
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise VideoError(f"{what} is no shard of pictures, or cut off ({error}): prepare it again") from None
    is_link = member.type == tarfile.LNKTYPE and member.size == 0
    if (member.type != tarfile.REGTYPE and not is_link) or member.size < 0:
        raise VideoError(f"{what} has {member.name[:40]!r}, which is no plain file, expected pictures only")
    return member.name, member.size, member.linkname if is_link else ""


class Shard:
    """A shard as a source of `video.read`. Raises VideoError."""

    def __init__(self, path: Path) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._path = path
        try:
            with open(path, "rb") as file:
                self._places, about = _walk(file, path)
            self._about = _About(about, len(self._places))
        except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError, RecursionError) as error:
            if isinstance(error, VideoError):
                raise
            raise VideoError(f"{path} cannot be read as a shard ({error}): prepare it again") from None
        self.stored = (self._about.wh, self._about.colour)

    def frames(self) -> Generator[tuple[float, av.VideoFrame], None, None]:
        with open(self._path, "rb") as file:
            last, frame = None, None
            for n, place in enumerate(self._places):
                what = f"{self._path}, picture {n}"
                if frame is None or place != last:
                    file.seek(place[0])
                    last, frame = place, decode_picture(file.read(place[1]), what)
                if (frame.width, frame.height) != self._about.wh:
                    raise VideoError(f"{what} is {frame.width}x{frame.height}, expected {self._about.wh}")
                yield self._about.pts_s[n], frame

    def info(self, start_s: float, first: av.VideoFrame) -> VideoInfo:
        about, n = self._about, len(self._places)
        duration_s = about.pts_s[-1] - start_s + float(1 / about.fps)
        pixels = first.format.name
        path, wh = str(self._path), about.source_wh
        return VideoInfo(
            path, wh, about.fps, n, duration_s, start_s, "mjpeg", pixels, 0, False, False, picture=about.picture
        )

    def heard(self) -> None:
        """Shards hold no sound."""

    def samples(self) -> Generator[av.VideoFrame, None, None]:
        yield from (frame for _, frame in self.frames())

    def close(self) -> None:
        pass


class _About:
    def __init__(self, about: dict[str, Any], n: int) -> None:
        self.source_wh, self.wh = _wh(about["source_wh"]), _wh(about["wh"])
        self.picture = Box(*map(int, about["picture"])) if "picture" in about else None
        if self.picture and (min(self.picture) < 0 or min(self.picture.wh) < 1):
            raise ValueError(f"picture {self.picture}")
        self.colour: Colour = about["colour"]
        self.fps = Fraction(about["fps"])
        self.pts_s = [float(t) for t in about["pts_s"]]
        rising = all(a < b for a, b in itertools.pairwise(self.pts_s)) and all(map(math.isfinite, self.pts_s))
        if self.colour not in ("grey", "rgb") or self.fps <= 0 or not rising or len(self.pts_s) != n or not n:
            raise ValueError(f"{ABOUT} does not fit {n} pictures")


def _wh(value: Any) -> tuple[int, int]:
    w, h = (int(side) for side in value)
    if not (0 < w <= MAX_SIDE_PX and 0 < h <= MAX_SIDE_PX):
        raise ValueError(f"size {w}x{h}")
    return w, h


def _walk(file: IO[bytes], path: Path) -> tuple[list[Place], dict[str, Any]]:
    """Where the pictures lie, and clip.json behind the last."""
    length = path.stat().st_size
    places: list[Place] = []
    last = ""  # the name of the newest picture that is no link
    while True:
        name, size, link = _header(file.read(BLOCK), str(path))
        offset = file.tell()
        if offset + size > length:
            raise VideoError(f"{path} is cut off in {name[:40]!r}: copy or prepare it again")
        if name == ABOUT and size <= MAX_ABOUT:
            return places, json.loads(file.read(size))
        if name != f"{len(places):06}.jpg" or (link and link != last):
            raise VideoError(f"{path} has {name[:80]!r}, expected {len(places):06}.jpg or {ABOUT}: nothing is unpacked")
        last = last if link else name
        places.append(places[-1] if link else (offset, size))
        file.seek(size + -size % BLOCK, 1)
