"""The messages of the stream `WS /v1/stream`, shared by server and client, and the record that carries a frame.

Text messages are JSON objects with a "type"; binary messages are frames, `pack_frame`. In a body of content type
`application/x-rallytrace-frames` the same records follow each other, each behind its length (u32, little-endian).
Whatever is parsed here may come from a stranger: sizes, types and ranges are bounded, and all that is wrong is a
ProtocolError.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn, TypeVar, get_args

import numpy as np

from rallytrace.errors import InputError
from rallytrace.types import BallPoint, Image, PointSource

VERSION = 1
MAX_CLIENT_TEXT = 4096  # bytes of a text message to the server
MAX_SERVER_TEXT = 1 << 20  # and of one from it
MAX_POINTS = 4096  # in one message
MAX_SIDE_PX = 16_384
MAX_INDEX = 2**53  # frames: what a float of JavaScript counts exactly

Codec = Literal["delta", "jpeg", "png", "raw"]
CODECS: tuple[str, ...] = get_args(Codec)

# Codes with which the server closes; 1000 after "done".
CLOSE_GOING_AWAY, CLOSE_POLICY, CLOSE_TOO_BIG, CLOSE_INTERNAL = 1001, 1008, 1009, 1011
CLOSE_RESTART, CLOSE_TRY_AGAIN, CLOSE_UNKNOWN_SESSION = 1012, 1013, 4404

_MAGIC = b"RTF1"
_HEADER = struct.Struct("<4sIQd")  # magic, crc32 of the payload, frame index, pts_s
_LENGTH = struct.Struct("<I")


class ProtocolError(InputError):
    """A message that the protocol does not have, or that is malformed, too large or out of range."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class FrameRecord:
    """One frame on the wire. payload: JPEG, PNG or raw uint8 bytes, as the session's codec says; with `delta` a JPEG,
    a PNG, or what changed since the frame before (`pack_change`).

    An empty payload means "the very picture of the frame before": the noise of a lossy codec would hide a repeat.
    """

    index: int
    pts_s: float
    payload: bytes | memoryview

    def __repr__(self) -> str:
        return f"FrameRecord(index={self.index}, pts_s={self.pts_s:.3f}, payload={len(self.payload)} bytes)"


def pack_frame(index: int, pts_s: float, payload: bytes) -> bytes:
    """The binary message of one frame."""
    return _HEADER.pack(_MAGIC, zlib.crc32(payload), index, pts_s) + payload


def unpack_frame(data: bytes | memoryview, *, max_bytes: int) -> FrameRecord:
    """The inverse of `pack_frame`; the payload shares `data`'s memory. Raises ProtocolError."""
    if not _HEADER.size <= len(data) <= max_bytes:
        raise ProtocolError(f"a frame message of {len(data)} bytes: expected {_HEADER.size} to {max_bytes}")
    magic, crc, index, pts_s = _HEADER.unpack_from(data)
    payload = memoryview(data)[_HEADER.size :]
    if magic != _MAGIC:
        raise ProtocolError(f"a frame message that starts with {bytes(magic)!r}: expected {_MAGIC!r}")
    if index > MAX_INDEX or not math.isfinite(pts_s) or abs(pts_s) > 1e9:
        raise ProtocolError(f"frame {index} at {pts_s} s: out of range")
    if zlib.crc32(payload) != crc:
        raise ProtocolError(f"frame {index} was damaged on its way: its checksum does not match")
    return FrameRecord(index, pts_s, payload)


def pack_frames(frames: Iterable[FrameRecord]) -> bytes:
    """A body of content type `application/x-rallytrace-frames`."""
    records = (pack_frame(frame.index, frame.pts_s, bytes(frame.payload)) for frame in frames)
    return b"".join(_LENGTH.pack(len(record)) + record for record in records)


def unpack_frames(body: bytes | memoryview, *, max_bytes: int) -> Iterator[FrameRecord]:
    """The inverse of `pack_frames`; `max_bytes` bounds one record. Raises ProtocolError."""
    view, at = memoryview(body), 0
    while at < len(view):
        if at + _LENGTH.size > len(view):
            raise ProtocolError("the body ends inside a record's length")
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if length > len(view) - at:
            raise ProtocolError(f"a record of {length} bytes is announced where {len(view) - at} are left")
        yield unpack_frame(view[at : at + length], max_bytes=max_bytes)
        at += length


