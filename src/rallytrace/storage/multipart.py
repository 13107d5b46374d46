"""Large files to S3 in parts that outlive a killed process.

obstore can neither list nor continue an upload, so boto3 does it here. A note in `$XDG_CACHE_HOME/rallytrace-uploads`
says which upload is open for which file, and the server says which parts it has. An upload that nobody continues for a
week is ended by the next one, so that its parts stop costing money.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rallytrace.files import AtomicFile, make_folder
from rallytrace.storage.unfinished import continued_later

STALE_S = 7 * 86_400.0
MOST_ENDED = 100  # stale uploads, each time
AT_ONCE = 4  # parts of one file
TRIES = 5
# With one of these set, obstore sends the file as a whole: boto3 reads none of them.
NOT_HERE = re.compile("AWS_(ENDPOINT|SERVER_SIDE_ENCRYPTION|SSE_.*|S3_EXPRESS|REQUEST_PAYER|SKIP_SIGNATURE)", re.I)


class Refused(Exception):
    """What a server answered, in the words that `stores.store_errors` reads. status: 0 for no answer."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"status code: {status} <Code>{code}</Code>" if status else "connection failed")
        self.status = status


@dataclass(frozen=True)
class Bucket:
    """name: of the bucket. place: tells it from buckets of the same name on other servers. client: boto3's."""

    name: str
    place: str
    client: Any

    def put(self, key: str, pieces: Iterable[bytes], part: int, digest: str, tags: dict[str, str]) -> None:
        """Store the pieces, of `part` bytes but for the last, as one object. Parts that are there are not sent again.

        digest: SHA-256 of the whole. An upload that was cut is continued only where it agrees. tags: the object's own
        metadata. Raises Refused, and what `pieces` raises.
        """
        self._end_stale()
        upload, etags, note = self._begin(key, f"{digest} {part}", tags)
        try:
            with continued_later(f"parts of the upload {key} to bucket {self.name}"):
                etags |= self._send(key, upload, pieces, etags)
            parts = [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]
            with _refusals():
                self.client.complete_multipart_upload(**self._object(key, upload), MultipartUpload={"Parts": parts})
        except Refused as error:
            if 400 <= error.status < 500 and error.status not in (401, 403, 429):
                self._end(key, upload, note)
            raise
        note.unlink(missing_ok=True)

    def _object(self, key: str, upload: str) -> dict[str, str]:
        return {"Bucket": self.name, "Key": key, "UploadId": upload}

    def _send(self, key: str, upload: str, pieces: Iterable[bytes], there: dict[int, str]) -> dict[int, str]:
        """The ETags of the parts that were not there."""
        running: dict[int, Future[str]] = {}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for number, piece in enumerate(pieces, 1):
                if number not in there:
                    running[number] = pool.submit(self._send_part, key, upload, number, piece)
                if number - AT_ONCE in running:  # no more parts than that are in memory
                    running[number - AT_ONCE].result()
            return {number: each.result() for number, each in running.items()}

    def _send_part(self, key: str, upload: str, number: int, piece: bytes) -> str:
        with _refusals():
            answer = self.client.upload_part(**self._object(key, upload), PartNumber=number, Body=piece)
        return str(answer["ETag"])

    def _begin(self, key: str, content: str, tags: dict[str, str]) -> tuple[str, dict[int, str], Path]:
        """The id of an upload, the ETags of the parts that it has, and its note."""
        name = hashlib.sha256(f"{self.place} {key}".encode()).hexdigest()[:32]
        note = _notes() / f"{name}.json"
        known = _read(note)
        if known.get("content") == content:
            # It may have been ended. Whatever else is wrong shows in the next request.
            with suppress(Refused):
                return known["upload"], self._parts(key, known["upload"]), note
        elif known:
            self._end(key, known["upload"], note)
        with _refusals():
            answer = self.client.create_multipart_upload(Bucket=self.name, Key=key, Metadata=tags)
        upload = str(answer["UploadId"])
        entry = {
            "place": self.place,
            "key": key,
            "upload": upload,
            "content": content,
            "began": time.time(),
        }
        make_folder(note.parent)
        with AtomicFile(note, "w") as file:
            json.dump(entry, file)
        return upload, {}, note

    def _parts(self, key: str, upload: str) -> dict[int, str]:
        pages = self.client.get_paginator("list_parts")
        with _refusals():
            return {
                part["PartNumber"]: part["ETag"]
                for page in pages.paginate(**self._object(key, upload))
                for part in page.get("Parts", [])
            }

    def _end(self, key: str, upload: str, note: Path) -> None:
        with suppress(Refused), _refusals():
            self.client.abort_multipart_upload(**self._object(key, upload))
        note.unlink(missing_ok=True)

    def _end_stale(self) -> None:
        for note in list(_notes().glob("*.json"))[:MOST_ENDED]:
            known = _read(note)
            if known.get("place") == self.place and known["began"] < time.time() - STALE_S:
                self._end(known["key"], known["upload"], note)


def bucket(root: str, endpoint: str) -> Bucket | None:
    """The bucket s3://name, with the credentials that boto3 finds.

    None where boto3 is missing or finds no credentials, and where a setting is one that only obstore reads.
    """
    env = os.environ
    virtual = env.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in ("true", "1")
    if any(NOT_HERE.fullmatch(name) for name in env) or (virtual and endpoint):
        return None
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        return None
    session = boto3.Session()
    if session.get_credentials() is None:
        return None
    region = env.get("AWS_REGION") or session.region_name or "us-east-1"
    config = Config(
        signature_version="s3v4",
        retries={"mode": "standard", "total_max_attempts": TRIES},
        s3={"addressing_style": "virtual" if virtual else "path"},
        connect_timeout=5,
        read_timeout=30,
        # Servers other than Amazon's know no trailing checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = session.client("s3", region_name=region, endpoint_url=endpoint or None, config=config)
    name = root.partition("://")[2]
    return Bucket(name, f"{endpoint or region} {name}", client)


@contextmanager
def _refusals() -> Iterator[None]:
    """What boto3 raises becomes Refused."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.response.get("Error", {}).get("Code", "")
        raise Refused(status, code) from None
    except BotoCoreError:
        raise Refused(0, "") from None


def _notes() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rallytrace-uploads"


def _read(note: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return dict(json.loads(note.read_text()))
    return {}
