"""A folder, or what obstore opens, behind the same few methods.

All raise InputError for what is missing or refused, OutputError where nothing can be written, and EndpointError where a
server fails for longer than retries help.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import IO, Any

from rallytrace.errors import EndpointError, InputError, MissingDependency, OutputError, RallytraceError
from rallytrace.files import AtomicFile, make_folder, output_errors
from rallytrace.storage import multipart
from rallytrace.storage.cache import default_cache
from rallytrace.storage.naming import remember
from rallytrace.storage.urls import WEB, Address, check_key, local_path, parse

PART = 8 << 20  # bytes of a part of a multipart upload: S3 takes 5 MiB and more, and 10,000 of them
DIGEST = "sha256"  # what the checksum is called among an object's own metadata
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
ENDPOINTS = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "gs": ("GOOGLE_BASE_URL",)}  # another server's
PROCESS = uuid.uuid4().hex
OnBytes = Callable[[int], None]  # told the bytes done so far


class MissingObject(InputError):
    """There is no such object."""


@dataclass(frozen=True)
class Entry:
    """One object. key: relative to the store; size: bytes; etag: changes with the content."""

    key: str
    size: int
    modified: datetime
    etag: str


def open_store(where: str | Path) -> Store:
    """The store of a local folder or of a URL. Nothing is asked of a server yet. Raises InputError, MissingDependency.

    Credentials, region and another server's address (AWS_ENDPOINT_URL, GOOGLE_BASE_URL) come from the environment.
    """
    folder = local_path(where)
    return Remote(parse(str(where))) if folder is None else Folder(folder)


def sha256_of(data: bytes | Path) -> str:
    """In hex; a file is read in pieces."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with open(data, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Folder:
    """A local folder as a store."""

    def __init__(self, folder: Path) -> None:
        self.url, self._folder = str(folder), folder

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """The files below the folder `prefix`, without hidden ones."""
        for path in sorted((self._folder / prefix.strip("/")).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield _file_entry(path.relative_to(self._folder).as_posix(), path)

    def head(self, key: str) -> Entry | None:
        """None where there is no such file."""
        path = self._path(key)
        return _file_entry(key, path) if path.is_file() else None

    def get(self, key: str) -> bytes:
        """The whole file."""
        return self.fetch(key).read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`."""
        with open(self.fetch(key), "rb") as file:
            file.seek(start)
            return file.read(length)

    def put(self, key: str, data: bytes | Path, *, on_progress: OnBytes | None = None) -> None:
        """Bytes, or a file, under `key`: whole or not at all, replacing what was there."""
        path = self._path(key)
        make_folder(path.parent)
        with AtomicFile(path, "wb") as file, output_errors(path):
            for piece in _pieces(data, PART, None, on_progress):
                file.write(piece)

    def create(self, key: str, data: bytes) -> bool:
        """As `put`; of many that do so at once, one is told True. False, and nothing written, where there is one."""
        path = self._path(key)
        make_folder(path.parent)
        whole = path.with_name(f".{path.name}.{uuid.uuid4().hex}.whole")
        with AtomicFile(whole, "wb") as file, output_errors(path):
            file.write(data)
        try:
            with output_errors(path), suppress(FileExistsError):
                os.link(whole, path)
                return True
            return False
        finally:
            whole.unlink()

    def digest(self, key: str) -> str | None:
        """The SHA-256 of the content, in hex."""
        return sha256_of(self.fetch(key))

    def delete(self, key: str) -> None:
        """No error where it is gone already."""
        with output_errors(self._path(key)):
            self._path(key).unlink(missing_ok=True)

    def fetch(self, key: str) -> Path:
        """The file itself."""
        if not self._path(key).is_file():
            raise MissingObject(f"{self._path(key)} does not exist: check the name")
        return self._path(key)

    def _path(self, key: str) -> Path:
        return self._folder / check_key(key)


class Remote:
    """A bucket, a folder of one, a web server or this process's memory, through obstore."""

    def __init__(self, address: Address) -> None:
        self.url, self._address = str(address), address
        self._web = address.scheme in WEB
        names = ENDPOINTS.get(address.scheme, ())
        endpoint = next(filter(None, map(os.environ.get, names)), "")
        if self._web:
            endpoint = address.root.replace("://", f"://{address.user}@") if address.user else address.root
        self._store = _connect(address.root, address.query, endpoint)
        self._endpoint = endpoint
        # Two servers may have objects of one name, and what is in memory is gone with the process.
        self._salt = f"{address.query} {PROCESS if address.scheme == 'memory' else endpoint}"

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """The objects below the folder `prefix`: one request for each thousand."""
        if self._web:
            raise InputError(f"{self.url}: a web server does not list its files; name each of them")
        below = "/".join(filter(None, (self._address.key, prefix.strip("/"))))
        cut = len(self._address.key) + bool(self._address.key)
        with store_errors(self.url):
            found = (meta for chunk in self._store.list(below or None, chunk_size=1000) for meta in chunk)
            entries = (_entry(check_key(meta["path"][cut:]), meta) for meta in found if meta["path"][cut:])
            yield from _without_folders(entries)

    def head(self, key: str) -> Entry | None:
        """None where there is no such object."""
        with suppress(MissingObject), store_errors(self.name(key)):
            return _entry(key, self._store.head(self._at(key)))
        return None

    def get(self, key: str) -> bytes:
        """The whole object."""
        with store_errors(self.name(key)):
            return bytes(self._get(key).bytes())

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`."""
        with store_errors(self.name(key)):
            return bytes(self._get(key, range=(start, start + length)).bytes())

    def put(self, key: str, data: bytes | Path, *, on_progress: OnBytes | None = None) -> None:
        """Bytes, or a file, under `key`: whole or not at all, replacing what was there. Its SHA-256 goes with it.

        A large file to s3:// that was cut off goes on with the parts that are missing.
        """
        digest = sha256_of(data)
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        part, tags = max(PART, size // 9000), {DIGEST: digest}
        pieces = _pieces(data, part, digest, on_progress)
        with self._writing(key):
            large = size > part and self._address.scheme == "s3" and isinstance(data, Path)
            if large and (bucket := multipart.bucket(self._address.root, self._endpoint)):
                try:
                    bucket.put(self._at(key), pieces, part, digest, tags)
                except multipart.Refused as error:  # 404: another process finished it, or an answer was lost
                    if error.status != 404 or self.head(key) is None or self.digest(key) != digest:
                        raise
                return
            body = pieces if size > part else b"".join(pieces)
            self._store.put(self._at(key), body, attributes=tags, chunk_size=part, max_concurrency=4)

    def create(self, key: str, data: bytes) -> bool:
        """As `put`; of many that do so at once, one is told True. False, and nothing written, where there is one.

        A server that knows no such request (OpenStack Swift) is looked at first: there, two that write at the very same
        moment may both be told True.
        """
        from obstore.exceptions import AlreadyExistsError

        attributes = {DIGEST: sha256_of(data)}
        store = self._store
        if self._address.scheme != "memory":  # one that gives up soon, for "not implemented" is asked again, too
            store = _connect(self._address.root, self._address.query, self._endpoint, 1)
        try:
            with self._writing(key), suppress(AlreadyExistsError):
                store.put(self._at(key), data, attributes=attributes, mode="create")
                return True
        except EndpointError as error:
            if "NotImplemented" not in str(error):
                raise
            if self.head(key) is None:
                self.put(key, data)
                return True
        return False

    def digest(self, key: str) -> str | None:
        """The SHA-256 that was stored with the object, in hex."""
        with store_errors(self.name(key)):
            return str(self._get(key, head=True).attributes.get(DIGEST) or "") or None

    def delete(self, key: str) -> None:
        """No error where it is gone already."""
        with suppress(MissingObject), self._writing(key):
            self._store.delete(self._at(key))

    def fetch(self, key: str, known: Entry | None = None) -> Path:
        """A local file with the object's content and name, not to be changed; kept while this process lives.

        known: the object as a listing told it, which saves a request.
        """
        with store_errors(self.name(key)):
            # A signed https:// address may be good for GET only; that answer's body is not read.
            known = known or (_entry(key, self._get(key).meta) if self._web else self.head(key))
            if known is None:
                raise MissingObject(f"{self.name(key)} does not exist: check the name")
            unit = self.unit(key, known.etag)
            path = default_cache().file(unit, key.rpartition("/")[2], known.size, lambda to: self._fill(to, known))
            return remember(path, self.name(key))

    def unit(self, key: str, version: str) -> str:
        """What the cache calls a version of an object or folder."""
        place, version = (sha256_of(text.encode()) for text in (f"{self.name(key)} {self._salt}", version))
        return f"{place[:32]}-{version[:16]}"

    def name(self, key: str) -> str:
        """The URL of an object, to show."""
        return f"{self._address.root}/{self._at(key)}" if key else self.url

    def _fill(self, file: IO[bytes], wanted: Entry) -> None:
        """Bytes that an earlier run got are kept; what arrived is checked before it gets its name."""
        start = 0 if self._web else max(min(file.tell(), wanted.size) - 1, 0)  # one byte, so that there is an answer
        file.truncate(start)
        answer = self._get(wanted.key, **({"range": {"offset": start}} if start else {}))
        if _entry(wanted.key, answer.meta).etag != wanted.etag:
            raise EndpointError(f"{self.name(wanted.key)}: it was replaced while it was read: run the command again")
        for piece in answer.stream(min_chunk_size=1 << 20):
            file.write(piece)
        file.flush()
        digest = answer.attributes.get(DIGEST)
        if file.tell() != wanted.size or (digest and digest != sha256_of(Path(file.name))):
            file.truncate(0)
            raise EndpointError(f"{self.name(wanted.key)}: it arrived damaged (size or SHA-256 differ): try again")

    def _get(self, key: str, **options: Any) -> Any:
        return self._store.get(self._at(key), options=options)

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        if self._web:
            raise OutputError(f"{self.url} can be read only: write to a folder, s3://, gs:// or az://")
        with store_errors(self.name(key)):
            yield

    def _at(self, key: str) -> str:
        return "/".join(filter(None, (self._address.key, check_key(key))))


Store = Folder | Remote


def _file_entry(key: str, path: Path) -> Entry:
    stat = path.stat()
    etag = f"{stat.st_mtime_ns:x}-{stat.st_size:x}"
    return Entry(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC), etag)


def _entry(key: str, meta: Any) -> Entry:
    etag = meta["e_tag"] or f"{meta['last_modified'].isoformat()}-{meta['size']}"
    return Entry(key, meta["size"], meta["last_modified"], etag.strip('"'))  # Azure's listings have it without quotes


def _without_folders(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Consoles make a folder as an empty object `folder/`, which obstore lists as `folder`, before what is in it."""
    for entry, after in pairwise(chain(entries, [None])):
        assert entry
        if entry.size or after is None or not after.key.startswith(f"{entry.key}/"):
            yield entry


def _pieces(data: bytes | Path, part: int, digest: str | None, on_progress: OnBytes | None) -> Iterator[bytes]:
    """Raises OutputError at the end of a file that is no longer the one of that checksum."""
    if isinstance(data, bytes):
        yield data
        return
    done, seen = 0, hashlib.sha256()
    with open(data, "rb") as file:
        while piece := file.read(part):
            seen.update(piece)
            yield piece
            done += len(piece)
            if on_progress:
                on_progress(done)
    if digest and seen.hexdigest() != digest:
        raise OutputError(f"{data} was changed while it was read: nothing was stored, run the command again")


@lru_cache(maxsize=32)
def _connect(root: str, query: str, endpoint: str, retries: int = 8) -> Any:
    """The obstore object of a bucket or host: one for the process, with its connections and credentials."""
    try:
        from obstore import store
    except ImportError:
        raise MissingDependency(f"{root} needs obstore: pip install 'rallytrace[store]'") from None
    scheme = root.partition("://")[0]
    if scheme == "memory":
        return store.MemoryStore()
    plain = endpoint.lower().startswith("http://")
    host = endpoint.partition("://")[2].partition("/")[0].rpartition("@")[2]
    if plain and re.sub(r":\d+$", "", host) not in LOOPBACK and os.environ.get("AWS_ALLOW_HTTP") != "true":
        raise InputError(f"{host}: http:// is not encrypted: use https://, or set AWS_ALLOW_HTTP=true if you mean it")
    common: dict[str, Any] = {
        "client_options": {"allow_http": plain, "connect_timeout": "5s", "read_timeout": "30s", "timeout": "1h"},
        # Some seconds of waiting in all: enough for a throttled or restarted server, little for a dead one.
        "retry_config": {"max_retries": retries, "retry_timeout": timedelta(minutes=2), "backoff": {"base": 3}},
    }
    with store_errors(root):
        if scheme in WEB:
            return store.HTTPStore.from_url(f"{endpoint}?{query}" if query else endpoint, **common)
        if scheme == "s3":
            common |= {"config": {"endpoint": endpoint} if endpoint else {}, "credential_provider": _profile()}
        return store.from_url(root, **common)


def _profile() -> Any:
    """boto3's credentials where the environment has none: obstore reads no ~/.aws and knows no single sign-on."""
    env = os.environ
    if env.get("AWS_ACCESS_KEY_ID") or not (env.get("AWS_PROFILE") or (Path.home() / ".aws").exists()):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise MissingDependency("a profile of ~/.aws needs boto3: pip install 'rallytrace[aws]'") from None
    return Boto3CredentialProvider()


# What obstore's error text says, and what that means to a user. The text itself is not passed on: it can hold signed
# addresses and key ids.
MEANINGS: tuple[tuple[str, type[RallytraceError], str], ...] = (
    (
        r"http://169\.254\.|/latest/api/|metadata\.google",
        InputError,
        "no credentials found; set AWS_ACCESS_KEY_ID or AWS_PROFILE",
    ),
    (
        r">NoSuchBucket<|bucket does not exist",
        InputError,
        "there is no such bucket; check its name and AWS_ENDPOINT_URL",
    ),
    (r">NoSuchUpload<", EndpointError, "the upload was ended by somebody while it ran; run the command again"),
    (r"status code: 404|at location .* not found", MissingObject, "it does not exist: check the name"),
    (r"status code: 40[13]", InputError, "the store refuses these credentials ({}); check them, and the region"),
    (
        r"redirect without LOCATION|AuthorizationHeaderMalformed|PermanentRedirect",
        InputError,
        "the bucket is in another region; set AWS_REGION",
    ),
    (
        r"^could not parse path|with invalid path",
        InputError,
        "a name that cannot be used here; expected folder/name with no .. part",
    ),
    ("", EndpointError, "the store fails ({}), also when asked again; try again later"),
)
REASON = r"status code: (\d{3})|<Code>(\w{1,60})</Code>|(connection \w+|error decoding|timed out|dns error|end of file)"


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """What obstore and boto3 raise becomes one line about `url`."""
    try:
        yield
    except Exception as error:
        text, known = str(error), type(error).__module__.startswith(("obstore", "botocore", multipart.__name__))
        # obstore raises two errors of Python's own
        if not (known or text.startswith(("Object at location", "Could not parse path"))):
            raise
        kind, advice = next(each[1:] for each in MEANINGS if re.search(each[0], text, re.IGNORECASE))
        reasons = dict.fromkeys("".join(found) for found in re.findall(REASON, text, re.IGNORECASE))
        raise kind(f"{url}: {advice.format(' '.join(reasons) or 'no usable answer')}") from None
