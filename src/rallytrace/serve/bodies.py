"""What goes in and comes out of /invocations, by content type: windows, pictures, points, heatmaps.

All of it comes from strangers: pictures are decoded in children (`rallytrace.decode`), shapes and types are bounded
before anything is allocated, nothing is unpickled.
"""

from __future__ import annotations

import io
import json
import math
import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rallytrace import heatmap
from rallytrace.decode.pictures import Pictures, Wish
from rallytrace.errors import InputError, VideoError
from rallytrace.geometry import FrameTransform
from rallytrace.models import ModelSpec
from rallytrace.runtime import Floats
from rallytrace.serve.protocol import Codec, FrameRecord
from rallytrace.serve.security import ApiError
from rallytrace.trajectory import Trajectory
from rallytrace.types import XY, BallPoint, Frame, Image, PointSource
from rallytrace.video.frames import Colour

Index: TypeAlias = NDArray[np.int64]
MAX_WINDOWS = 64
MAX_WINDOW_PX = 1920 * 1088
BLOB_SIGMA_PX = 2.5
POINT_TYPES = {"application/json": "json", "text/csv": "csv", "application/vnd.apache.parquet": "parquet"}
_OF_NUMBERS = b"0123456789+-.eE[], \t\r\n"
_ONE_AT_A_TIME = threading.Lock()  # json makes objects of 30 bytes for each number


def _table(characters: bytes) -> NDArray[np.bool_]:
    table = np.zeros(256, np.bool_)
    table[list(characters)] = True
    return table


_NUMERIC, _SKIPPED = _table(b"0123456789."), _table(b" [")


def decode_frame(
    payload: bytes | memoryview, codec: Codec, wh: tuple[int, int], colour: Colour, pictures: Pictures
) -> Image:
    """A frame of a stream: uint8 (h, w) or (h, w, 3), of exactly `wh`. Raises VideoError."""
    shape = (wh[1], wh[0]) if colour == "grey" else (wh[1], wh[0], 3)
    if codec != "raw":
        return pictures.decode(payload, Wish(colour, math.prod(wh), wh=wh))[0]
    if len(payload) != math.prod(shape):
        raise VideoError(f"a raw frame of {len(payload)} bytes, expected {math.prod(shape)} for {shape}")
    return np.frombuffer(payload, np.uint8).reshape(shape)


def clip_frames(
    records: Iterable[FrameRecord],
    spec: ModelSpec,
    source_wh: tuple[int, int] | None,
    pictures: Pictures,
    *,
    max_frames: int,
    max_pixels: int,
) -> tuple[tuple[int, int], Iterator[Frame]]:
    """The source size (that of the first picture, unless it is said) and the frames at the size that `spec` wants.

    Raises InputError or VideoError, also while the frames are iterated.
    """
    waiting = iter(records)
    first = next(waiting, None)
    if first is None:
        raise InputError("no pictures in the body")
    fit = (spec.size_wh, spec.multiple)
    to = FrameTransform.fit_area(source_wh, *fit).content_wh if source_wh else None
    picture, wh = pictures.decode(first.payload, Wish(spec.colour, max_pixels, to=to, fit=fit))
    again = Wish(spec.colour, max_pixels, wh=wh, to=(picture.shape[1], picture.shape[0]))

    def frames() -> Iterator[Frame]:
        image = picture
        last = first.index
        yield Frame(first.index, first.pts_s, image)
        for n, record in enumerate(waiting, 2):
            if n > max_frames or record.index <= last:
                raise InputError(f"frame {record.index} behind {last}: expected at most {max_frames}, in order")
            if record.payload:
                image = pictures.decode(record.payload, again)[0]
            last = record.index
            yield Frame(record.index, record.pts_s, image)

    return source_wh or wh, frames()


def parse_windows(body: bytes) -> Image:
    """JSON as the AWS sample's client sends it: nested lists (N, C, H, W) of floats in [0, 1], or {"instances": ...}.

    Returns uint8 (N, C, H, W). Raises InputError.
    """
    match = re.match(rb'\s*\{\s*"instances"\s*:\s*', body)
    view = memoryview(body)[match.end() : body.rindex(b"}")] if match and b"}" in body else memoryview(body)
    fast = _plain_numbers(view)
    return _check_windows(_slow_numbers(view) if fast is None else fast)


def _slow_numbers(view: memoryview) -> Image:
    text = bytes(view)
    if text.translate(None, _OF_NUMBERS):  # texts, true and null would become numbers
        raise InputError("not nested lists of numbers in JSON")
    try:
        with _ONE_AT_A_TIME, np.errstate(over="ignore"):
            values = np.asarray(json.loads(text), np.float32)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(f"not nested lists of numbers in JSON ({str(error)[:100]})") from None
    return to_bytes(values)


