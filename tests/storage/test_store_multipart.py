"""Large uploads to S3-compatible servers go on with the parts that are missing. What was sent is counted at a proxy."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rallytrace.errors import EndpointError, OutputError
from rallytrace.storage import multipart, open_store
from rallytrace.storage.stores import PART
from tests.storage.conftest import BUCKET
from tests.storage.servers import Fault, Proxy, Server, proxy
from tests.storage.test_store_faults import command, wait_until

SIZE = 2 * PART + 12_345
Behind = tuple[str, Proxy, Server]


@pytest.fixture(params=["moto", "swift"])
def behind(request: pytest.FixtureRequest, use: Callable[[Server], str]) -> Iterator[Behind]:
    """A folder of a server that lies behind a proxy."""
    server = request.getfixturevalue(f"{request.param}_server")
    with proxy(server) as (between, to):
        yield use(to), between, server


@pytest.fixture
def match(tmp_path: Path) -> Path:
    path = tmp_path / "a b+c é.mp4"
    path.write_bytes(os.urandom(SIZE))
    return path


def open_uploads(server: Server, url: str) -> list[dict[str, Any]]:
    prefix = url.removeprefix(f"s3://{BUCKET}/")
    found = server.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return [each for each in found if each["Key"].startswith(prefix)]


def parts_of(server: Server, upload: dict[str, Any]) -> list[int]:
    answer = server.client().list_parts(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    return [part["PartNumber"] for part in answer.get("Parts", [])]


def sent(between: Proxy) -> list[int]:
    found = (re.search(r"partNumber=(\d+)", target) for method, target in between.requests if method == "PUT")
    return sorted(int(each[1]) for each in found if each)


def refuse(number: int) -> Any:
    return lambda method, target, n: Fault(503, "SlowDown") if f"partNumber={number}" in target else None


def test_after_a_kill_only_the_missing_parts_are_sent(behind: Behind, match: Path) -> None:
    url, between, server = behind
    between.plan = refuse(2)
    running = command("add", match, "--to", url)
    wait_until(lambda: [parts_of(server, each) for each in open_uploads(server, url)] == [[1, 3]])
    running.kill()
    running.communicate()
    assert list(open_store(url).list()) == []
    between.forget()
    between.plan = lambda *_: None
    done = command("add", match, "--to", url, "--json")
    assert json.loads(done.communicate()[0])["stored"] == [match.name]
    assert sent(between) == [2]
    assert between.received < PART + 10_000
    assert open_store(url).get(match.name) == match.read_bytes()
    assert open_uploads(server, url) == []
    assert list(multipart._notes().iterdir()) == []


def test_another_file_of_the_same_name_begins_anew(
    behind: Behind, match: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first part is the same: what is known again is the whole file, and not what is there of it."""
    url, between, server = behind
    monkeypatch.setattr(multipart, "TRIES", 1)
    between.plan = refuse(3)
    with pytest.raises(EndpointError, match="503 SlowDown"):
        open_store(url).put("match.mp4", match)
    assert [parts_of(server, each) for each in open_uploads(server, url)] == [[1, 2]]
    with match.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([match.read_bytes()[-1] ^ 1]))
    between.forget()
    between.plan = lambda *_: None
    open_store(url).put("match.mp4", match)
    assert sent(between) == [1, 2, 3]
    assert open_store(url).fetch("match.mp4").read_bytes() == match.read_bytes()
    assert open_uploads(server, url) == []


def test_a_file_that_changes_while_it_is_sent_is_not_stored(behind: Behind, match: Path) -> None:
    url, _, server = behind
    last = match.read_bytes()[-1]

    def change(_: int) -> None:
        with match.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))

    with pytest.raises(OutputError, match="was changed"):
        open_store(url).put("match.mp4", match, on_progress=change)
    assert list(open_store(url).list()) == []
    open_store(url).put("match.mp4", match)
    assert open_store(url).get("match.mp4") == match.read_bytes()
    assert open_uploads(server, url) == []
    assert list(multipart._notes().iterdir()) == []


def test_uploads_that_nobody_went_on_with_are_ended(
    behind: Behind, match: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, between, server = behind
    monkeypatch.setattr(multipart, "TRIES", 1)
    between.plan = refuse(1)
    for name in ("old.mp4", "new.mp4"):
        with pytest.raises(EndpointError):
            open_store(url).put(name, match)
    between.plan = lambda *_: None
    for note in multipart._notes().iterdir():
        values = json.loads(note.read_text())
        if values["key"].endswith("old.mp4"):
            note.write_text(json.dumps({**values, "began": time.time() - multipart.STALE_S - 1}))
    open_store(url).put("match.mp4", match)
    assert [each["Key"].rpartition("/")[2] for each in open_uploads(server, url)] == ["new.mp4"]
    assert not any(server.env["AWS_SECRET_ACCESS_KEY"] in note.read_text() for note in multipart._notes().iterdir())


def test_the_answer_that_it_is_whole_was_lost(behind: Behind, match: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, between, _ = behind
    monkeypatch.setattr(multipart, "TRIES", 2)
    lost: list[str] = []

    def plan(method: str, target: str, n: int) -> Fault | None:
        if method == "POST" and "uploadId" in target:
            lost.append(target)
            return Fault(cut_after=1) if len(lost) == 1 else None
        return None

    between.plan = plan
    open_store(url).put("match.mp4", match)
    assert len(lost) == 2
    assert open_store(url).get("match.mp4") == match.read_bytes()


@pytest.mark.parametrize(
    ("environment", "there"),
    [
        ({}, True),
        ({"AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true"}, True),
        ({"AWS_SERVER_SIDE_ENCRYPTION": "aws:kms"}, False),  # obstore's to do
    ],
)
def test_whose_work_it_is(environment: dict[str, str], there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", **environment}.items():
        monkeypatch.setenv(name, value)
    assert (multipart.bucket("s3://b", "") is not None) == there


def test_the_region_and_the_address_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
    for name, value in zip(names, ("a", "s", "eu-west-1"), strict=True):
        monkeypatch.setenv(name, value)
    found = multipart.bucket("s3://b", "http://127.0.0.1:1")
    assert found
    url = found.client.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
    assert url.startswith("http://127.0.0.1:1/b/k?")
    assert "%2Feu-west-1%2Fs3" in url
