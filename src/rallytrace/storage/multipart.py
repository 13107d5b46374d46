"""Large files to S3 in parts that outlive a killed process: obstore can neither list nor continue an upload.

A note in $XDG_CACHE_HOME/rallytrace-uploads says which upload is open for which file; the server says which parts it
has. Uploads of ours that nobody went on with for a week are ended there, so that their parts stop costing money.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rallytrace.files import AtomicFile, make_folder

STALE_S = 7 * 86_400.0
MOST_ENDED = 100  # stale uploads, each time
AT_ONCE = 4  # parts of one file
TRIES, FIRST_WAIT_S, MOST_WAIT_S, TIMEOUT_S = 9, 0.1, 3.0, 30.0
# What obstore does and this does not: with one of these set, it sends the file as a whole.
NOT_HERE = re.compile("AWS_(ENDPOINT|SERVER_SIDE_ENCRYPTION|SSE_.*|S3_EXPRESS|REQUEST_PAYER|SKIP_SIGNATURE)", re.I)


class Refused(Exception):
    """What a server answered, as obstore would say it, or that it did not answer. status: 0 for no answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status code: {status} {text}" if status else text)
        self.status = status


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A signature is for one address only."""


@dataclass(frozen=True)
class Bucket:
    """base: the URL that its keys go behind. keys: the credentials of this moment, as obstore's providers tell them."""

    base: str
    region: str
    keys: Callable[[], dict[str, Any]]

    def put(self, key: str, pieces: Iterable[bytes], part: int, digest: str, tags: dict[str, str]) -> None:
        """The pieces, of `part` bytes but for the last, as one object; those that an earlier run sent are passed over.

        digest: SHA-256 of the whole, by which an upload that was cut is known again. Raises Refused, and what `pieces`
        raises.
        """
        self._end_stale()
        upload, etags, note = self._begin(key, f"{digest} {part}", tags)
        query = {"uploadId": upload}
        try:
            etags |= self._send(key, pieces, query, etags)
            parts = (f"<PartNumber>{n}</PartNumber><ETag>{html.escape(etags[n])}</ETag>" for n in sorted(etags))
            whole = "".join(f"<Part>{each}</Part>" for each in parts)
            self.ask("POST", key, query, f"<CompleteMultipartUpload>{whole}</CompleteMultipartUpload>".encode())
        except Refused as error:
            if 400 <= error.status < 500 and error.status not in (401, 403, 429):
                self._end(key, upload, note)
            raise
        note.unlink(missing_ok=True)

    def _send(self, key: str, pieces: Iterable[bytes], query: dict[str, str], there: dict[int, str]) -> dict[int, str]:
        """ETags of the parts that were not there."""
        running: dict[int, Future[tuple[http.client.HTTPMessage, str]]] = {}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for number, piece in enumerate(pieces, 1):
                if number not in there:
                    words = {**query, "partNumber": str(number)}
                    running[number] = pool.submit(self.ask, "PUT", key, words, piece)
                if number - AT_ONCE in running:  # no more than so many are in memory
                    running[number - AT_ONCE].result()
            return {number: each.result()[0]["ETag"] for number, each in running.items()}

    def _begin(self, key: str, content: str, tags: dict[str, str]) -> tuple[str, dict[int, str], Path]:
        """An upload, the parts that it has, and its note."""
        note = _notes() / f"{hashlib.sha256(f'{self.base} {key}'.encode()).hexdigest()[:32]}.json"
        known = _read(note)
        if known.get("content") == content:
            with suppress(Refused):  # it may have been ended; whatever else is wrong shows in the next request
                return known["upload"], self._parts(key, known["upload"]), note
        elif known:
            self._end(key, known["upload"], note)
        _, answer = self.ask("POST", key, {"uploads": ""}, headers={f"x-amz-meta-{n}": v for n, v in tags.items()})
        upload = _text(answer, "UploadId")
        make_folder(note.parent)
        with AtomicFile(note, "w") as file:
            json.dump({"base": self.base, "key": key, "upload": upload, "content": content, "began": time.time()}, file)
        return upload, {}, note

    def _parts(self, key: str, upload: str) -> dict[int, str]:
        found: dict[int, str] = {}
        after = "0"
        while after:
            _, answer = self.ask("GET", key, {"part-number-marker": after, "uploadId": upload})
            for part in re.findall("<Part>(.*?)</Part>", answer, re.DOTALL):
                found[int(_text(part, "PartNumber"))] = _text(part, "ETag")
            after = _text(answer, "NextPartNumberMarker") if _text(answer, "IsTruncated") == "true" else ""
        return found

    def _end(self, key: str, upload: str, note: Path) -> None:
        with suppress(Refused):
            self.ask("DELETE", key, {"uploadId": upload})
        note.unlink(missing_ok=True)

    def _end_stale(self) -> None:
        for note in list(_notes().glob("*.json"))[:MOST_ENDED]:
            known = _read(note)
            if known.get("base") == self.base and known["began"] < time.time() - STALE_S:
                self._end(known["key"], known["upload"], note)

    def ask(
        self, method: str, key: str, query: dict[str, str], body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPMessage, str]:
        """The answer's head and text; what fails for a moment is asked again. Raises Refused."""
        for left in reversed(range(TRIES)):
            try:
                return self._ask_once(method, key, query, body, headers or {})
            except Refused as error:
                if not left or (0 < error.status < 500 and error.status not in (408, 429)):
                    raise
                time.sleep(min(FIRST_WAIT_S * 2 ** (TRIES - 1 - left), MOST_WAIT_S))
        raise AssertionError

    def _ask_once(
        self, method: str, key: str, query: dict[str, str], body: bytes, headers: dict[str, str]
    ) -> tuple[http.client.HTTPMessage, str]:
        url = f"{self.base}/{quote(key, safe='/~')}"
        words = "&".join(f"{name}={quote(value, safe='~')}" for name, value in sorted(query.items()))
        signed = sign(method, url, words, headers, body, self.keys(), self.region, time.gmtime())
        request = urllib.request.Request(f"{url}?{words}", body or None, signed, method=method)
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as answer:
                text = answer.read().decode(errors="replace")
                if "<Error>" in text:  # the end of a long upload is answered with 200 before it is known
                    raise Refused(500, text)
                return answer.headers, text
        except urllib.error.HTTPError as error:
            text = "redirect without LOCATION" if 300 <= error.code < 400 else ""
            with suppress(OSError, http.client.HTTPException):
                text += error.read().decode(errors="replace")
            raise Refused(error.code, text) from None
        except (OSError, http.client.HTTPException) as error:
            raise Refused(0, f"connection failed: {type(error).__name__}") from None