def _plain_numbers(view: memoryview) -> Image | None:
    """Numbers such as 0, 1 or 0.123 in regular nested lists, to 6 digits; None for all else.

    Twice as fast as json.loads, and numpy lets go of the interpreter's lock, which json keeps for a quarter of a second
    for each window of 3 pictures, while live sessions wait.
    """
    text: Image = np.frombuffer(view, np.uint8)
    commas = np.flatnonzero(text == ord(","))
    opens, closes = np.flatnonzero(text == ord("[")), np.flatnonzero(text == ord("]"))
    blanks = np.flatnonzero(text == ord(" "))
    digits, n_dots = np.count_nonzero(text - ord("0") < 10), np.count_nonzero(text == ord("."))
    if digits + n_dots + len(commas) + len(opens) + len(closes) + len(blanks) != len(text) or len(opens) > 200_000:
        return None
    if len(blanks) and (blanks[0] == 0 or _NUMERIC[text[blanks - 1]].any()):
        return None
    shape = _shape(view, commas, opens, closes)
    if shape is None or int(np.prod(shape)) != len(commas) + 1:
        return None
    starts = np.concatenate([[0], commas + 1])
    while (skip := _SKIPPED[text[starts]]).any():
        starts += skip
    padded = np.concatenate([text, np.full(8, ord(","), np.uint8)])
    first, point = padded[starts] - ord("0"), padded[starts + 1] == ord(".")
    if (first > 1).any() or np.count_nonzero(point) != n_dots or (~point & _NUMERIC[padded[starts + 1]]).any():
        return None
    if (point & (padded[starts + 2] - ord("0") > 9)).any():  # no digit behind the point
        return None
    levels = _levels(padded, starts, first, point)
    return None if (levels > 255).any() else levels.astype(np.uint8).reshape(shape)


