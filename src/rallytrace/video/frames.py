"""FFmpeg's frames <-> arrays: the one resize, range, colour matrix, orientation, and single pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias, cast

import av
import numpy as np
from av.buffer import Buffer
from av.error import FFmpegError
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from rallytrace.errors import VideoError
from rallytrace.types import Box, Colours, Image, Yuv
from rallytrace.video import hdr

Colour: TypeAlias = Literal["grey", "rgb"]
Orientation: TypeAlias = tuple[bool, bool, bool]  # to be upright: transpose, then flip the rows, then the columns

MAX_SIDE_PX = 16_384
MAX_PIXELS = 100_000_000  # FFmpeg refuses larger pictures itself, before it allocates them
DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}
LIMITED, FULL = 1, 2  # FFmpeg's AVColorRange
PIXEL_FORMATS: dict[Colour, str] = {"grey": "gray", "rgb": "rgb24"}
DEEP_FORMATS: dict[Colour, str] = {"grey": "gray16le", "rgb": "rgb48le"}
# FFmpeg's AVColorSpace -> the matrices that swscale has (FCC's differs from BT.601 by less than a grey level)
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.ITU601,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
TURNS = {0: (False, False, False), 90: (True, True, False), 180: (False, True, True), 270: (True, False, True)}
MAGIC = {b"\xff\xd8": "mjpeg", b"\x89PNG": "png", b"BM": "bmp", b"RIFF": "webp", b"II*\0": "tiff", b"MM\0*": "tiff"}


def colours_of(frame: av.VideoFrame) -> Colours:
    """What a decoded picture says of itself."""
    return Colours(int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc))


def check_size(width: int, height: int, what: str) -> None:
    """Raises VideoError, with `what` as its name, for a picture too large to work on."""
    if max(width, height) > MAX_SIDE_PX or width * height > MAX_PIXELS:
        limit = f"{MAX_SIDE_PX} px a side and {MAX_PIXELS // 1_000_000} megapixels"
        raise VideoError(f"{what} is {width}x{height}, expected at most {limit}: scale it down first")


class Converter:
    """Makes upright arrays of decoded frames. Keeps swscale's tables from frame to frame: one per stream and thread."""

    def __init__(self) -> None:
        self._image, self._picture = VideoReformatter(), VideoReformatter()
        self._orientations: dict[int, Orientation] = {}
        self._inner: Converter | None = None

    def part(
        self, frame: av.VideoFrame, box: Box | None, wh: tuple[int, int], colour: Colour, *, of_wh: tuple[int, int]
    ) -> Image:
        """`image` of a part of the upright picture, which is cut out at full size, so that nothing around it is in it.
        Of all of it where box is None, or the frame is not of that size, as where the size of a video changes."""
        if box in (None, (0, 0, *of_wh)) or upright_wh(frame) != of_wh:
            return self.image(frame, wh, colour)
        assert box is not None
        whole = self.image(frame, upright_wh(frame), colour)
        cut = whole[box.y : box.y + box.h, box.x : box.x + box.w]
        self._inner = self._inner or Converter()  # the two sizes have tables of their own
        return self._inner.image(_frame_of_image(cut), wh, colour)

    def image(self, frame: av.VideoFrame, wh: tuple[int, int], colour: Colour) -> Image:
        """`frame` upright at `wh`, uint8 (h, w) grey or (h, w, 3) RGB, full range. The project's one resize.

        Grey is the luma plane as coded, stretched to 0..255. swscale's own grey of a BT.709 stream would be the
        BT.601 luma of its RGB: slower, and another grey than that of the same pictures without the flag. Pictures of
        high dynamic range come as ordinary ones, their diffuse white as white.
        """
        transposed, flip_y, flip_x = self._orientation(frame)
        w, h = reversed(wh) if transposed else wh
        matrix = Colorspace.ITU601 if colour == "grey" else matrix_of(frame)
        curve = hdr.to_sdr(int(frame.color_trc))
        form = (PIXEL_FORMATS if curve is None else DEEP_FORMATS)[colour]
        out = convert(self._image, frame, (w, h), form, matrices=(matrix, matrix), to_range=FULL)
        depth = 1 if colour == "grey" else 3
        rows = _rows(out, 0)[:h]
        rows = rows[:, : w * depth] if curve is None else curve[rows[:, : 2 * w * depth].view("<u2")]
        image = rows if depth == 1 else rows.reshape(h, w, 3)
        return _upright(image, transposed, flip_y, flip_x)

    def stored_grey(self, frame: av.VideoFrame) -> Image:
        """The luma of `frame` as it is stored: neither turned nor resized. It shares memory with the frame."""
        wh = (frame.width, frame.height)
        matrices = (Colorspace.ITU601, Colorspace.ITU601)
        return _rows(convert(self._image, frame, wh, "gray", matrices=matrices, to_range=FULL), 0)[:, : frame.width]

    def picture(self, frame: av.VideoFrame, wh: tuple[int, int]) -> Yuv:
        """`frame` upright at `wh`, 8-bit 4:2:0, in the range and colours of its stream; what is no YUV, or in a matrix
        that swscale lacks, in limited range and the matrix of its size."""
        transposed, flip_y, flip_x = self._orientation(frame)
        w, h = reversed(wh) if transposed else wh
        full = _is_yuv(frame) and _is_full_range(frame)
        colours = colours_of(frame)
        if not (_is_yuv(frame) and colours.matrix in MATRICES):
            usual = Colours.of_size(wh)
            colours = replace(colours, matrix=usual.matrix) if colours.is_coded else usual
        matrices = (matrix_of(frame), MATRICES[colours.matrix])
        to_range = FULL if full else LIMITED
        out = convert(self._picture, frame, (w, h), "yuv420p", matrices=matrices, to_range=to_range)
        y, u, v = (_upright(plane, transposed, flip_y, flip_x) for plane in _planes(out, w, h))
        return Yuv(y, u, v, full, colours)

    def _orientation(self, frame: av.VideoFrame) -> Orientation:
        """Looks at a frame's side data once per stream: PyAV makes a cycle of the two, which would pile up frames."""
        if frame.rotation not in self._orientations:
            self._orientations[frame.rotation] = _orientation(frame)
        return self._orientations[frame.rotation]


