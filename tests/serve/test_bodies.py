"""Bodies of strangers: what is right is read exactly, what is not is refused in one line, whatever it is."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from rallytrace import video
from rallytrace.decode.pictures import Pictures
from rallytrace.errors import InputError, VideoError
from rallytrace.models import get_spec
from rallytrace.serve import bodies
from rallytrace.serve.protocol import FrameRecord
from rallytrace.serve.security import ApiError
from rallytrace.types import Image


def header(shape: tuple[int, ...]) -> bytes:
    """Of an .npy file of uint8, with any shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


WINDOWS = st_np.arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * 4))
SEPARATORS = st.sampled_from([(", ", ": "), (",", ":")])


def saved(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)  # type: ignore[arg-type]
    return file.getvalue()


@given(WINDOWS, SEPARATORS, st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_json_windows_are_read_to_the_level(
    windows: Image, separators: tuple[str, str], wrapped: bool, kind: type
) -> None:
    lists = (windows.astype(kind) / kind(255)).tolist()
    body = json.dumps({"instances": lists} if wrapped else lists, separators=separators).encode()
    assert (bodies.parse_windows(body) == windows).all()
    assert bodies._plain_numbers(memoryview(json.dumps(lists, separators=separators).encode())) is not None


@given(st_np.arrays(np.float64, st.tuples(*[st.integers(1, 3)] * 4), elements=st.floats(0, 1)))
def test_the_fast_parser_agrees_with_json(values: np.ndarray) -> None:
    body = json.dumps(values.tolist()).encode()
    fast, slow = bodies.parse_windows(body), bodies._slow_numbers(memoryview(body))
    assert np.abs(fast.astype(int) - slow).max() <= 1  # rounding of a number just at a half


@given(st.text('[]0123456789., eE-{}"ins\n', max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_the_fast_parser_takes_nothing_that_json_refuses(text: str) -> None:
    body = text.encode("latin-1")
    try:
        found = bodies.parse_windows(body)
    except InputError:
        return
    values = json.loads(body)
    values = values["instances"] if isinstance(values, dict) else values
    assert np.array(values).shape in (found.shape, found.shape[1:])


@pytest.mark.parametrize(
    "text",
    [
        "[[[[0. ]]]]",
        "[[[[1.]]]]",
        "[[[[0.5,0.]]]]",
        "[[[[1.9]]]]",
        "[[[[1.01]]]]",
        "[[[[01]]]]",
        "[[[[+1]]]]",
        "[[[[.5]]]]",
        '[[[["0.5"]]]]',
        "[[[[true]]]]",
        "[[[[null]]]]",
        "[[[[NaN]]]]",
        "[[[[0.5]]],[[[0.5,0.5]]]]",
        "[[[[2]]]]",
        "[[[[-1]]]]",
        "[[[[1e999]]]]",
    ],
)
def test_wrong_numbers_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        bodies.parse_windows(text.encode())


@given(WINDOWS)
def test_npy_windows_are_read_exactly(windows: Image) -> None:
    assert (bodies.parse_npy(saved(windows)) == windows).all()
    assert (bodies.parse_npy(saved(windows.astype(np.float32) / 255)) == windows).all()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (saved(np.zeros((1, 9, 8, 8), np.float64)), "<f8"),
        (saved(np.array([[[[{}]]]], object), allow_pickle=True), r"\|O"),
        (saved(np.asfortranarray(np.zeros((1, 9, 8, 8), np.uint8))), "C order"),
        (saved(np.zeros((1, 9, 8, 8), np.uint8))[:-1], "no more"),
        (saved(np.zeros((1, 9, 8, 8), np.uint8)) + b"x", "no more"),
        (saved(np.zeros((65, 1, 1, 1), np.uint8)), "1 to 64"),
        (saved(np.zeros((0, 9, 8, 8), np.uint8)), "1 to 64"),
        (saved(np.full((1, 9, 8, 8), np.nan, np.float32)), "outside"),
        (saved(np.zeros((8, 8), np.uint8)), "shape"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000, "npy"),
        (
            b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 9, 8, 8)}",
            "shape|npy",
        ),
        (header((-1, 9, 8, 8)) + bytes(576), "shape"),
        (header((-1, -1, 8, 8)) + bytes(64), "shape"),
        (header((1, 9, 8, -8)) + bytes(576), "shape"),
        (header((-1,)), "shape"),
        (header(()) + bytes(1), "shape"),
        (b"PK\x03\x04", "npy"),
        (b"", "npy"),
    ],
)
def test_hostile_arrays_are_refused(body: bytes, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        bodies.parse_npy(body)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: saved(np.zeros(3))[:60] + tail))
def test_garbage_is_no_array(body: bytes) -> None:
    with contextlib.suppress(InputError):
        bodies.parse_npy(body)


@pytest.fixture(scope="module")
def pictures() -> Iterator[Pictures]:
    found = Pictures(1)
    yield found
    found.close()


