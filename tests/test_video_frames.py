"""The one resize against the pixel convention, and colours against the closed forms of BT.601 and BT.709."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from rallytrace.errors import VideoError
from rallytrace.geometry import FrameTransform, flip_x
from rallytrace.types import Image, Yuv
from rallytrace.video import decode_jpeg, encode_jpeg, encode_png, read, rgb_to_yuv, yuv_to_rgb
from rallytrace.video.frames import MATRICES

from .clips import blob, centroid, ffmpeg, flat_yuv, lossless

RED_601, RED_709 = (81, 90, 240), (63, 102, 240)  # ITU-R BT.601 and BT.709, limited range
SIZES = [
    ((1920, 1080), (512, 288)),
    ((1280, 720), (512, 288)),
    ((333, 187), (256, 144)),
    ((333, 187), (512, 288)),  # upwards
    ((720, 1280), (288, 512)),
    ((640, 352), (213, 117)),
]


def blob_clip(folder: Path, image: Image) -> Path:
    """One picture with `image` as its luma."""
    h, w = image.shape
    chroma = b"\x80" * (-(-w // 2) * -(-h // 2) * 2)
    return lossless(folder / "blob.mkv", [image.tobytes() + chroma], (w, h), "yuv420p", "-color_range", "tv")


@pytest.mark.parametrize(("source_wh", "model_wh"), SIZES)
@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_resize_follows_the_pixel_convention(
    tmp_path: Path, source_wh: tuple[int, int], model_wh: tuple[int, int], colour: str
) -> None:
    transform = FrameTransform(source_wh, model_wh, model_wh)
    xy = source_wh[0] * 0.31 + 0.37, source_wh[1] * 0.62 + 0.21
    sigma_px = max(3.0, 2.5 * source_wh[0] / model_wh[0])
    image = blob(source_wh, xy, sigma_px)
    for picture, at in ((image, xy), (image[:, ::-1], flip_x(xy, source_wh[0]))):
        with read(blob_clip(tmp_path, picture), wh=model_wh, colour=colour) as reader:  # type: ignore[arg-type]
            seen = next(reader).image
        assert seen.shape[:2] == model_wh[::-1]
        found = centroid(seen if seen.ndim == 2 else seen[..., 1])
        assert found == pytest.approx(transform.to_model(at), abs=0.05)


def test_resize_is_an_area_average(tmp_path: Path) -> None:
    """Four times smaller, each pixel is the mean of 16: thin lines dim, they do not come and go."""
    rng = np.random.default_rng(0)
    image = rng.integers(16, 236, (96, 160), np.uint8)
    with read(blob_clip(tmp_path, image), wh=(40, 24)) as reader:
        seen = next(reader).image.astype(float)
    means = image.reshape(24, 4, 40, 4).mean((1, 3))
    np.testing.assert_allclose(seen, (means - 16) * 255 / 219, atol=1.5)


@pytest.mark.parametrize(
    ("flags", "levels", "expected"),
    [
        (("-color_range", "tv"), (16, 60, 128, 235), (0, 51, 130, 255)),
        ((), (16, 60, 128, 235), (0, 51, 130, 255)),  # unsaid is limited
        (("-color_range", "pc"), (0, 60, 128, 255), (0, 60, 128, 255)),
    ],
)
@pytest.mark.parametrize("wh", [None, (64, 36)])
def test_grey_is_full_range(
    tmp_path: Path, flags: tuple[str, ...], levels: tuple[int, ...], expected: tuple[int, ...], wh: tuple[int, int]
) -> None:
    raw = [flat_yuv((160, 90), level, 128, 128) for level in levels]
    with read(lossless(tmp_path / "grey.mkv", raw, (160, 90), "yuv420p", *flags), wh=wh) as reader:
        seen = [(int(frame.image.min()), int(frame.image.max())) for frame in reader]
    for (low, high), level in zip(seen, expected, strict=True):
        assert low == high == pytest.approx(level, abs=1)


@pytest.mark.parametrize(
    ("wh", "flags", "red"),
    [
        ((160, 90), ("-colorspace", "bt709"), RED_709),
        ((160, 90), ("-colorspace", "smpte170m"), RED_601),
        ((160, 90), ("-colorspace", "bt470bg"), RED_601),
        ((160, 90), (), RED_601),
        ((1280, 720), (), RED_709),
        ((1280, 720), ("-colorspace", "smpte170m"), RED_601),
    ],
)
def test_colour_matrix_is_the_streams_or_that_of_its_size(
    tmp_path: Path, wh: tuple[int, int], flags: tuple[str, ...], red: tuple[int, int, int]
) -> None:
    clip = lossless(tmp_path / "red.mkv", [flat_yuv(wh, *red)], wh, "yuv420p", "-color_range", "tv", *flags)
    with read(clip, wh=(64, 36), colour="rgb") as reader:
        np.testing.assert_allclose(next(reader).image[18, 32], (255, 0, 0), atol=3)
    with read(clip, wh=(64, 36), keep_picture=True) as reader:
        frame = next(reader)
    assert frame.image[18, 32] == pytest.approx(
        (red[0] - 16) * 255 / 219, abs=1
    )  # the luma as coded, whatever the flag
    assert frame.picture is not None
    planes = [int(plane[4, 4]) for plane in (frame.picture.y, frame.picture.u, frame.picture.v)]
    assert planes == list(red)  # as coded, and said so
    assert MATRICES[frame.picture.colours.matrix] is MATRICES[1 if red == RED_709 else 6]


@pytest.mark.parametrize(
    ("transfer", "signal", "grey"),
    [  # of BT.2408, table 1: the signal of a white sheet (203 nits), of an 18 % grey card (26 nits), and black
        ("smpte2084", 0.58, 255),
        ("smpte2084", 0.38, 255 * (26 / 203) ** (1 / 2.4)),
        ("smpte2084", 0.0, 0),
        ("smpte2084", 1.0, 255),
        ("arib-std-b67", 0.75, 255),
        ("arib-std-b67", 0.38, 255 * (26 / 203) ** (1 / 2.4)),
        ("arib-std-b67", 0.0, 0),
        ("arib-std-b67", 1.0, 255),
        ("bt2020-10", 0.5, 127.5),
    ],
)
@pytest.mark.parametrize("full_range", [False, True])
def test_high_dynamic_range_is_seen_as_ordinary(
    tmp_path: Path, transfer: str, signal: float, grey: float, full_range: bool
) -> None:
    level = round(1023 * signal) if full_range else round(64 + 876 * signal)
    raw = level.to_bytes(2, "little") * (64 * 36) + (512).to_bytes(2, "little") * (32 * 18 * 2)
    flags = ("-color_trc", transfer, "-color_primaries", "bt2020", "-colorspace", "bt2020nc")
    flags += ("-color_range", "pc" if full_range else "tv")
    clip = lossless(tmp_path / "hdr.mkv", [raw], (64, 36), "yuv420p10le", *flags)
    for colour in ("grey", "rgb"):
        with read(clip, colour=colour, keep_picture=True) as reader:  # type: ignore[arg-type]
            frame = next(reader)
        assert frame.image[18, 32] == pytest.approx(grey, abs=4)
    assert frame.picture is not None
    assert (frame.picture.colours.matrix, frame.picture.colours.primaries) == (9, 9)
    assert frame.picture.full_range == full_range
    assert int(frame.picture.y[18, 32]) == pytest.approx(level / 4, abs=1)
    assert reader.info.colours == frame.picture.colours


@pytest.mark.parametrize("wh", [(160, 90), (1280, 720), (63, 37)])
def test_rgb_to_yuv_is_the_standards_and_comes_back(wh: tuple[int, int]) -> None:
    w, h = wh
    red = np.zeros((h, w, 3), np.uint8)
    red[..., 0] = 255
    picture = rgb_to_yuv(red)
    assert picture.y.shape == (h, w)
    assert not picture.full_range
    planes = [int(plane[h // 4, w // 4]) for plane in (picture.y, picture.u, picture.v)]
    assert planes == pytest.approx(RED_709 if wh == (1280, 720) else RED_601, abs=1)
    y, x = np.mgrid[:h, :w]
    smooth = np.stack([x * 255 / w, y * 255 / h, 255 - x * 255 / w], -1).astype(np.uint8)
    difference = yuv_to_rgb(rgb_to_yuv(smooth)).astype(int) - smooth
    assert difference.shape == (h, w, 3)
    assert np.abs(difference).mean() < 4  # chroma is halved
    assert np.abs(difference[2:-2, 2:-2]).max() <= 14


def test_yuv_to_rgb_knows_full_range() -> None:
    grey = np.full((20, 30), 200, np.uint8)
    chroma = np.full((10, 15), 128, np.uint8)
    assert yuv_to_rgb(Yuv(grey, chroma, chroma, full_range=True))[5, 5] == pytest.approx(200, abs=1)
    assert yuv_to_rgb(Yuv(grey, chroma, chroma))[5, 5] == pytest.approx((200 - 16) * 255 / 219, abs=1)


@pytest.fixture
def picture() -> Image:
    y, x = np.mgrid[:37, :63]
    return np.stack([x * 4, y * 6, 128 + 60 * np.sin(x / 9 + y / 7)], -1).astype(np.uint8)


def test_png_is_lossless(picture: Image) -> None:
    np.testing.assert_array_equal(decode_jpeg(encode_png(picture)), picture)
    np.testing.assert_array_equal(decode_jpeg(encode_png(picture[..., 2]), "grey"), picture[..., 2])


def test_jpeg_is_read_by_others_and_better_with_quality(tmp_path: Path, picture: Image) -> None:
    errors, sizes = [], []
    for quality in (10, 50, 90, 100):
        (tmp_path / "x.jpg").write_bytes(encode_jpeg(picture, quality))
        options = ("-i", tmp_path / "x.jpg", "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
        seen = np.frombuffer(ffmpeg(*options), np.uint8).reshape(picture.shape)
        np.testing.assert_allclose(decode_jpeg(encode_jpeg(picture, quality)), seen, atol=12)
        errors.append(float(np.abs(seen.astype(int) - picture).mean()))
        sizes.append(len(encode_jpeg(picture, quality)))
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 3
    assert sizes == sorted(sizes)


def test_jpeg_of_grey_keeps_grey(picture: Image) -> None:
    grey = picture[..., 2]
    seen = decode_jpeg(encode_jpeg(grey, 95), "grey")
    assert seen.shape == grey.shape
    assert np.abs(seen.astype(int) - grey).mean() < 1.5


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8 not really", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(VideoError, match=f"{len(data)} bytes"):
        decode_jpeg(data)


def test_half_a_png_is_refused(picture: Image) -> None:
    data = encode_png(picture)
    with pytest.raises(VideoError, match="write it again"):
        decode_jpeg(data[: len(data) // 2])


def test_a_picture_bomb_is_refused_by_the_decoder() -> None:
    """A whole PNG of 160 megapixels in 160 kB: the decoder itself refuses, before it has allocated the picture."""
    w, h = 16_000, 10_000
    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(w + 1)) for _ in range(h)) + squeeze.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    with pytest.raises(VideoError, match="cannot be decoded"):
        decode_jpeg(b"\x89PNG\r\n\x1a\n" + body)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="quality"):
        encode_jpeg(np.zeros((8, 8), np.uint8), 0)
    with pytest.raises(ValueError, match="uint8"):
        encode_png(np.zeros((8, 8), np.float32))  # type: ignore[arg-type]


def test_no_pyav_object_leaves(tmp_path: Path) -> None:
    with read(blob_clip(tmp_path, blob((64, 36), (20, 10), 3)), keep_picture=True) as reader:
        frame = next(reader)
    assert frame.picture is not None
    arrays = [frame.image, frame.picture.y, frame.picture.u, frame.picture.v, decode_jpeg(encode_png(frame.image))]
    assert all(array.base is None and array.flags.owndata for array in arrays)
