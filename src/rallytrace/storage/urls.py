"""What is a URL of a store, and what are its parts; nothing here touches the network."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rallytrace.errors import InputError
from rallytrace.names import path_of_url

SCHEMES = ("s3", "gs", "az", "https", "http", "memory")
WEB = ("http", "https")


def is_url(text: object) -> bool:
    """Whether `text` names a place in a store rather than a local path; rtsp:// and camera:0 are no stores, and
    file:// is a local path."""
    scheme, found, _ = str(text).partition("://")
    return bool(found) and scheme.lower() in SCHEMES


def local_path(where: str | Path) -> Path | None:
    """None for a URL of a store. Raises InputError for a file:// URL of another machine."""
    if is_url(where):
        return None
    try:
        return where if isinstance(where, Path) else Path(path_of_url(where))
    except ValueError as error:
        raise InputError(str(error)) from None


@dataclass(frozen=True)
class Address:
    """A URL in parts: `root` is scheme and bucket or host, `key` the place below it, unquoted. The query of an
    https:// address may hold a signature; that and `user` (name:password) are never shown."""

    scheme: str
    root: str
    key: str
    query: str = ""
    user: str = ""

    def __str__(self) -> str:
        return f"{self.root}/{self.key}".rstrip("/")


def parse(url: str) -> Address:
    """Raises InputError for another scheme and for a URL without a name."""
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    host, _, key = rest.partition("/")
    if scheme not in SCHEMES or not (host or scheme == "memory"):
        schemes = ", ".join(f"{each}://" for each in SCHEMES)
        raise InputError(
            f"{url.partition('?')[0][:120]!r} is no URL of a store, expected {schemes} or file://, then a name"
        )
    query = user = ""
    if scheme in WEB:
        parts = urlsplit(url)
        key, query = unquote(parts.path), parts.query
        user, _, host = host.rpartition("@")
    return Address(scheme, f"{scheme}://{host.partition('?')[0]}", key.strip("/"), query, user)


def check_key(key: str) -> str:
    """A key that is also a safe relative path on every machine. Raises InputError."""
    wrong = any(part in ("", ".", "..") or len(part.encode()) > 255 for part in key.split("/"))
    if wrong or len(key) > 1024 or re.search(r"[\0-\x1f\\]", key):
        raise InputError(f"{key[:120]!r} cannot be the name of an object: expected folder/name with no . or .. part")
    return key


def glob_match(parts: list[str], pattern: list[str]) -> bool:
    """Of a key, split at /: * ? and [] stay within a part, ** spans any number of them, as in `glob`."""
    if not pattern or not parts:
        return not parts and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return glob_match(parts, pattern[1:]) or glob_match(parts[1:], pattern)
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and glob_match(parts[1:], pattern[1:])
