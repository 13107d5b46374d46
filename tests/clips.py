"""Test clips and their goldens, both made by ffmpeg's own command line: an independent decoder, muxer and clock."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import pytest

from rallytrace.types import Image, Yuv

SOURCE = ("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=30000/1001:duration=0.7")  # 21 pictures, each with its number
ODD = ("-f", "lavfi", "-i", "testsrc=size=333x187:rate=25:duration=0.4")  # testsrc2 would round it down
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
TONE = ("-f", "lavfi", "-i", "aevalsrc='if(gt(t,0.25),sin(2764*t),0)':duration=0.7:sample_rate=44100")  # from 0.25 s on
VARIABLE = ("-vf", "settb=1/90000,setpts='PTS+0.011*mod(N,3)/TB+0.05*floor(N/7)/TB'", "-fps_mode", "vfr")
# name of the clip -> options of ffmpeg; what they make stands in the name
RECIPES: dict[str, tuple[str, ...]] = {
    "h264-bframes.mp4": (*SOURCE, *X264, "-bf", "3"),
    "h264.mkv": (*SOURCE, *X264),
    "h264-offset.ts": (*SOURCE, *X264),
    "h264-bframes-without-pts.avi": (*SOURCE, *X264),
    "h264-raw.h264": (*SOURCE, *X264),
    "h264-full-range.mp4": (*SOURCE, *X264[:-1], "yuvj420p"),
    "h264-offset.mp4": (*SOURCE, *X264, "-output_ts_offset", "5.5"),
    "h264-variable.mp4": (*SOURCE, *VARIABLE, "-enc_time_base", "1:90000", *X264),
    "h264-fragmented.mp4": (*SOURCE, *X264, "-movflags", "frag_keyframe+empty_moov"),
    "hevc.mp4": (*SOURCE, *X265, "-pix_fmt", "yuv420p"),
    "vp9.webm": (*SOURCE, *VP9),
    "vp9-odd.webm": (*ODD, *VP9, "-pix_fmt", "yuv420p"),
    "av1.mkv": (*SOURCE, "-c:v", "libsvtav1", "-preset", "12"),
    "mpeg4-bframes.avi": (*SOURCE, "-c:v", "mpeg4", "-bf", "2", "-q:v", "4"),
    "mpeg4-odd.mp4": (*ODD, "-c:v", "mpeg4", "-q:v", "4", "-pix_fmt", "yuv420p"),
    "mjpeg.avi": (*SOURCE, "-c:v", "mjpeg", "-q:v", "4"),
    "mjpeg.mov": (*SOURCE, "-c:v", "mjpeg", "-q:v", "4"),
    "hevc-10bit.mkv": (*SOURCE, *X265, "-pix_fmt", "yuv420p10le"),
    "ffv1-422.mkv": (*SOURCE, "-c:v", "ffv1", "-pix_fmt", "yuv422p"),
    "ffv1-444-odd.mkv": (*ODD, "-c:v", "ffv1", "-pix_fmt", "yuv444p"),
    "ffv1-rgb.mkv": (*SOURCE, "-c:v", "ffv1", "-pix_fmt", "bgr0"),
    "aac.mp4": (*SOURCE, *TONE, *X264, "-c:a", "aac"),
    "aac-offset.ts": (*SOURCE, *TONE, *X264, "-c:a", "aac"),
    "mp3.avi": (*SOURCE, *TONE, *X264, "-c:a", "libmp3lame"),
    "opus.webm": (*SOURCE, *TONE, *VP9, "-c:a", "libopus"),
    "pcm.avi": (*SOURCE, *TONE, *X264, "-c:a", "pcm_s16le"),
    "vorbis-offset.mkv": (*SOURCE, *TONE, *X264, "-c:a", "libvorbis", "-output_ts_offset", "3.2"),
}
CUT = "h264-cut.mp4"  # starts between two key frames: an edit list hides pictures
REMUXED = "h264-variable.mkv"
TURNED = {  # counterclockwise degrees, mirrored before
    "h264-turned-90.mp4": (90, False),
    "h264-turned-180.mp4": (180, False),
    "h264-turned-270.mp4": (270, False),
    "h264-mirrored.mp4": (0, True),
    "h264-mirrored-turned-90.mp4": (90, True),
}
NAMES = (*RECIPES, CUT, REMUXED, *TURNED)


def run(*command: str | Path, data: bytes | None = None) -> bytes:
    """Standard output of one of ffmpeg's tools; the test is skipped (in CI: fails) where they are not installed."""
    if shutil.which(str(command[0])) is None:
        reason = f"{command[0]} makes this test's clip or golden: apt-get install ffmpeg"
        (pytest.fail if os.environ.get("RALLYTRACE_REQUIRE_FFMPEG") else pytest.skip)(reason)
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stderr.decode()}"
    return done.stdout