def _levels(text: Image, starts: Index, first: Image, more: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The numbers that begin at `starts` times 255, rounded; `more`: digits follow at starts + 2."""
    value, scale = first.astype(np.int32) * 1_000_000, 100_000
    for place in range(2, 8):
        digit = text[starts + place] - ord("0")
        more = more & (digit < 10)
        value += np.where(more, digit, 0).astype(np.int32) * scale
        scale //= 10
    return (value * 51 + 100_000) // 200_000


def _shape(view: memoryview, commas: Index, opens: Index, closes: Index) -> tuple[int, ...] | None:
    """Of nested lists, by their brackets; the innermost ones are replaced by their lengths and json reads the rest."""
    if len(opens) == 0 or len(opens) != len(closes):
        return None
    rows = opens[np.searchsorted(opens, closes) - 1]  # the last bracket that opens before each that closes
    inner = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
    rows, ends = rows[inner], closes[inner]
    lengths = np.searchsorted(commas, ends) - np.searchsorted(commas, rows) + 1
    edges = np.concatenate([[-1], ends])
    parts = [bytes(view[edges[i] + 1 : rows[i]]) + b"%d" % lengths[i] for i in range(len(rows))]
    try:
        counts = np.asarray(json.loads(b"".join([*parts, bytes(view[edges[-1] + 1 :])])))
    except (ValueError, RecursionError):
        return None
    if counts.dtype.kind != "i" or (counts != lengths[0]).any():
        return None
    return (*counts.shape, int(lengths[0]))


def parse_npy(body: bytes) -> Image:
    """A .npy file of uint8, or float32 in [0, 1], (N, C, H, W) -> uint8. Raises InputError."""
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file, max_header_size=2000)
    except Exception as error:  # a header is parsed as Python: whatever that finds wrong
        raise InputError(f"not an .npy file ({str(error)[:100]})") from None
    if fortran or dtype.str not in ("|u1", "<f4"):
        raise InputError(f"an array of {dtype.str}, expected uint8 or float32 in C order")
    size = math.prod(shape) * dtype.itemsize
    if len(shape) not in (3, 4) or min(shape) < 0 or size != len(body) - file.tell():
        raise InputError(f"an array of shape {shape} in {len(body)} bytes, expected (N, C, H, W) and no more")
    values: NDArray[Any] = np.frombuffer(body, dtype, offset=file.tell()).reshape(shape)
    return _check_windows(values if values.dtype == np.uint8 else to_bytes(values))


def to_bytes(values: NDArray[np.float32]) -> Image:
    """[0, 1] -> 0..255. Raises InputError for numbers outside."""
    if values.size and not (float(values.min()) >= -0.001 and float(values.max()) <= 1.001):  # NaN is neither
        raise InputError("numbers outside of [0, 1]: divide the pictures by 255")
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def _check_windows(windows: Image) -> Image:
    windows = windows[None] if windows.ndim == 3 else windows
    if windows.ndim != 4 or not (windows.size and len(windows) <= MAX_WINDOWS and windows[0, 0].size <= MAX_WINDOW_PX):
        raise InputError(f"windows of shape {windows.shape}, expected (1 to {MAX_WINDOWS}, channels, height, width)")
    return windows


def takes(spec: ModelSpec, channels: int) -> bool:
    """Whether windows of so many channels are the network's own, or three RGB pictures that it can look at in grey."""
    return channels == spec.channels or (channels == 9 and spec.channels == 3 and spec.frames == 3)


def fit_windows(windows: Image, spec: ModelSpec) -> Image:
    """Windows as `spec` takes them: RGB made grey, sides padded to its multiple. See `takes`."""
    if windows.shape[1] != spec.channels:
        n, _, h, w = windows.shape
        rgb = windows.reshape(n, 3, 3, h, w).astype(np.uint16)
        # The luma that the pictures were decoded from: BT.601, as JPEG and OpenCV have it.
        windows = ((77 * rgb[:, :, 0] + 150 * rgb[:, :, 1] + 29 * rgb[:, :, 2] + 128) >> 8).astype(np.uint8)
    pad_h, pad_w = (-side % spec.multiple for side in windows.shape[2:])
    return np.pad(windows, ((0, 0), (0, 0), (0, pad_h), (0, pad_w))) if pad_h or pad_w else windows


def last_points(heatmaps: Floats, offsets: Floats | None, spec: ModelSpec) -> list[tuple[XY, float]]:
    """Position in window pixels and score of the last picture of each window."""
    return [
        heatmap.decode(heatmaps[i, -1], None if offsets is None else offsets[i, -1], stride=spec.stride)
        for i in range(len(heatmaps))
    ]


def blobs(points: list[tuple[XY, float]], hw: tuple[int, int], threshold: float) -> Floats:
    """Heatmaps (N, h, w) for clients that threshold at 0.5 and take the middle of what is left.

    A round spot around each ball, above 0.5 exactly where the network finds one.
    """
    maps = heatmap.render([xy for xy, _ in points], hw, sigma_px=BLOB_SIGMA_PX)
    heights = [(1 + score) / 2 if score >= threshold else min(score, 0.49) for _, score in points]
    return np.round(maps * np.array(heights, np.float32)[:, None, None], 4)


def heatmaps_json(maps: Floats) -> bytes:
    """{"predictions": (N, h, w)}; most rows are empty, and are written once."""
    empty = b"[" + b",".join([b"0.0"] * maps.shape[2]) + b"]"
    pictures = []
    for one in maps:
        lines = [json.dumps(np.round(row, 4).tolist()).encode() if row.any() else empty for row in one.astype(float)]
        pictures.append(b"[" + b",".join(lines) + b"]")
    return b'{"predictions":[' + b",".join(pictures) + b"]}"


def npy(array: NDArray[Any]) -> bytes:
    """The bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def point_rows(points: Iterable[BallPoint]) -> list[list[Any]]:
    """[frame, pts_s, x or null, y or null, score, source] each, as in the messages of the stream."""
    return [[p.frame, p.pts_s, *(p.xy or (None, None)), p.score, p.source.value] for p in points]


def window_point(frame: int, pts_s: float, xy: XY, score: float, threshold: float) -> BallPoint:
    """What `last_points` found in a window, as a point in pixels of the window."""
    found = score >= threshold
    return BallPoint(frame, pts_s, xy if found else None, score, PointSource.MODEL if found else PointSource.NONE)


def check_overlap(overlap: int, spec: ModelSpec) -> None:
    """Before any work is done. Raises InputError."""
    if not 1 <= overlap <= spec.frames:
        raise InputError(f"overlap must be between 1 and the network's {spec.frames} frames, got {overlap}")


def choose(accept: str | None, offered: list[str]) -> str:
    """The first of the content types in Accept that is offered, the first offered where there is no wish.

    Raises ApiError 406.
    """
    for part in (accept or "*/*").split(","):
        kind = part.partition(";")[0].strip().lower()
        group = kind.removesuffix("*")
        for each in offered:
            if kind in (each, "*/*", "*") or (group.endswith("/") and each.startswith(group)):
                return each
    raise ApiError(406, "not_acceptable", f"Accept: expected one of {', '.join(offered)}")


def points_body(points: list[BallPoint], kind: str, folder: Path, **more: Any) -> bytes:
    """Points as `kind` (a value of POINT_TYPES) says. folder: for a passing file. Raises MissingDependency."""
    if kind == "json":
        return json.dumps({"points": point_rows(points), **more}).encode()
    path = folder / f".{secrets.token_hex(8)}.{kind}"
    trajectory = Trajectory.from_points(points)
    try:
        (trajectory.to_csv if kind == "csv" else trajectory.to_parquet)(path)
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)