def sign(
    method: str,
    url: str,
    query: str,
    headers: dict[str, str],
    body: bytes,
    keys: dict[str, Any],
    region: str,
    now: time.struct_time,
) -> dict[str, str]:
    """The headers with AWS's Signature Version 4 among them. url, query: percent-encoded, the query in order."""
    host, _, path = url.partition("://")[2].partition("/")
    stamp, content = time.strftime("%Y%m%dT%H%M%SZ", now), hashlib.sha256(body).hexdigest()
    headers = {**headers, "host": host, "x-amz-content-sha256": content, "x-amz-date": stamp}
    headers["content-type"] = "application/octet-stream"  # urllib would call it a form
    if keys.get("token"):
        headers["x-amz-security-token"] = keys["token"]
    names = ";".join(sorted(headers))
    canonical = "".join(f"{name}:{headers[name].strip()}\n" for name in sorted(headers))
    asked = "\n".join((method, f"/{path}", query, canonical, names, content))
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
    key = f"AWS4{keys['secret_access_key']}".encode()
    for word in (*scope.split("/"), text):
        key = hmac.digest(key, word.encode(), "sha256")
    credential = f"Credential={keys['access_key_id']}/{scope}"
    headers["authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={key.hex()}"
    return headers


def bucket(root: str, endpoint: str, profile: Any) -> Bucket | None:
    """Of s3://name, by the same environment as obstore's; None where the credentials are the machine's own role, which
    only obstore finds, or where a setting is one of obstore's alone."""
    env = os.environ
    key, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    if any(NOT_HERE.fullmatch(name) for name in env) or not ((key and secret) or profile):
        return None
    fixed = {"access_key_id": key, "secret_access_key": secret, "token": env.get("AWS_SESSION_TOKEN")}
    own = getattr(profile, "config", {}).get("region")
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or own or "us-east-1"
    name = root.partition("://")[2]
    if env.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in ("true", "1"):
        base = endpoint or f"https://{name}.s3.{region}.amazonaws.com"
    else:
        base = f"{(endpoint or f'https://s3.{region}.amazonaws.com').rstrip('/')}/{name}"
    return Bucket(base.rstrip("/"), region, profile or (lambda: fixed))


def _text(xml: str, name: str) -> str:
    found = re.search(f"<{name}>(.*?)</{name}>", xml, re.DOTALL)
    return html.unescape(found[1]).strip() if found else ""


def _notes() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rallytrace-uploads"


def _read(note: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return dict(json.loads(note.read_text()))
    return {}
