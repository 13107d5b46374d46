"""Servers that fail, throttle, hang up and damage; processes that are killed. Counted at a proxy."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from moto.backends import get_backend

from rallytrace.errors import EndpointError, InputError
from rallytrace.storage import add, expand, fetch, fetch_folder, open_store, publishing
from tests.storage.conftest import BUCKET
from tests.storage.servers import Fault, Proxy, Server

SIZE = 20 << 20
SLOW_DOWN = Fault(503, "SlowDown")
Broken = tuple[str, Proxy]


@pytest.fixture(scope="module")
def match(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("match") / "match.mp4"
    path.write_bytes(os.urandom(SIZE))
    return path


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "waited for a minute"
        time.sleep(0.01)


def units(cache: Path) -> list[Path]:
    """What readers of the cache see."""
    return [path for path in cache.iterdir() if ".partial" not in path.name] if cache.exists() else []


@pytest.mark.parametrize(
    "fault",
    [SLOW_DOWN, Fault(500, "InternalError"), Fault(429, "TooMany"), Fault(cut_request=True), Fault(cut_after=100)],
)
def test_what_fails_now_and_then_works_in_the_end(fault: Fault, broken: Broken, match: Path) -> None:
    url, between = broken
    between.plan = lambda method, target, n: fault if n % 2 else None
    store = open_store(url)
    store.put("small", b"1")
    store.put("match.mp4", match)
    listed = fault if fault.cut_after is None else None  # obstore does not ask again for half a listing
    between.plan = lambda method, target, n: listed if n % 2 else None
    assert [entry.size for entry in store.list()] == [SIZE, 1]
    between.plan = lambda method, target, n: fault if n % 2 and method == "GET" else None
    assert store.fetch("match.mp4").read_bytes() == match.read_bytes()


def test_what_fails_always_is_one_line(broken: Broken, match: Path) -> None:
    url, between = broken
    between.plan = lambda *_: SLOW_DOWN
    with pytest.raises(EndpointError, match=r"503 SlowDown.*try again later") as caught:
        add([match], url)
    assert "\n" not in str(caught.value)
    assert set(between.methods()) == {"GET"}
    assert 3 < len(between.requests) < 20


def test_the_name_of_an_object_does_not_change_what_is_said(broken: Broken) -> None:
    url, between = broken
    between.plan = lambda *_: Fault(400, "Odd")
    for name in ("{0} {x}.mp4", "status code: 404 not found", "redirect 169.254.1.1 NoSuchBucket x"):
        with pytest.raises(EndpointError, match="400 Odd"):
            open_store(url).get(name)
    between.plan = lambda *_: Fault(301, "PermanentRedirect")
    with pytest.raises(InputError, match="another region"):
        open_store(url).get("a")


def test_a_cut_download_goes_on_where_it_was(broken: Broken, match: Path) -> None:
    url, between = broken
    open_store(url).put("match.mp4", match)
    between.forget()
    between.plan = lambda method, target, n: Fault(cut_after=7 << 20) if method == "GET" and n == 2 else None
    assert fetch(f"{url}/match.mp4").read_bytes() == match.read_bytes()
    assert between.sent == SIZE


def test_damage_on_the_way_is_noticed(broken: Broken, own_cache: Path) -> None:
    url, between = broken
    open_store(url).put("labels.csv", b"Frame,Visibility")
    between.plan = lambda *_: Fault(damage=True)
    with pytest.raises(EndpointError, match="arrived damaged"):
        fetch(f"{url}/labels.csv")
    assert units(own_cache) == []
    between.plan = lambda *_: None
    assert fetch(f"{url}/labels.csv").read_bytes() == b"Frame,Visibility"


def test_an_object_that_is_replaced_while_it_is_read(broken: Broken, own_cache: Path) -> None:
    url, _ = broken
    store = open_store(url)
    store.put("a", b"old")
    old = store.head("a")
    store.put("a", b"new")
    with pytest.raises(EndpointError, match="replaced while"):
        store.fetch("a", old)  # type: ignore[call-arg,arg-type]
    assert units(own_cache) == []


def test_thousands_of_clips_are_listed_in_few_requests(broken: Broken) -> None:
    url, between = broken
    store = open_store(url)
    backend, prefix = get_backend("s3")["123456789012"]["aws"], url.removeprefix(f"s3://{BUCKET}/")
    for n in range(3000):  # past HTTP, which would take moto a minute
        backend.put_object(BUCKET, f"{prefix}/{n % 7}/{n:04}.mp4", b"")
    assert len(list(store.list())) == 3000
    assert len(expand(f"{url}/**/*.mp4")) == 3000
    assert len(between.requests) == 2 * 3
    assert set(between.methods()) == {"GET"}


def test_what_is_in_the_cache_is_not_read_again(broken: Broken) -> None:
    url, between = broken
    store = open_store(url)
    for n in range(5):
        store.put(f"{n}.mp4", bytes(1000))
    between.forget()
    fetch_folder(url)
    assert between.methods().count("GET") == 1 + 5
    between.forget()
    fetch_folder(url)
    fetch(f"{url}/3.mp4")
    assert between.methods() == ["GET", "HEAD"]
    store.put("3.mp4", bytes(999))
    between.forget()
    assert (fetch_folder(url) / "3.mp4").stat().st_size == 999
    assert between.methods() == ["GET", "GET"]  # the list, and the one that is new


def test_the_manifest_goes_last(broken: Broken, tmp_path: Path) -> None:
    url, between = broken
    for name in ("a.csv", "manifest.json", "z.csv"):
        (tmp_path / name).write_text("{}")
    with publishing(url) as folder:
        shutil.copytree(tmp_path, folder, dirs_exist_ok=True)
    (tmp_path / "manifest.json").write_text("[]")
    names = [target.rpartition("/")[2] for method, target in between.requests if method == "PUT"]
    assert (names[-1], sorted(names)) == ("manifest.json", ["a.csv", "manifest.json", "z.csv"])
    between.forget()
    between.plan = lambda method, target, n: Fault(403, "AccessDenied") if target.endswith("a.csv") else None
    with pytest.raises(InputError, match="refuses"), publishing(url) as folder:
        shutil.copytree(tmp_path, folder, dirs_exist_ok=True)
    assert open_store(url).get("manifest.json") == b"{}"


def command(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rallytrace", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A shell's background jobs ignore SIGINT, and so do their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("after", [2, 5])
def test_an_upload_that_is_killed(kill: int, after: int, broken: Broken, tmp_path: Path, moto_server: Server) -> None:
    url, between = broken
    clips = tmp_path / "clips"
    clips.mkdir()
    for n in range(8):
        (clips / f"{n}.mp4").write_bytes(os.urandom(100_000))
    (clips / "match.mp4").write_bytes(os.urandom(SIZE))
    slow = threading.Event()

    def plan(method: str, target: str, n: int) -> None:
        if method == "PUT" and between.methods().count("PUT") >= after:
            slow.wait(5)

    between.plan = plan
    running = command("add", clips, "--to", url)
    wait_until(lambda: between.methods().count("PUT") > after)
    running.send_signal(kill)
    slow.set()
    assert running.wait(60) != 0
    said = running.communicate()[1]
    assert "Traceback" not in said
    if kill == signal.SIGINT and any("uploadId=" in target for _, target in between.requests):
        assert "interrupted: no half-written result is left; the same command goes on with parts of" in said
        assert "match.mp4" in said
    store, arrived = open_store(url), {}
    for entry in store.list():  # whatever a reader sees is whole
        assert store.get(entry.key) == (clips / entry.key).read_bytes()
        arrived[entry.key] = entry
    assert len(arrived) < 9
    between.forget()
    between.plan = lambda *_: None
    done = command("add", clips, "--to", url, "--json")
    told = json.loads(done.communicate()[0])
    kept = set(told["kept"])
    assert kept >= set(arrived)
    assert kept | set(told["stored"]) == {path.name for path in clips.iterdir()}
    put = {target.partition("?")[0].rpartition("/")[2] for method, target in between.requests if method == "PUT"}
    assert put == set(told["stored"])
    assert between.received < told["bytes"] + 10_000
    for name in told["stored"]:
        assert store.digest(name) == hashlib.sha256((clips / name).read_bytes()).hexdigest()


def test_a_download_that_is_killed(broken: Broken, own_cache: Path, match: Path) -> None:
    url, between = broken
    store = open_store(url)
    store.put("match.mp4", match)
    store.put("a.csv", b"1")
    between.forget()
    part = 12 << 20
    hold = threading.Event()

    def plan(method: str, target: str, n: int) -> Fault | None:
        if method == "GET" and target.endswith("match.mp4"):
            if between.sent >= part:
                hold.wait(30)
            return Fault(cut_after=part)
        return None

    between.plan = plan
    code = f"from rallytrace.storage import fetch_folder; fetch_folder({url!r})"
    running = subprocess.Popen([sys.executable, "-c", code])
    wait_until(
        lambda: between.sent >= part and any(p.stat().st_size >= part - 2**20 for p in own_cache.glob("*.partial"))
    )
    running.kill()
    running.wait(30)
    hold.set()
    assert all(path.stat().st_size == 1 for unit in units(own_cache) for path in unit.iterdir())
    between.forget()
    between.plan = lambda *_: None
    assert (fetch_folder(url) / "match.mp4").read_bytes() == match.read_bytes()
    assert between.sent < SIZE - part + (3 << 20)


def test_two_processes_fetch_one_object(broken: Broken, match: Path) -> None:
    url, between = broken
    open_store(url).put("match.mp4", match)
    between.forget()
    code = f"from rallytrace.storage import fetch; print(hash(fetch({url + '/match.mp4'!r}).read_bytes()))"
    env = os.environ | {"PYTHONHASHSEED": "0"}
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env) for _ in range(3)]
    told = {process.communicate()[0] for process in running}
    assert len(told) == 1
    assert [process.returncode for process in running] == [0, 0, 0]
    assert between.sent == SIZE


def test_uploads_do_not_stay_open_after_an_error(broken: Broken, match: Path, moto_server: Server) -> None:
    url, between = broken
    between.plan = lambda method, target, n: Fault(400, "EntityTooLarge") if "partNumber=2" in target else None
    with pytest.raises(EndpointError, match="400 EntityTooLarge"):
        open_store(url).put("match.mp4", match)
    prefix = url.removeprefix(f"s3://{BUCKET}/")
    assert not moto_server.client().list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads")
