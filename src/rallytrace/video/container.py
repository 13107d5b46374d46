"""Opening: a file, URL or camera as a container of FFmpeg's, such that a local file cannot make it open another."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import av
from av.container import InputContainer
from av.error import ExitError, FFmpegError, ProtocolNotFoundError

from rallytrace.errors import VideoError
from rallytrace.names import path_of_url
from rallytrace.video.frames import DECODER_OPTIONS

# Containers that keep to their own file. Not playlists (hls, dash, concat) and the like: those make FFmpeg open
# other files and URLs, which a hostile file may name.
CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,obu,ivf,m4v,flv,asf,ogg,nut,mxf,gxf,dv,rm,"
    "yuv4mpegpipe,mjpeg,gif,mp3,wav,flac,aac"
)
STREAM_CONTAINERS = CONTAINERS + ",hls,dash,mpjpeg,rtsp,rtp,sdp"
STREAM_PROTOCOLS = "http,https,httpproxy,tcp,tls,crypto,rtsp,rtp,srtp,udp,rtmp,rtmps,rtmpt,srt"
LIVE_SCHEMES = {"rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "udp", "rtp", "srt", "tcp"}
SCHEMES = LIVE_SCHEMES | {"http", "https"}
PIPE = "-"  # standard input
EXPECTED = "expected H.264, HEVC, VP9, AV1, MPEG-4 or MJPEG in mp4, mkv, webm, avi, mov or ts"


def without_file_scheme(path: str | Path) -> str | Path:
    """A file:// URL as its path, anything else unchanged. Raises VideoError."""
    try:
        return path if isinstance(path, Path) else path_of_url(path)
    except ValueError as error:
        raise VideoError(str(error)) from None


def is_pipe(path: str | Path) -> bool:
    """Whether it can be read once only: standard input, or a FIFO such as a shell's <(command)."""
    return path == PIPE or ("://" not in str(path) and Path(path).is_fifo())


def scheme_of(path: str | Path) -> str | None:
    """The scheme of a URL, "camera" for a camera, "pipe" for a pipe, None for another path."""
    if is_pipe(path):
        return "pipe"
    if re.fullmatch(r"camera:\d+|/dev/video\d+", str(path)):
        return "camera"
    match = re.match(r"([a-z][a-z0-9+.-]+)://", str(path), re.IGNORECASE)
    return match[1].lower() if match and not isinstance(path, Path) else None


def open_container(path: str, timeout_s: float) -> InputContainer:
    """A file, URL, camera or pipe, opened such that a local file cannot make FFmpeg open another. Raises VideoError."""
    path = str(without_file_scheme(path))
    scheme, file = scheme_of(path), Path(path)
    try:
        if scheme == "pipe":
            own = {"protocol_whitelist": "file,pipe", "format_whitelist": CONTAINERS}
            place = "pipe:0" if path == PIPE else f"file:{path}"
            return av.open(place, "r", options=DECODER_OPTIONS, container_options=own)
        if scheme is None:
            if not file.exists():
                raise VideoError(f"{path} does not exist: check the path")
            if file.is_file() and file.stat().st_size == 0:
                raise VideoError(f"{path} is empty, {EXPECTED}: copy it again")
            own = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
            return av.open(f"file:{path}", "r", options=DECODER_OPTIONS, container_options=own)
        if scheme == "camera":
            return _open_camera(path, timeout_s)
        if scheme not in SCHEMES:
            known = ", ".join(f"{each}://" for each in sorted(SCHEMES))
            raise VideoError(f"{path}: unknown scheme {scheme}://, expected a path, file://, {known}, camera:0 or -")
        own = {"protocol_whitelist": STREAM_PROTOCOLS, "format_whitelist": STREAM_CONTAINERS}
        if scheme.startswith("rtsp"):
            own["rtsp_flags"] = "prefer_tcp"
        return av.open(path, "r", options=DECODER_OPTIONS, container_options=own, timeout=timeout_s)
    except ProtocolNotFoundError:
        raise VideoError(
            f"{path}: the FFmpeg in this PyAV has no {scheme}://: install a PyAV that is built with it, or send the "
            "stream as udp:// or rtmp://"
        ) from None
    except ExitError:
        raise VideoError(f"{path} gave no answer in {timeout_s:g} s: check the address and that it is up") from None
    except (FFmpegError, OSError) as error:
        advice = f"{EXPECTED}: convert or copy it again" if scheme is None else "check the address and that it is up"
        raise VideoError(f"{path} cannot be opened as a video ({error.strerror}), {advice}") from None


def _open_camera(path: str, timeout_s: float) -> InputContainer:
    device, number = {"linux": ("v4l2", "/dev/video"), "darwin": ("avfoundation", "")}.get(sys.platform, ("", ""))
    if not device:
        raise VideoError(f"{path}: cameras are read on Linux and macOS only, use an rtsp:// or http:// URL")
    return av.open(number + re.sub(r"\D", "", path), "r", format=device, timeout=timeout_s)
