"""What a result was made from, kept beside it: the video, the network and the options; and whether it is what is asked.

A video is known by its content: a copy, or a file that was moved or touched, is the same one. Where the file is as it
was by name, size and time, its content is not read again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rallytrace import storage, video
from rallytrace.errors import RallytraceError
from rallytrace.names import PICTURE_SUFFIXES, STORES, suffix_of

Record = dict[str, Any]
Facts = dict[str, Any]


def describe(source: str, path: Path | str, *, live: bool = False) -> Facts:
    """What tells a video from another. path: where it is on this machine, or `source` itself.

    live: it comes as it is; nothing more is asked of its server, which may serve one listener only.
    """
    if live and "://" in source:
        return {"name": _shown(source)}
    if storage.is_url(source):
        return _describe_stored(source)
    if source == video.PIPE:
        return {"name": "standard input", **_content(Path(path))}
    if "://" in source or source.startswith("camera:"):
        return {"name": _shown(source)}
    return {"name": os.path.abspath(source), **_content(Path(path))}


def _describe_stored(url: str) -> Facts:
    name = {"name": _shown(url)}
    try:
        entry = storage.head(url)
    except RallytraceError:  # such as a web server that does not say
        return name
    return {**name, "size": entry.size, "etag": entry.etag} if entry and entry.etag else name


def is_same(known: Facts, source: str) -> bool:
    """Whether `source` is the video that `known` describes. A live source and a pipe never are."""
    if storage.is_url(source):
        found = _describe_stored(source)
        return "etag" in found and found == {key: known.get(key) for key in found}
    if source == video.PIPE or "://" in source or not os.path.exists(source) or video.is_pipe(source):
        return False
    now = _stamp(Path(source))
    if known.get("name") == os.path.abspath(source) and now == {key: known.get(key) for key in now}:
        return True
    return now["size"] == known.get("size") and _digest(Path(source)) == known.get("sha256")


def difference(asked: Record, known: Record | None, source: str) -> str:
    """In which way a result is not the one that is asked for, in words; empty where it is."""
    if known is None:
        return "and nothing beside it says what it was made from"
    if not is_same(known.get("source", {}), source):
        return f"and was made from another video ({known.get('source', {}).get('name', 'unknown')})"
    if known.get("network") != asked["network"]:
        return f"and was made by another network ({known.get('model', 'unknown')})"
    options = known.get("options", {})
    for name, value in asked["options"].items():
        if name in options and options[name] != value:
            if isinstance(value, dict):
                return f"and was made with another {name}"
            return f"and was made with {name} {options[name]}, not {value}"
    return ""


def read_record(text: bytes | None) -> Record | None:
    """None where it is missing or is none."""
    try:
        found = json.loads(text or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("source"), dict) else None


def _shown(url: str) -> str:
    """Without password and query, which may hold a secret."""
    if url.partition("://")[0].lower() in STORES:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("://")[0] + "://"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _content(path: Path) -> Facts:
    return {**_stamp(path), "sha256": _digest(path)}


def _stamp(path: Path) -> Facts:
    stats = [each.stat() for each in _files(path)]
    sizes = [each.st_size for each in stats]
    return {"files": len(stats), "size": sum(sizes), "mtime_ns": max((each.st_mtime_ns for each in stats), default=0)}


def _digest(path: Path) -> str:
    """Of a file's content; of a folder's pictures with their names."""
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for each in _files(path):
        digest.update(f"{each.name} {each.stat().st_size}\n".encode(errors="surrogateescape"))
        digest.update(each.read_bytes())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(each for each in path.iterdir() if suffix_of(each.name) in PICTURE_SUFFIXES)
    elif path.exists():
        yield path
