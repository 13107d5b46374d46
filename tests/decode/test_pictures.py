"""Pictures that lie about their size or unpack to gigabytes: refused by the decoder, in a child, one by one."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from rallytrace.decode import pictures
from rallytrace.decode.pictures import Pictures, Wish
from rallytrace.errors import VideoError
from rallytrace.types import Image
from rallytrace.video.frames import encode_jpeg, encode_png

WH = (512, 288)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Pictures]:
    found = Pictures(1)
    yield found
    found.close()


@pytest.fixture(scope="module")
def image() -> Image:
    return np.random.default_rng(0).integers(0, 255, (WH[1], WH[0], 3), np.uint8)


@pytest.fixture(scope="module")
def large() -> bytes:
    return encode_jpeg(np.zeros((9900, 10000, 3), np.uint8))  # 99 Mpx in half a megabyte


def _wish(**more: object) -> Wish:
    return Wish("rgb", 4096 * 2304, **more)  # type: ignore[arg-type]


def test_pictures_come_back_as_they_are(decoder: Pictures, image: Image) -> None:
    found, wh = decoder.decode(encode_png(image), _wish(wh=WH))
    assert wh == WH
    assert (found == image).all()
    small, _ = decoder.decode(memoryview(encode_png(image)), Wish("grey", 1 << 20, to=(256, 144)))
    assert small.shape == (144, 256)
    fit, _ = decoder.decode(encode_jpeg(image), Wish("grey", 1 << 20, fit=((256, 144), 16)))
    assert fit.shape == (144, 256)


def test_a_second_header_is_held_to_the_size_of_the_first(decoder: Pictures, image: Image, large: bytes) -> None:
    """The first header says 512x288, then comes a picture of 99 megapixels."""
    small = encode_jpeg(image)
    head = small[: small.index(b"\xff\xc0") + 19]
    for body in (head + large[2:], small[:-2] + large, large):
        with pytest.raises(VideoError):
            decoder.decode(body, _wish(wh=WH))
    with pytest.raises(VideoError):
        decoder.decode(large, _wish())
    with pytest.raises(VideoError, match="512x288 pixels, expected 288x512"):
        decoder.decode(small, _wish(wh=(288, 512)))


def test_what_a_png_unpacks_is_bounded(decoder: Pictures, image: Image) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(16 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = b"\x78\xda" + block * 75
    data = encode_png(image)
    chunk = b"iCCP" + b"k\0\0" + packed  # a colour profile of 1.2 GB
    bomb = data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    with pytest.raises(VideoError):
        decoder.decode(bomb, _wish(wh=WH))
    assert decoder.decode(data, _wish(wh=WH))[1] == WH  # the next one is decoded


@pytest.mark.parametrize("data", [b"", b"x", b"\xff\xd8", b"\xff\xd8" * 50, b"\x89PNG\r\n\x1a\n", b"BM" + bytes(60)])
def test_what_is_no_picture(decoder: Pictures, data: bytes) -> None:
    with pytest.raises(VideoError):
        decoder.decode(data, _wish())


def test_a_slow_picture_ends_its_child_and_no_other(monkeypatch: pytest.MonkeyPatch, image: Image) -> None:
    monkeypatch.setattr(pictures, "WALL_S", 0.0)  # no child is as fast as that
    decoder = Pictures(1)
    with pytest.raises(VideoError, match="a picture takes more time than"):
        decoder.decode(encode_png(image), _wish())
    monkeypatch.undo()
    assert decoder.decode(encode_png(image), _wish())[1] == WH
    decoder.close()
    with pytest.raises(VideoError):
        decoder.decode(encode_png(image), _wish())


def test_many_threads_get_their_own_pictures() -> None:
    decoder = Pictures(2)
    wrong: list[int] = []

    def ask(level: int) -> None:
        for _ in range(5):
            found, _ = decoder.decode(encode_png(np.full((20, 30, 3), level, np.uint8)), _wish())
            if (found != level).any():
                wrong.append(level)

    threads = [threading.Thread(target=ask, args=[level]) for level in range(0, 250, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    decoder.close()
    assert not wrong