def convert(
    scaler: VideoReformatter,
    frame: av.VideoFrame,
    wh: tuple[int, int],
    pixel_format: str,
    *,
    matrices: tuple[Colorspace, Colorspace],
    to_range: int,
) -> av.VideoFrame:
    """One pass of swscale. AREA follows `geometry` to 0.01 px in both directions (upwards it is bilinear);
    FAST_BILINEAR would shift pictures by up to 0.45 px."""
    return scaler.reformat(
        frame,
        width=wh[0],
        height=wh[1],
        format=pixel_format,
        src_colorspace=matrices[0],
        dst_colorspace=matrices[1],
        interpolation=Interpolation.AREA,
        src_color_range=FULL if _is_full_range(frame) else LIMITED,
        dst_color_range=to_range,
        threads=1,  # the decoder's threads keep the cores busy
    )


def _is_yuv(frame: av.VideoFrame) -> bool:
    return len(frame.format.components) >= 3 and not frame.format.is_rgb  # else RGB, grey or a palette


def _is_full_range(frame: av.VideoFrame) -> bool:
    return frame.color_range == FULL or frame.format.name.startswith("yuvj") or not _is_yuv(frame)


def matrix_of(frame: av.VideoFrame) -> Colorspace:
    """The matrix of its YUV; where it says none that swscale has, that of its size."""
    usual = Colours.of_size((frame.width, frame.height)).matrix
    return MATRICES.get(int(frame.colorspace), MATRICES[usual])


def rotation_deg(frame: av.VideoFrame) -> int:
    """By how many degrees counterclockwise the stored picture is turned to be upright: 0, 90, 180 or 270."""
    return round(frame.rotation / 90) * 90 % 360