def pack_change(image: Image, before: Image) -> bytes:
    """Lossless: what changed since `before`, a picture of the same shape. Small where the camera stands still."""
    # Runs and Huffman codes alone: a third of the time of zlib's default, and no larger on such differences.
    packer = zlib.compressobj(3, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return packer.compress((image - before).tobytes()) + packer.flush()


def is_change(payload: bytes | memoryview) -> bool:
    """Whether a payload of the codec `delta` is a change, not a picture of its own."""
    return bytes(payload[:1]) == b"\x78"


def unpack_change(payload: bytes | memoryview, before: Image) -> Image:
    """The inverse of `pack_change`. Raises ProtocolError."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(payload, before.size + 1)
    except zlib.error as error:
        raise ProtocolError(f"a change that cannot be unpacked ({error})") from None
    if len(data) != before.size or not unpacker.eof or unpacker.unused_data:
        raise ProtocolError(f"a change that is not of {before.size} bytes, as the picture before is")
    return before + np.frombuffer(data, np.uint8).reshape(before.shape)


class _Message:
    """What all messages share. A subclass's fields are those of its JSON object, less "type"."""

    __slots__ = ()
    type: ClassVar[str]

    def to_json(self) -> str:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return json.dumps({"type": self.type, **fields}, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, slots=True)
class Start(_Message):
    """C->S: open a session. codec: of the payloads. threshold: the network's own when None. fill is the client's."""

    type: ClassVar[str] = "start"
    source_wh: tuple[int, int]
    model: str | None = None
    live: bool = False
    threshold: float | None = None
    overlap: int = 1
    fill: int = 0
    codec: Codec = "jpeg"
    key: str | None = dataclasses.field(default=None, repr=False)  # for browsers, which cannot set a header
    protocol: int = VERSION

    def __post_init__(self) -> None:
        _check_wh("source_wh", self.source_wh)
        if self.protocol != VERSION:
            _refuse("protocol", self.protocol, str(VERSION))
        if self.threshold is not None and not 0 < self.threshold < 1:
            _refuse("threshold", self.threshold, "between 0 and 1, or null")
        if not 1 <= self.overlap <= 64:
            _refuse("overlap", self.overlap, "1 to 64")
        if self.codec not in CODECS:
            _refuse("codec", self.codec, " or ".join(CODECS))


@dataclass(frozen=True, slots=True)
class Resume(_Message):
    """C->S: go on with a session after a broken connection. points: the first frame whose point is not kept yet."""

    type: ClassVar[str] = "resume"
    session: str
    points: int
    key: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_count("points", self.points)


@dataclass(frozen=True, slots=True)
class Ack(_Message):
    """C->S: the points of frames before `points` are kept; the server may forget them."""

    type: ClassVar[str] = "ack"
    points: int

    def __post_init__(self) -> None:
        _check_count("points", self.points)


@dataclass(frozen=True, slots=True)
class End(_Message):
    """C->S: no more frames; points of the last ones, then Done."""

    type: ClassVar[str] = "end"


@dataclass(frozen=True, slots=True)
class Started(_Message):
    """S->C: the session. next: index of the frame that is expected. window: how many frames may be unanswered."""

    type: ClassVar[str] = "started"
    session: str
    model: str
    version: str
    content_wh: tuple[int, int]
    colour: Literal["grey", "rgb"]
    next: int
    window: int

    def __post_init__(self) -> None:
        _check_wh("content_wh", self.content_wh)
        _check_count("next", self.next)
        _check_count("window", self.window)
        if self.colour not in ("grey", "rgb"):
            _refuse("colour", self.colour, "grey or rgb")


@dataclass(frozen=True, slots=True)
class Points(_Message):
    """S->C: raw points of the Tracker, in order of frames; see `Points.of` and `Points.to_points`.

    points: [frame, pts_s, x or null, y or null, score, source] each. next: frames before it are answered or at work,
    and give their credit back. keep: a fresh session that is fed from this frame on gives the same further points.
    """

    type: ClassVar[str] = "points"
    points: tuple[tuple[Any, ...], ...]
    next: int
    keep: int = 0

    def __post_init__(self) -> None:
        _check_count("next", self.next)
        _check_count("keep", self.keep)
        if len(self.points) > MAX_POINTS:
            _refuse("points", len(self.points), f"at most {MAX_POINTS} in a message")

    @classmethod
    def of(cls, points: Iterable[BallPoint], next_index: int, keep: int = 0) -> Points:
        rows = ((p.frame, p.pts_s, *(p.xy or (None, None)), p.score, p.source.value) for p in points)
        return cls(tuple(rows), next_index, keep)

    def to_points(self) -> list[BallPoint]:
        """Raises ProtocolError for a row that is no point."""
        return [_point(row) for row in self.points]


def _point(row: tuple[Any, ...]) -> BallPoint:
    try:
        frame, pts_s, x, y, score, source = row
        kind = PointSource(source)
    except ValueError as error:
        raise ProtocolError(f"malformed points ({error})") from None
    numbers = (pts_s, score) if x is None and y is None else (pts_s, score, x, y)
    if type(frame) is not int or not all(type(n) in (int, float) and abs(n) <= MAX_INDEX for n in numbers):
        raise ProtocolError(f"malformed points ({repr(row)[:80]})")
    return BallPoint(frame, float(pts_s), None if x is None else (float(x), float(y)), float(score), kind)


@dataclass(frozen=True, slots=True)
class Done(_Message):
    """S->C: every point was sent; `frames` were tracked."""

    type: ClassVar[str] = "done"
    frames: int


@dataclass(frozen=True, slots=True)
class Error(_Message):
    """S->C: why the server closes the connection next. retry_after_s: None where trying again is of no use."""

    type: ClassVar[str] = "error"
    code: str
    message: str
    retry_after_s: float | None = None


ClientMessage = Start | Resume | Ack | End
ServerMessage = Started | Points | Done | Error
M = TypeVar("M", bound=_Message)
_CLIENT: dict[str, type[ClientMessage]] = {kind.type: kind for kind in (Start, Resume, Ack, End)}
_SERVER: dict[str, type[ServerMessage]] = {kind.type: kind for kind in (Started, Points, Done, Error)}


def parse_client(text: str) -> ClientMessage:
    """A text message to the server. Raises ProtocolError."""
    return _parse(text, _CLIENT, MAX_CLIENT_TEXT)


def parse_server(text: str) -> ServerMessage:
    """A text message from the server. Raises ProtocolError."""
    return _parse(text, _SERVER, MAX_SERVER_TEXT)


def _parse(text: str, kinds: dict[str, type[M]], limit: int) -> M:
    if len(text) > limit:
        raise ProtocolError(f"a message of {len(text)} characters: expected at most {limit}")
    try:
        fields = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message that is not JSON ({error})") from None
    kind = kinds.get(str(fields.pop("type", None))) if isinstance(fields, dict) else None
    if kind is None:
        raise ProtocolError(f"expected a JSON object whose type is {', '.join(kinds)}")
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    # Unknown fields are those of a later version of this protocol.
    return kind(**_checked({name: value for name, value in fields.items() if name in known}, known, kind.type))


def _checked(values: dict[str, Any], known: dict[str, dataclasses.Field[Any]], kind: str) -> dict[str, Any]:
    """`values` with the types that the fields are annotated with, lists as tuples. Raises ProtocolError."""
    for name, field in known.items():
        if name not in values:
            if field.default is dataclasses.MISSING:
                raise ProtocolError(f"{kind} without {name!r}")
            continue
        values[name] = _cast(name, values[name], str(field.type))
    return values


def _cast(name: str, value: Any, annotation: str) -> Any:
    base = annotation.removesuffix(" | None")
    if value is None and base != annotation:
        return None
    if base in ("str", "Codec") or base.startswith("Literal"):
        fits = isinstance(value, str) and len(value) <= 1024
    elif base == "int":
        fits = type(value) is int and abs(value) <= MAX_INDEX
    elif base == "float":
        fits = type(value) in (int, float) and abs(value) <= MAX_INDEX
    elif base == "bool":
        fits = isinstance(value, bool)
    elif base == "tuple[int, int]":
        fits = isinstance(value, list) and [type(v) for v in value] == [int, int]
    else:
        fits = isinstance(value, list) and all(isinstance(row, list) for row in value)
        return tuple(map(tuple, value)) if fits else _refuse(name, value, annotation)
    if not fits:
        _refuse(name, value, annotation)
    return tuple(value) if isinstance(value, list) else value


def _refuse(name: str, value: object, expected: str) -> NoReturn:
    raise ProtocolError(f"{name} is {repr(value)[:80]}, expected {expected}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _check_wh(name: str, wh: tuple[int, int]) -> None:
    if not 1 <= min(wh) <= max(wh) <= MAX_SIDE_PX:
        _refuse(name, wh, f"sides of 1 to {MAX_SIDE_PX} px")


def _check_count(name: str, value: int) -> None:
    if not 0 <= value <= MAX_INDEX:
        _refuse(name, value, f"0 to {MAX_INDEX}")
