"""The stream's messages: inverse pairs, and nothing but ProtocolError for whatever a stranger sends."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallytrace import BallPoint
from rallytrace.serve import protocol
from rallytrace.serve.protocol import Ack, Done, End, Error, FrameRecord, Points, ProtocolError, Resume, Start, Started
from rallytrace.types import PointSource

SIDES = st.integers(1, protocol.MAX_SIDE_PX)
SIZES = st.tuples(SIDES, SIDES)
COUNTS = st.integers(0, protocol.MAX_INDEX)
NAMES = st.text(max_size=50)
NUMBERS = st.floats(-1e6, 1e6)
STARTS = st.builds(
    Start,
    SIZES,
    model=st.none() | NAMES,
    live=st.booleans(),
    threshold=st.none() | st.floats(0.01, 0.99),
    overlap=st.integers(1, 64),
    fill=st.integers(0, 100),
    codec=st.sampled_from(protocol.CODECS),
)
POINTS = st.builds(BallPoint, COUNTS, NUMBERS, st.tuples(NUMBERS, NUMBERS), st.floats(0, 1)) | st.builds(
    BallPoint, COUNTS, NUMBERS, st.none(), st.floats(0, 1), st.just(PointSource.NONE)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
)


@given(STARTS | st.builds(Resume, NAMES, COUNTS) | st.builds(Ack, COUNTS) | st.just(End()))
def test_client_messages_survive_the_wire(message: protocol.ClientMessage) -> None:
    assert protocol.parse_client(message.to_json()) == message


@given(
    st.builds(Started, NAMES, NAMES, NAMES, SIZES, st.sampled_from(["grey", "rgb"]), COUNTS, COUNTS)
    | st.builds(Points.of, st.lists(POINTS, max_size=5), COUNTS, COUNTS)
    | st.builds(Done, COUNTS)
    | st.builds(Error, NAMES, NAMES, st.none() | st.floats(0, 100))
)
def test_server_messages_survive_the_wire(message: protocol.ServerMessage) -> None:
    assert protocol.parse_server(message.to_json()) == message


@given(st.binary(min_size=24, max_size=24), st.binary(min_size=24, max_size=24), st.sampled_from([(4, 6), (4, 2, 3)]))
def test_changes_survive_the_wire(one: bytes, other: bytes, shape: tuple[int, ...]) -> None:
    before, image = (np.frombuffer(data, np.uint8).reshape(shape) for data in (one, other))
    change = protocol.pack_change(image, before)
    assert protocol.is_change(change)
    assert np.array_equal(protocol.unpack_change(memoryview(change), before), image)
    with pytest.raises(ProtocolError):
        protocol.unpack_change(change[:-1], before)
    with pytest.raises(ProtocolError):
        protocol.unpack_change(change + b"x", before)
    with pytest.raises(ProtocolError):
        protocol.unpack_change(change, before[1:])


@given(st.binary(max_size=200))
def test_a_strangers_change_is_a_picture_or_refused(data: bytes) -> None:
    before = np.zeros((3, 5), np.uint8)
    for payload in (data, b"\x78" + data, zlib.compress(data)):
        try:
            assert protocol.unpack_change(payload, before).shape == (3, 5)
        except ProtocolError:
            continue


def test_a_bomb_is_not_unpacked() -> None:
    """A gigabyte of zeros in a megabyte: no more than a picture of it comes out."""
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush()
    assert len(bomb) < 2_000_000
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="not of 15 bytes"):
        protocol.unpack_change(bomb, np.zeros((3, 5), np.uint8))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@given(st.lists(POINTS, max_size=5))
def test_points_survive_to_the_last_bit(points: list[BallPoint]) -> None:
    parsed = protocol.parse_server(Points.of(points, 7).to_json())
    assert isinstance(parsed, Points)
    assert parsed.to_points() == points


RECORDS = st.builds(FrameRecord, COUNTS, st.floats(-1e9, 1e9), st.binary(max_size=200))


@given(RECORDS)
def test_frames_survive_the_wire(frame: FrameRecord) -> None:
    back = protocol.unpack_frame(protocol.pack_frame(frame.index, frame.pts_s, bytes(frame.payload)), max_bytes=500)
    assert (back.index, back.pts_s, bytes(back.payload)) == (frame.index, frame.pts_s, frame.payload)


@given(st.lists(RECORDS, max_size=5))
def test_bodies_of_frames_survive_the_wire(frames: list[FrameRecord]) -> None:
    back = list(protocol.unpack_frames(protocol.pack_frames(frames), max_bytes=500))
    assert [(f.index, f.pts_s, bytes(f.payload)) for f in back] == [(f.index, f.pts_s, f.payload) for f in frames]


def test_the_record_is_what_the_documentation_says() -> None:
    expected = struct.pack("<4sIQd", b"RTF1", zlib.crc32(b"jpeg"), 7, 0.25) + b"jpeg"
    assert protocol.pack_frame(7, 0.25, b"jpeg") == expected


@given(RECORDS, st.data())
def test_a_flipped_bit_of_the_payload_is_noticed(frame: FrameRecord, data: st.DataObject) -> None:
    wire = bytearray(protocol.pack_frame(frame.index, frame.pts_s, bytes(frame.payload) + b"!"))
    wire[data.draw(st.integers(24, len(wire) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ProtocolError, match="checksum"):
        protocol.unpack_frame(bytes(wire), max_bytes=500)


@given(st.binary(max_size=300))
def test_garbage_is_no_frame(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.unpack_frame(data, max_bytes=200)
    if data:
        with pytest.raises(ProtocolError):
            list(protocol.unpack_frames(data, max_bytes=200))


@given(st.text(max_size=200) | JSON.map(json.dumps))
def test_garbage_is_no_message(text: str) -> None:
    for parse in (protocol.parse_client, protocol.parse_server):
        with pytest.raises(ProtocolError):
            parse(text)


@given(st.sampled_from(["start", "resume", "ack", "end", "started", "points", "done", "error"]), st.data())
def test_wrong_fields_are_protocol_errors_or_nothing(kind: str, data: st.DataObject) -> None:
    names = ["source_wh", "model", "points", "session", "overlap", "threshold", "codec", "next", "frames", "code"]
    fields = data.draw(st.dictionaries(st.sampled_from(names), JSON, max_size=6))
    text = json.dumps({"type": kind, **fields})
    for parse in (protocol.parse_client, protocol.parse_server):
        try:
            message = parse(text)
            if isinstance(message, Points):
                message.to_points()
        except ProtocolError:
            pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"type":"start","source_wh":[0,9]}', "source_wh"),
        ('{"type":"start","source_wh":[9,9],"protocol":2}', "protocol"),
        ('{"type":"start","source_wh":[9,9],"codec":"h264"}', "codec"),
        ('{"type":"start","source_wh":[9,9],"live":1}', "live"),
        ('{"type":"start","source_wh":[9,9],"overlap":true}', "overlap"),
        ('{"type":"start","source_wh":[9,9],"threshold":NaN}', "NaN"),
        ('{"type":"start"}', "source_wh"),
        ('{"type":"ack","points":-1}', "points"),
        ("[" * 4000, "JSON"),
        (" " * 5000, "at most"),
    ],
)
def test_what_is_wrong_is_named(text: str, expected: str) -> None:
    with pytest.raises(ProtocolError, match=expected):
        protocol.parse_client(text)


def test_fields_of_later_versions_are_ignored() -> None:
    assert protocol.parse_client('{"type":"ack","points":3,"new":1}') == Ack(3)


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(Start((9, 9), key="secret"))
