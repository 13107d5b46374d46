"""Videos in and out; the only package that imports av (PyAV, FFmpeg).

    with read("rally.mp4", wh=(512, 288)) as reader, VideoWriter("copy.mp4", reader.info.wh, reader.info.fps) as writer:
        for frame in reader: ...

No PyAV object leaves it: every picture that comes out is an array of its own memory.
"""

from rallytrace.video.access import FrameTable, IndexedReader, frame_table, read_at, shrink_jpeg
from rallytrace.video.clock import Film
from rallytrace.video.container import PIPE, SCHEMES, is_pipe
from rallytrace.video.frames import decode_jpeg, encode_jpeg, encode_png, rgb_to_yuv, yuv_to_rgb
from rallytrace.video.read import VideoReader, probe, read, read_clip
from rallytrace.video.shard import jpeg_of, shard_bytes, write_shard
from rallytrace.video.write import VideoWriter

__all__ = [
    "PIPE",
    "SCHEMES",
    "Film",
    "FrameTable",
    "IndexedReader",
    "VideoReader",
    "VideoWriter",
    "decode_jpeg",
    "encode_jpeg",
    "encode_png",
    "frame_table",
    "is_pipe",
    "jpeg_of",
    "probe",
    "read",
    "read_at",
    "read_clip",
    "rgb_to_yuv",
    "shard_bytes",
    "shrink_jpeg",
    "write_shard",
    "yuv_to_rgb",
]