def upright_wh(frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height, px, once the frame is turned."""
    return (frame.height, frame.width) if rotation_deg(frame) % 180 else (frame.width, frame.height)


def _orientation(frame: av.VideoFrame) -> Orientation:
    """The display matrix a b / c d takes a stored (x, y) to (a x + c y, b x + d y): FFmpeg, libavutil/display.h."""
    try:
        data = cast("Buffer | None", frame.side_data.get("DISPLAYMATRIX"))
    except ValueError:  # a kind of side data that PyAV does not know, such as EXIF: then the turn, but no mirror
        return TURNS[rotation_deg(frame)]
    if data is None:
        return TURNS[0]
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    return (True, b < 0, c < 0) if abs(b) > abs(a) else (False, d < 0, a < 0)


def _upright(array: Image, transposed: bool, flip_y: bool, flip_x: bool) -> Image:
    """A copy in memory of its own, turned."""
    if transposed:
        array = array.swapaxes(0, 1)
    return array[:: -1 if flip_y else 1, :: -1 if flip_x else 1].copy(order="C")


def _rows(frame: av.VideoFrame, plane: int) -> NDArray[np.uint8]:
    """The rows of a plane with the bytes that pad them, (plane height, |line size|); shares the frame's memory."""
    p = frame.planes[plane]
    rows = np.frombuffer(memoryview(p), np.uint8).reshape(p.height, abs(p.line_size))
    return rows if p.line_size > 0 else rows[::-1]


def _planes(frame: av.VideoFrame, w: int, h: int) -> list[NDArray[np.uint8]]:
    sizes = (w, h), ((w + 1) // 2, (h + 1) // 2), ((w + 1) // 2, (h + 1) // 2)
    return [_rows(frame, i)[:ph, :pw] for i, (pw, ph) in enumerate(sizes)]


def frame_of_yuv(picture: Yuv) -> av.VideoFrame:
    """A yuv420p frame of even size: where the picture's is odd, its last column or row is repeated."""
    h, w = picture.y.shape
    frame = av.VideoFrame(w + w % 2, h + h % 2, "yuv420p")
    for rows, plane in zip((_rows(frame, i) for i in range(3)), (picture.y, picture.u, picture.v), strict=True):
        ph, pw = plane.shape
        rows[:ph, :pw] = plane
        rows[:ph, pw:] = plane[:, -1:]
        rows[ph:] = rows[ph - 1]
    frame.color_range = FULL if picture.full_range else LIMITED
    frame.colorspace = picture.colours.matrix
    frame.color_primaries = picture.colours.primaries
    frame.color_trc = picture.colours.transfer
    return frame


def rgb_to_yuv(image: Image) -> Yuv:
    """uint8 (h, w, 3) RGB -> a limited-range Yuv in the default matrix of its size."""
    return Converter().picture(_frame_of_image(image), (image.shape[1], image.shape[0]))


def yuv_to_rgb(picture: Yuv) -> Image:
    """A Yuv -> uint8 (h, w, 3) RGB."""
    h, w = picture.y.shape
    frame = frame_of_yuv(picture)
    return Converter().image(frame, (frame.width, frame.height), "rgb")[:h, :w].copy()


def _frame_of_image(image: Image) -> av.VideoFrame:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"image must be uint8 (h, w) or (h, w, 3), got {image.dtype} {image.shape}")
    h, w = image.shape[:2]
    frame = av.VideoFrame(w, h, "gray" if image.ndim == 2 else "rgb24")
    _rows(frame, 0)[:, : image[0].size] = image.reshape(h, -1)
    return frame


def decode_picture(data: bytes, what: str, max_pixels: int = MAX_PIXELS) -> av.VideoFrame:
    """One picture of a PNG, JPEG, BMP, WebP or TIFF file's bytes. Raises VideoError, with `what` as its name.

    max_pixels: the decoder itself refuses more, whatever the file says of its size, before it allocates them.
    """
    codec = next((codec for magic, codec in MAGIC.items() if data.startswith(magic)), None)
    if codec is None:
        raise VideoError(f"{what} is not a picture, expected PNG, JPEG, BMP, WebP or TIFF")
    context = cast("av.VideoCodecContext", av.VideoCodecContext.create(codec, "r"))
    context.options = {"max_pixels": str(max_pixels)}
    context.thread_count = 1
    try:
        frames = context.decode(av.Packet(data)) or context.decode(None)
    except FFmpegError as error:
        raise VideoError(f"{what} cannot be decoded as {codec} ({error.strerror}): write it again") from None
    if not frames:
        raise VideoError(f"{what} holds no whole {codec} picture: write it again")
    check_size(frames[0].width, frames[0].height, what)
    return frames[0]


def decode_jpeg(data: bytes, colour: Colour = "rgb") -> Image:
    """The bytes of a JPEG (or PNG, BMP, WebP, TIFF) -> uint8 (h, w, 3) RGB or (h, w) grey. Raises VideoError."""
    frame = decode_picture(data, f"a picture of {len(data)} bytes")
    return Converter().image(frame, upright_wh(frame), colour)


def encode_jpeg(image: Image, quality: int = 90) -> bytes:
    """uint8 (h, w) or (h, w, 3) -> a 4:2:0 JPEG. `quality` 1 to 100 is libjpeg's scale, in FFmpeg's 31 steps."""
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be between 1 and 100, got {quality}")
    h, w = image.shape[:2]
    matrices = (Colorspace.ITU601, Colorspace.ITU601)  # as JFIF says
    source = _frame_of_image(image)
    frame = convert(VideoReformatter(), source, (w, h), "yuvj420p", matrices=matrices, to_range=FULL)
    # libjpeg scales its tables by 50/q below 50 and 2 - q/50 above, FFmpeg its own by steps of 1/8
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    return _encode(frame, "mjpeg", qscale=min(31, max(1, round(8 * scale))))


def encode_png(image: Image) -> bytes:
    """uint8 (h, w) or (h, w, 3) -> a PNG."""
    return _encode(_frame_of_image(image), "png")


def _encode(frame: av.VideoFrame, codec: str, qscale: int | None = None) -> bytes:
    context = cast("av.VideoCodecContext", av.VideoCodecContext.create(codec, "w"))
    context.width, context.height, context.pix_fmt = frame.width, frame.height, frame.format.name
    context.thread_count = 1  # a slice per thread would make a JPEG larger
    if qscale is not None:
        context.qscale, context.global_quality = True, qscale
        context.qmin = context.qmax = qscale
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
