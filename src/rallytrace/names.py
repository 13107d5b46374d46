"""Names of files and sources: what counts as a video, and what its results are called. Nothing here opens a file."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

# What FFmpeg's demuxers in `video.container.CONTAINERS` are usually called, the common ones first.
VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".avi", ".mov", ".webm", ".ts", ".m4v", ".mpg"),
    *(".mpeg", ".mpe", ".m2p", ".ps", ".vob", ".mod", ".m1v", ".m2v", ".mpv"),  # MPEG program and video streams
    *(".mts", ".m2ts", ".m2t", ".tod", ".trp", ".tp"),  # MPEG transport streams, as cameras and receivers name them
    *(".qt", ".3gp", ".3g2", ".f4v", ".mj2", ".ismv", ".insv", ".lrv", ".360"),  # of the MP4 family
    *(".mk3d", ".divx", ".wmv", ".asf", ".flv", ".ogv", ".ogm", ".ogg", ".rm", ".rmvb"),
    *(".mxf", ".gxf", ".dv", ".dif", ".nut", ".ivf", ".obu", ".y4m", ".mjpeg", ".mjpg"),
    *(".h264", ".264", ".avc", ".h265", ".265", ".hevc"),
)
EXPECTED_VIDEO = f"{', '.join(VIDEO_SUFFIXES[:8])} or another container that FFmpeg reads"
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
DRAWN = ".tracked.mp4"  # what `track` writes
RECORD = ".track.json"  # what it was made from
STORES = ("s3", "gs", "az", "memory")  # whose keys are names as they are, without quoting and queries
LONGEST = 255  # bytes of a file's name on most disks
SHOWN = 3  # names in a message


def suffix_of(name: str) -> str:
    """In lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def is_video(name: str) -> bool:
    """Whether a file that a folder or a pattern shows is taken for a video. Hidden files, such as the `._x.mp4` that
    macOS leaves on other disks, and videos that `track` has drawn are not; who names one of them gets it."""
    return suffix_of(name) in VIDEO_SUFFIXES and not name.startswith(".") and not name.lower().endswith(DRAWN)


def passed_over(names: Iterable[str]) -> str:
    """Those of `names` that are no videos for `is_video`, in words; empty where nobody would miss one."""
    results, hidden, others = [], [], Counter[str]()
    for name in sorted(names):
        if is_video(name):
            continue
        if name.startswith("."):
            hidden += [name] if suffix_of(name) in VIDEO_SUFFIXES else []
        elif name.lower().endswith(DRAWN):
            results.append(name)
        else:
            others[suffix_of(name) or "no suffix"] += 1
    said = []
    if results:
        said.append(f"{_count(results, 'result')} of track ({_some(results)})")
    if hidden:
        said.append(f"{_count(hidden, 'hidden file')} ({_some(hidden)})")
    if others:
        count = others.total()
        what = "file that is no video" if count == 1 else "files that are no videos"
        said.append(f"{count} {what} by name ({_some(list(others))})")
    return ", ".join(said)


def _count(names: list[str], what: str) -> str:
    return f"{len(names)} {what}{'s' * (len(names) > 1)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)


def path_of_url(where: str) -> str:
    """The path that a file:// URL means; any other text comes back unchanged. Raises ValueError for another host."""
    match = re.match(r"file:(?=/)", where, re.IGNORECASE)
    if match is None:
        return where
    rest = where[match.end() :]
    if not rest.startswith("//"):
        return unquote(rest, errors="surrogateescape")
    host, slash, path = rest[2:].partition("/")
    if host.lower() not in ("", "localhost"):
        raise ValueError(f"{where}: a file:// URL names a file of this machine, as in file:///videos/match.mp4")
    return unquote(slash + path, errors="surrogateescape")


def stem_of(source: str | Path) -> str:
    """What the results of a source are named after: its file's name without suffix, the last part of a URL's path, or
    host and port. Letters of all scripts, marks, emoji and signs stay; neither password nor query gets in."""
    text = str(source).rstrip("/") or "/"
    scheme, is_url, _ = text.partition("://")
    if re.fullmatch(r"camera:\d+", text):
        name = text.replace(":", "_")
    elif text == "-":
        name = "stdin"
    elif is_url and isinstance(source, str):
        name = _last_part(text, quoted=scheme.lower() not in STORES)
    else:
        path = Path(text)
        path = path if path.name not in ("", "..") else path.resolve()
        name = path.name if path.is_dir() else _without_suffix(path.name)
    return checked_stem(name) or "stream"


def checked_stem(name: str) -> str:
    """In the one form that all systems write, with `_` for what cannot be in a file's name anywhere."""
    name = unicodedata.normalize("NFC", name)
    return "".join("_" if c in "/\\" or unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in name)


def _last_part(url: str, *, quoted: bool) -> str:
    if not quoted:
        return _without_suffix(url.rpartition("/")[2])
    try:
        parts = urlsplit(url)
    except ValueError:  # such as an address in brackets that do not close; whoever opens it says so
        return "stream"
    name = unquote(parts.path.rstrip("/").rpartition("/")[2]).strip(".")
    if name:
        return _without_suffix(name)
    host = parts.netloc.rpartition("@")[2]
    return re.sub(r"[:\[\]]+", "_", host).strip("_")


def _without_suffix(name: str) -> str:
    """`ch1.0` has none."""
    stem, _, suffix = name.rpartition(".")
    is_known = f".{suffix.lower()}" in VIDEO_SUFFIXES or re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,4}", suffix)
    return stem if stem.strip(".") and is_known else name


def fits(name: str) -> bool:
    """Whether a file can have that name."""
    return len(os.fsencode(name)) <= LONGEST