def ffmpeg(*options: str | Path, data: bytes | None = None) -> bytes:
    return run("ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *options, data=data)


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory()  # removed when Python ends


@cache
def clip(name: str) -> Path:
    """The clip of that name, made once per run of the tests. Read it only."""
    path = Path(_folder().name) / name
    if name == CUT:
        ffmpeg("-ss", "0.3", "-i", clip("h264-bframes.mp4"), "-c", "copy", path)
    elif name == REMUXED:
        ffmpeg("-i", clip("h264-variable.mp4"), "-c", "copy", path)
    elif name in TURNED:
        turn(clip("h264-bframes.mp4"), path, *TURNED[name])
    else:
        ffmpeg(*RECIPES[name], path)
    return path


def turn(source: Path, path: Path, degrees: int, mirrored: bool) -> None:
    """A copy of `source` with a display matrix. Muxed by PyAV: the options of ffmpeg's tool vary with its version."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.set_display_rotation(degrees, hflip=mirrored)
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)


def timed(path: Path, times_s: list[float]) -> Path:
    """A Matroska of pictures with these times, to the millisecond, which may repeat."""
    with av.open(str(path), "w") as new:
        stream = new.add_stream("mjpeg", rate=25, options={"color_range": "pc"})
        stream.width, stream.height, stream.pix_fmt = 64, 36, "yuvj420p"
        for n, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(np.full((36, 64), 8 * (n % 30), np.uint8), format="gray")
            for packet in stream.encode(frame.reformat(format="yuvj420p")):
                packet.pts = packet.dts = round(time_s * 1000)
                packet.time_base = Fraction(1, 1000)
                new.mux(packet)
    return path


def lossless(path: Path, pictures: list[bytes], wh: tuple[int, int], pixel_format: str, *flags: str) -> Path:
    """`pictures`, raw, as an FFV1 video that decodes to the same bytes."""
    raw = ("-f", "rawvideo", "-pixel_format", pixel_format, "-video_size", f"{wh[0]}x{wh[1]}", "-framerate", "30")
    options = ("-i", "-", "-c:v", "ffv1", "-pix_fmt", pixel_format, *flags)
    run("ffmpeg", "-loglevel", "error", "-y", *raw, *options, path, data=b"".join(pictures))
    return path


@dataclass(frozen=True)
class Golden:
    """What ffmpeg's command line finds in a clip: presentation times, and an MD5 for each upright picture."""

    pts_s: list[float]
    md5: list[str]


def golden(path: Path) -> Golden:
    """Times in the stream's own clock (-copyts), one line per decoded picture (-fps_mode passthrough)."""
    clock = ("-copyts", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-enc_time_base", "-1")
    lines = ffmpeg(*clock, "-f", "framemd5", "-").decode().splitlines()
    num, den = next(line for line in lines if line.startswith("#tb 0:")).split(":")[1].split("/")
    rows = [line.split(",") for line in lines if not line.startswith("#")]
    return Golden([int(row[2]) * int(num) / int(den) for row in rows], [row[5].strip() for row in rows])


def pictures(path: Path, pixel_format: str) -> bytes:
    """All pictures of a clip, upright, converted by ffmpeg's command line."""
    raw = ("-f", "rawvideo", "-pix_fmt", pixel_format)
    return ffmpeg("-i", path, "-map", "0:v:0", "-sws_flags", "area", "-fps_mode", "passthrough", *raw, "-")


def probe_json(path: Path, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("ffprobe", "-v", "error", *options, "-of", "json", path))
    return found


def sound_md5(path: Path, *options: str) -> str:
    """Of the packets' bytes, in order."""
    return ffmpeg("-i", path, "-map", "0:a:0", "-c", "copy", *options, "-f", "md5", "-").decode()


def onset_s(path: Path) -> float:
    """When the silence ends, in the file's own clock."""
    options = ("-hide_banner", "-copyts", "-i", str(path), "-map", "0:a:0", "-af", "silencedetect=n=-30dB:d=0.1")
    log = subprocess.run(["ffmpeg", *options, "-f", "null", "-"], capture_output=True, check=True).stderr.decode()
    return float(log.split("silence_end: ")[1].split()[0])


def yuv_md5(picture: Yuv) -> str:
    return hashlib.md5(picture.y.tobytes() + picture.u.tobytes() + picture.v.tobytes()).hexdigest()


def flat_yuv(wh: tuple[int, int], y: int, u: int, v: int) -> bytes:
    """One yuv420p picture of one colour, raw."""
    quarter = -(-wh[0] // 2) * -(-wh[1] // 2)
    return bytes([y]) * (wh[0] * wh[1]) + bytes([u]) * quarter + bytes([v]) * quarter


def blob(wh: tuple[int, int], xy: tuple[float, float], sigma_px: float) -> Image:
    """A bright Gaussian of limited-range luma around `xy`, uint8 (h, w)."""
    y, x = np.mgrid[: wh[1], : wh[0]]
    bell = np.exp(-((x - xy[0]) ** 2 + (y - xy[1]) ** 2) / (2 * sigma_px**2))
    return np.rint(16 + 210 * bell).astype(np.uint8)


def centroid(image: Image) -> tuple[float, float]:
    """Of what is brighter than a few grey levels, so that rounding in the dark does not pull."""
    bright = np.clip(image.astype(float) - 6, 0, None)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return float((bright * x).sum() / bright.sum()), float((bright * y).sum() / bright.sum())
