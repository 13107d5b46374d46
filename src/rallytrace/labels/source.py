"""What a label file is read from: a file, a folder or a zip, whose contents are bounded before they are believed."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote

from rallytrace.errors import LabelError, MissingDependency, RallytraceError, VideoError
from rallytrace.trajectory.table import Row, as_text, read_rows

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from rallytrace.labels.sets import ReadOptions

MAX_BYTES = 256 << 20  # of one file
MAX_XML_BYTES = 64 << 20  # the tree in memory is some ten times larger
MAX_PICTURE_BYTES = 64 << 20
MAX_ENTRIES = 200_000
MAX_RATIO = 300  # label files shrink to a thirtieth; deflate's worst is a thousandth
BUCKETS = ("s3://", "gs://", "az://", "memory://")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class Source:
    """`names` are the files inside, relative, with /; a single file has its own name. Nothing is ever unpacked.

    Raises LabelError for what cannot be read, has too much in it, or has names that lead out of it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise LabelError(f"{path}: no such file or folder")
        self._zip = self._open_zip() if self.path.is_file() and zipfile.is_zipfile(self.path) else None
        self.is_file = self._zip is None and self.path.is_file()

    def _open_zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise LabelError(f"{self.path}: a broken zip ({error})") from error

    @cached_property
    def names(self) -> tuple[str, ...]:
        if self.is_file:
            return (self.path.name,)
        names = self._zip_names() if self._zip else self._folder_names()
        return tuple(sorted(names))

    @cached_property
    def _inside(self) -> frozenset[str]:
        return frozenset(self.names)

    def _zip_names(self) -> list[str]:
        assert self._zip
        names = [info.filename for info in self._zip.infolist() if not info.is_dir()]
        if len(names) > MAX_ENTRIES:
            raise LabelError(f"{self.path}: {len(names)} files in the zip, expected at most {MAX_ENTRIES}")
        for name in names:
            if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or ":" in name[:3]:
                raise LabelError(f"{self.path}: the zip has a file {name[:80]!r} that leads out of it; not read")
        return [name for name in names if not name.startswith("__MACOSX/")]

    def _folder_names(self) -> list[str]:
        names: list[str] = []
        for folder, inside, files in os.walk(self.path):
            inside[:] = [name for name in inside if not name.startswith(".")]
            base = Path(folder).relative_to(self.path)
            names += [(base / file).as_posix() for file in files if not file.startswith(".")]
            if len(names) > MAX_ENTRIES:
                raise LabelError(f"{self.path}: more than {MAX_ENTRIES} files in the folder: give the labels' own one")
        return names

    def find(self, *suffixes: str) -> list[str]:
        """The files inside by their suffix; a file that stands alone, whatever it is called."""
        return [name for name in self.names if self.is_file or name.lower().endswith(suffixes)]

    def where(self, name: str) -> str:
        """How to call a file inside in an error."""
        return str(self.path) if self.is_file else f"{self.path}: {name}" if self._zip else str(self.path / name)

    def rows(self, name: str, required: Iterable[str]) -> Iterator[Row]:
        """The rows of a CSV, as `read_rows`."""
        return read_rows(self.where(name), required, self.text(name))

    def folders(self, name: str) -> tuple[str, ...]:
        """Those that a file lies in, as far as the source tells; of a file alone, those on disk."""
        return self.path.resolve().parts[:-1] if self.is_file else PurePosixPath(name).parts[:-1]

    def picture_wh(self, names: Iterable[str]) -> tuple[int, int] | None:
        """The size of the first of these pictures that is inside and can be read."""
        inside = (name for name in names if name in self._inside)
        return next((wh for name in inside if (wh := _picture_wh(self.data(name, MAX_PICTURE_BYTES)))), None)

    def stem(self, name: str) -> str:
        """What to call a clip that a file alone names."""
        return PurePosixPath(name).stem if not self._zip else self.path.stem

    def data(self, name: str, limit: int = MAX_BYTES, head: bool = False) -> bytes:
        """The whole file; with `head` its first `limit` bytes."""
        try:
            if self._zip:
                info = self._zip.getinfo(name)
                if info.file_size > max(1 << 20, MAX_RATIO * info.compress_size):
                    raise LabelError(f"{self.where(name)}: {info.file_size} bytes packed into {info.compress_size}: "
                                     "refused as a zip bomb")  # fmt: skip
                with self._zip.open(info) as packed:
                    found = packed.read(limit if head else limit + 1)
            else:
                with open(self.path if self.is_file else self.path / name, "rb") as file:
                    found = file.read(limit if head else limit + 1)
        except (OSError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, ValueError) as error:
            if isinstance(error, LabelError):
                raise
            raise LabelError(f"cannot read {self.where(name)}: {getattr(error, 'strerror', None) or error}") from error
        if len(found) > limit:
            raise LabelError(f"{self.where(name)}: more than {limit >> 20} MiB, expected a label file")
        return found

    def head(self, name: str) -> str:
        """The first 64 KiB as text, for a look; "" for what is no text."""
        start = self.data(name, 1 << 16, head=True)
        text = as_text(start, self.where(name), "ignore")
        return "" if "\0" in text else text

    def text(self, name: str, limit: int = MAX_BYTES) -> str:
        """See `as_text`."""
        return as_text(self.data(name, limit), self.where(name))

    def json(self, name: str) -> Any:
        """One JSON value; NaN, Infinity and bottomless nesting are LabelErrors."""
        return parse_json(self.text(name), self.where(name))

    def xml(self, name: str) -> Element:
        """The root of an XML file; one with a DTD or entities is refused. Raises MissingDependency."""
        try:
            from defusedxml.common import DefusedXmlException
            from defusedxml.ElementTree import ParseError, fromstring
        except ImportError as error:
            raise MissingDependency("XML needs defusedxml: pip install 'rallytrace[label]'") from error
        data = self.data(name, MAX_XML_BYTES)
        try:
            root: Element = fromstring(data, forbid_dtd=True)
        except DefusedXmlException as error:
            raise LabelError(
                f"{self.where(name)}: has a DTD or entities, which no label file needs; refused"
            ) from error
        except (ParseError, ValueError, LookupError) as error:
            raise LabelError(f"{self.where(name)}: not well-formed XML ({error})") from error
        return root

    def near(self, uri: str, options: ReadOptions) -> tuple[Source, str]:
        """What a manifest names by `uri`, an s3:// name or a path: its longest tail that is a file under the root or,
        without one, in this folder or zip, beside this file, above it in a job's manifests folder, or in one of the
        options' folders. What is in a bucket and not there is fetched, where the options say how. Raises LabelError."""
        plain = unquote(uri[7:]) if uri.startswith("file://") else uri.partition("://")[2] or uri
        parts = PurePosixPath(plain).parts
        if ".." in parts or not parts:
            raise LabelError(f"{self.path}: refers to {uri[:120]!r}, expected a name without ..")
        tails = ["/".join(parts[n:]).lstrip("/") for n in range(len(parts))]
        found = self._in_zip(tails) if self._zip else self._in_folders(tails, options)
        if found is not None:
            return found
        if not uri.startswith(BUCKETS):
            where = ", ".join(str(folder) for folder in self._own_folders(options))
            raise LabelError(f"{self.path}: refers to {uri[:200]}, which is not below {where}: copy it there")
        if options.fetch is None:
            raise LabelError(f"{self.path}: no local copy of {uri[:200]}; it is not fetched here: copy it, give --root")
        try:
            path = options.fetch(uri)
        except RallytraceError as error:
            why = f"no local copy of {uri[:200]}, and it cannot be fetched: {error}"
            raise LabelError(f"{self.path}: {why} (--root takes a copy of the bucket)") from error
        return Source(path), path.name

    def _in_zip(self, tails: list[str]) -> tuple[Source, str] | None:
        for tail in tails:
            found = [name for name in self.names if name == tail or name.endswith(f"/{tail}")]
            if len(found) == 1:
                return self, found[0]
        return None

    def _in_folders(self, tails: list[str], options: ReadOptions) -> tuple[Source, str] | None:
        # Only a job's own tree is searched upwards: a manifest must not point at whatever lies on this machine.
        here = self._own_folders(options)
        in_job = self.is_file and not options.root and "manifests" in here[0].parts[-3:]
        for folder in (*here, *(list(here[0].parents)[:4] if in_job else ())):
            for tail in tails if folder in here else tails[:-1]:
                if (folder / tail).is_file():
                    return Source(folder / tail), Path(tail).name
        return None

    def _own_folders(self, options: ReadOptions) -> tuple[Path, ...]:
        """Whose files a manifest may name."""
        own = self.path.resolve().parent if self.path.is_file() else self.path.resolve()
        return (options.root or own, *options.folders)


def _picture_wh(data: bytes) -> tuple[int, int] | None:
    """Width and height of a picture as stored, px; None for what cannot be decoded."""
    from rallytrace.video.frames import decode_picture

    try:
        frame = decode_picture(data, "a picture")
    except VideoError:
        return None
    return frame.width, frame.height


def parse_json(text: str, where: str) -> Any:
    """As Source.json, of a text."""

    def refuse(constant: str) -> NoReturn:
        raise LabelError(f"{where}: {constant} is no JSON number, expected a finite one")

    try:
        return json.loads(text, parse_constant=refuse)
    except LabelError:
        raise
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{where}: not JSON ({str(error)[:120]})") from error


def objects(value: Any, what: str) -> list[dict[str, Any]]:
    """A list of JSON objects. Raises LabelError, which names `what`."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise LabelError(f"{what}: expected a list of objects")
    return value