def test_pictures_that_claim_much_are_refused(pictures: Pictures) -> None:
    bomb = bytearray(video.encode_png(np.zeros((20, 30, 3), np.uint8)))
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    with pytest.raises(VideoError):
        bodies.decode_frame(bytes(bomb), "png", (30, 20), "grey", pictures)
    records = [FrameRecord(0, 0.0, bytes(bomb))]
    with pytest.raises(VideoError):
        bodies.clip_frames(records, get_spec("rallynet"), None, pictures, max_frames=10, max_pixels=10**6)


def test_pictures_of_a_clip_are_of_one_size(pictures: Pictures) -> None:
    sizes = ((288, 512), (288, 512), (0, 0), (289, 512))
    payloads = [video.encode_jpeg(np.zeros((h, w, 3), np.uint8)) if h else b"" for h, w in sizes]
    records = [FrameRecord(i, i / 30, payload) for i, payload in enumerate(payloads)]
    limits = {"max_frames": 10, "max_pixels": 10**6}
    wh, frames = bodies.clip_frames(records[:3], get_spec("rallynet"), None, pictures, **limits)
    assert wh == (512, 288)
    assert [frame.index for frame in frames] == [0, 1, 2]
    with pytest.raises(VideoError, match=r"expected 512x288|cannot be decoded"):
        list(bodies.clip_frames(records, get_spec("rallynet"), None, pictures, **limits)[1])
    with pytest.raises(InputError, match="in order"):
        list(bodies.clip_frames(records[1::-1], get_spec("rallynet"), None, pictures, **limits)[1])
    with pytest.raises(InputError, match="no pictures"):
        bodies.clip_frames([], get_spec("rallynet"), None, pictures, **limits)


def test_a_jpeg_of_many_scans_is_not_decoded(pictures: Pictures) -> None:
    jpeg = video.encode_jpeg(np.zeros((16, 16, 3), np.uint8))
    scan = jpeg[jpeg.index(b"\xff\xda") :]
    with pytest.raises(VideoError, match="scans"):
        bodies.decode_frame(jpeg + scan * 100, "jpeg", (16, 16), "grey", pictures)


@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda tail: b"\xff\xd8\xff" + tail))
def test_garbage_is_no_frame(pictures: Pictures, payload: bytes) -> None:
    for codec in ("jpeg", "png", "raw"):
        with pytest.raises(VideoError):
            bodies.decode_frame(payload, codec, (64, 48), "grey", pictures)  # type: ignore[arg-type]


@given(st.integers(0, 599), st.integers(1, 255))
def test_a_damaged_jpeg_is_decoded_or_refused(pictures: Pictures, place: int, change: int) -> None:
    rng = np.random.default_rng(0)
    jpeg = bytearray(video.encode_jpeg(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)))
    jpeg[place % len(jpeg)] ^= change
    try:
        image = bodies.decode_frame(bytes(jpeg), "jpeg", (48, 32), "rgb", pictures)
    except VideoError:
        return
    assert image.shape == (32, 48, 3)


def test_three_rgb_pictures_become_the_luma_that_a_grey_network_is_trained_on() -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    picture = video.decode_jpeg(video.encode_jpeg(picture, 95))  # a picture that has a luma
    spec = get_spec("rallynet", frames=3, background=False)
    window = np.concatenate([picture.transpose(2, 0, 1)] * 3)[None]
    grey = bodies.fit_windows(window, spec)[0, 0]
    luma = np.rint(picture @ [0.299, 0.587, 0.114])
    assert np.abs(grey[:48, :64].astype(int) - luma).max() <= 1
    assert bodies.takes(spec, 9)
    assert bodies.takes(get_spec("tracknet_v2"), 9)
    assert not bodies.takes(get_spec("rallynet"), 9)


@given(st.floats(20, 490), st.floats(20, 260), st.floats(0.5, 1))
def test_the_spot_is_centred_on_the_ball_for_who_takes_the_middle_of_its_box(x: float, y: float, score: float) -> None:
    maps = bodies.blobs([((x, y), score), ((x, y), score / 2 - 0.001)], (288, 512), 0.5)
    back = np.array(json.loads(bodies.heatmaps_json(maps))["predictions"])
    assert back.shape == (2, 288, 512)
    assert not (back[1] > 0.5).any()
    rows, cols = np.nonzero(back[0] > 0.5)
    assert abs((cols.min() + cols.max()) / 2 - x) <= 0.51
    assert abs((rows.min() + rows.max()) / 2 - y) <= 0.51


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "a/json"),
        ("*/*", "a/json"),
        ("text/csv", "text/csv"),
        ("text/*;q=0.5, b/x", "text/csv"),
        ("b/x, TEXT/CSV", "text/csv"),
    ],
)
def test_accept_is_obeyed(accept: str | None, expected: str) -> None:
    assert bodies.choose(accept, ["a/json", "text/csv"]) == expected


def test_an_accept_that_cannot_be_obeyed_is_refused() -> None:
    with pytest.raises(ApiError, match="a/json"):
        bodies.choose("b/x", ["a/json"])
