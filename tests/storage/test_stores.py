"""The same behaviour of a folder, memory, moto, OpenStack Swift, and a bucket of yours."""

import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallytrace.errors import EndpointError, InputError, MissingDependency, OutputError
from rallytrace.storage import add, expand, fetch, fetch_folder, fetched, is_url, open_store, publishing, stores
from rallytrace.storage.urls import glob_match
from tests.storage.conftest import BUCKET
from tests.storage.servers import SWIFT_SECRET, SWIFT_USER, Server, free_port

BIG = 20 << 20  # three parts


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "match.mp4"
    path.write_bytes(os.urandom(BIG))
    return path


def test_what_is_put_is_what_is_read(where: str) -> None:
    store = open_store(where)
    store.put("a/one two.mp4", b"hello")
    store.put("a/ü%20#+?.csv", b"")
    store.put("b.txt", b"x" * 100)
    entries = {entry.key: entry for entry in store.list()}
    assert {key: entry.size for key, entry in entries.items()} == {"a/one two.mp4": 5, "a/ü%20#+?.csv": 0, "b.txt": 100}
    assert [entry.key for entry in store.list("a")] == sorted(key for key in entries if key.startswith("a/"))
    assert list(store.list("a/one")) == []  # a prefix is a folder
    assert store.head("a/one two.mp4") == entries["a/one two.mp4"]
    assert (store.get("a/one two.mp4"), store.get_range("a/one two.mp4", 1, 3)) == (b"hello", b"ell")
    assert store.digest("a/one two.mp4") == hashlib.sha256(b"hello").hexdigest()
    before = entries["b.txt"].etag
    store.put("b.txt", b"y" * 100)
    found = store.head("b.txt")
    assert found is not None
    assert found.etag != before


def test_of_many_that_create_one_object_one_does(where: str, request: pytest.FixtureRequest) -> None:
    store = open_store(where)
    with ThreadPoolExecutor(1 if "swift" in request.node.name else 8) as pool:  # Swift has no way to do it at once
        told = list(pool.map(lambda n: store.create("a/000001.json", b"%d" % n), range(8)))
    assert sum(told) == 1
    assert store.get("a/000001.json") == b"%d" % told.index(True)
    assert [entry.key for entry in store.list()] == ["a/000001.json"]


def test_what_is_missing(where: str) -> None:
    store = open_store(where)
    store.put("a", b"1")
    store.delete("a")
    store.delete("a")
    assert (store.head("a"), list(store.list())) == (None, [])
    for read in (store.get, store.fetch, store.digest, lambda key: store.get_range(key, 0, 1)):
        with pytest.raises(InputError, match=r"a.* does not exist"):
            read("a")


def test_folders_that_a_console_made_are_none(moto_server: Server, use: Callable[[Server], str]) -> None:
    where = use(moto_server)
    name = where.rpartition("/")[2]
    for key in ("", "sub/", "sub/deep/"):
        moto_server.client().put_object(Bucket=BUCKET, Key=f"{name}/{key}")
    for key in ("sub/deep/a.mp4", "sub-1.mp4", "empty.csv"):
        open_store(where).put(key, b"" if key == "empty.csv" else b"x")
    assert [entry.key for entry in open_store(where).list()] == ["empty.csv", "sub-1.mp4", "sub/deep/a.mp4"]
    assert sorted(path.name for path in fetch_folder(where).rglob("*.*")) == ["a.mp4", "empty.csv", "sub-1.mp4"]


def test_a_password_in_an_address_is_not_shown() -> None:
    store = open_store("https://bob:s3cret@127.0.0.1:1/folder")
    assert "s3cret" not in store.url + store.name("a")
    with pytest.raises(InputError) as listed:
        list(store.list())
    with pytest.raises(OutputError) as put:
        store.put("a", b"")
    assert "s3cret" not in f"{listed.value} {put.value}"


def test_a_large_file_goes_in_parts_and_comes_back(where: str, big: Path) -> None:
    store, told = open_store(where), list[int]()
    store.put("raw/match.mp4", big, on_progress=told.append)
    assert (told[-1], sorted(told)) == (BIG, told)
    assert len(told) > 1
    local = store.fetch("raw/match.mp4")
    assert local.name == "match.mp4"
    assert local.read_bytes() == big.read_bytes()
    assert store.digest("raw/match.mp4") == hashlib.sha256(big.read_bytes()).hexdigest()
    assert fetch(f"{where}/raw/match.mp4") == local


def test_folders_files_and_patterns(where: str, tmp_path: Path) -> None:
    store = open_store(where)
    names = ["a.mp4", "b.MOV", "a_ball.csv", "day1/c.mp4", "day1/deep/d.mp4"]
    for name in names:
        store.put(name, name.encode())
    folder = fetch_folder(where)
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert found == sorted(names)
    assert folder.name == where.rpartition("/")[2]
    assert fetch(f"{where}/day1").is_dir()
    wanted = {
        "": ["a.mp4", "b.MOV"],
        "/*.mp4": ["a.mp4"],
        "/**/*.mp4": ["a.mp4", "day1/c.mp4", "day1/deep/d.mp4"],
        "/[ab]*.csv": ["a_ball.csv"],
        "/a.mp4": ["a.mp4"],
    }
    for pattern, keys in wanted.items():
        assert expand(where + pattern) == [f"{where}/{key}" for key in keys], pattern
    with pytest.raises(InputError, match="matches"):
        expand(f"{where}/*.avi")


def test_a_result_is_published_when_it_is_whole(where: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("2")
    if is_url(where):
        with pytest.raises(ZeroDivisionError), publishing(f"{where}/out") as folder:
            (folder / "half.csv").write_text(str(1 / 0))
    assert list(open_store(where).list()) == []
    with publishing(f"{where}/out") as folder:
        (folder / "sub").mkdir(parents=True)
        shutil.copy(tmp_path / "x.csv", folder / "sub")
        (folder / "manifest.json").write_text("{}")
    assert sorted(entry.key for entry in open_store(where).list()) == ["out/manifest.json", "out/sub/x.csv"]
    if is_url(where):
        with (
            pytest.raises(OutputError, match=r"x\.csv exists already"),
            publishing(f"{where}/out", overwrite=False) as f,
        ):
            shutil.copytree(tmp_path, f / "sub")
        assert open_store(where).get("out/sub/x.csv") == b"2"


def test_add_sends_nothing_twice(where: str, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    (clips / "day").mkdir(parents=True)
    for n in range(3):
        (clips / "day" / f"{n}.mp4").write_bytes(os.urandom(1000 + n))
    (clips / ".hidden").write_text("x")
    told: list[tuple[int, int, str]] = []
    report = add([clips], where, on_progress=lambda *each: told.append(each))
    assert (report.stored, report.kept, report.bytes) == (("day/0.mp4", "day/1.mp4", "day/2.mp4"), (), 3003)
    assert told[-1][:2] == (3003, 3003)
    (clips / "new.csv").write_text("1")
    before = {entry.key: entry.modified for entry in open_store(where).list()}
    report = add([clips], where)
    assert (report.stored, len(report.kept), report.bytes) == (("new.csv",), 3, 1)
    assert {entry.key: entry.modified for entry in open_store(where).list()}.items() > before.items()
    (clips / "day" / "0.mp4").write_bytes(os.urandom(1000))
    (clips / "more.csv").write_text("2")
    with pytest.raises(OutputError, match=r"has another day/0\.mp4"):
        add([clips], where)
    assert open_store(where).head("more.csv") is None
    assert add([clips], where, overwrite=True).stored == ("day/0.mp4", "more.csv")
    assert open_store(where).get("day/0.mp4") == (clips / "day" / "0.mp4").read_bytes()


def test_a_file_that_changes_while_it_is_sent_is_not_stored(where: str, tmp_path: Path) -> None:
    growing = tmp_path / "match.mp4"
    growing.write_bytes(bytes(BIG))

    def write(_: int) -> None:
        with open(growing, "r+b") as file:
            file.seek(BIG - 10)
            file.write(b"changed")

    store = open_store(where)
    if not is_url(where):
        pytest.skip("a copy to a folder is whatever was read")
    with pytest.raises(OutputError, match="was changed while"):
        store.put("match.mp4", growing, on_progress=write)
    assert store.head("match.mp4") is None


KEYS = ["", "/abs", "a//b", "../x", "a/../../x", ".", "a/.", "a\\b", "a\nb", "a\0b", "x" * 300, "/".join(["d"] * 600)]


@pytest.mark.parametrize("key", KEYS)
def test_keys_that_could_leave_the_folder_are_refused(key: str, tmp_path: Path) -> None:
    for where in (str(tmp_path / "store"), "memory:///x"):
        for use in (open_store(where).get, open_store(where).fetch, partial(open_store(where).put, data=b"")):
            with pytest.raises(InputError, match="cannot be the name"):
                use(key)


def test_a_bucket_with_hostile_names(moto_server: Server, use: Callable[[Server], str], tmp_path: Path) -> None:
    url = use(moto_server)
    prefix = url.removeprefix(f"s3://{BUCKET}/")
    moto_server.client().put_object(Bucket=BUCKET, Key=f"{prefix}/../../../evil", Body=b"x")
    with pytest.raises(InputError, match=r"no \.\. part|cannot be the name"):
        fetch_folder(url)
    assert not list(tmp_path.rglob("evil"))


@given(
    st.lists(st.sampled_from(["a", "ab", "b.mp4", "x"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["*", "**", "a", "a*", "?", "[ab]*", "*.mp4"]), min_size=1, max_size=4),
)
def test_patterns_mean_what_they_mean_for_paths(parts: list[str], pattern: list[str]) -> None:
    def by_hand(parts: list[str], pattern: list[str]) -> bool:
        """All ways to give each ** some parts."""
        spans = [range(len(parts) + 1) if part == "**" else [1] for part in pattern]
        ways: list[tuple[int, ...]] = [()]
        for span in spans:
            ways = [(*way, n) for way in ways for n in span if sum(way) + n <= len(parts)]
        for way in [way for way in ways if sum(way) == len(parts)]:
            at, good = 0, True
            for part, n in zip(pattern, way, strict=True):
                good &= part == "**" or Path(parts[at]).match(part)
                at += n
            if good:
                return True
        return False

    assert glob_match(parts, pattern) == by_hand(parts, pattern)


@pytest.mark.parametrize("user", ["", "stranger"])
def test_wrong_credentials_are_one_line_without_secrets(
    user: str, swift_server: Server, use: Callable[[Server], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = use(swift_server)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-1")
    if user:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", user)
    (tmp_path / "f").write_text("x")
    store = open_store(url)
    calls = (
        lambda: store.get("a"),
        lambda: store.put("a", b"1"),
        lambda: list(store.list()),
        lambda: fetch(f"{url}/a"),
        lambda: add([tmp_path / "f"], url),
    )
    for call in calls:
        with pytest.raises(InputError, match="refuses these credentials") as caught:
            call()
        text = str(caught.value)
        assert "\n" not in text
        assert not any(word in text for word in ("wrong-secret-1", SWIFT_SECRET, SWIFT_USER, "stranger", "Signature="))
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_no_credentials_at_all(
    use: Callable[[Server], str], moto_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = use(moto_server)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")  # obstore asks it last
    with pytest.raises(InputError, match="no credentials found"):
        open_store(url).get("a")


@pytest.mark.parametrize("kind", ["moto", "swift"])
def test_a_missing_bucket(
    kind: str, request: pytest.FixtureRequest, use: Callable[[Server], str], tmp_path: Path
) -> None:
    use(request.getfixturevalue(f"{kind}_server"))
    (tmp_path / "f").write_text("x")
    for call in (
        lambda: add([tmp_path / "f"], "s3://no-such-bucket/x"),
        lambda: fetch("s3://no-such-bucket/x/a.mp4"),
        lambda: fetch_folder("s3://no-such-bucket"),
        lambda: open_store("s3://no-such-bucket").put("a", b"1"),
    ):
        with pytest.raises(InputError, match="no such bucket"):
            call()


def test_a_server_that_is_not_there(use: Callable[[Server], str]) -> None:
    url = use(
        Server(
            "",
            {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
                "AWS_ACCESS_KEY_ID": "a",
                "AWS_SECRET_ACCESS_KEY": "b",
            },
        )
    )
    with pytest.raises(EndpointError, match="onnection refused"):
        open_store(url).get("a")


def test_plain_http_is_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example.com:9000")
    for url in ("s3://bucket/a", "http://example.com/a"):
        with pytest.raises(InputError, match="not encrypted"):
            open_store(url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    assert open_store("s3://bucket/a").url == "s3://bucket/a"


@pytest.mark.parametrize("url", ["s3://", "https:///x", "gs://"])
def test_a_url_without_a_name(url: str) -> None:
    with pytest.raises(InputError, match="no URL of a store"):
        open_store(url)


def test_without_obstore(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingDependency, match=r"pip install 'rallytrace\[store\]'"):
        fetch("s3://bucket/a.mp4")
    open_store(tmp_path).put("a", b"1")
    assert fetch(tmp_path / "a").read_bytes() == b"1"


def test_obstore_is_imported_for_urls_only() -> None:
    code = "import sys, rallytrace.cli, rallytrace.storage as s; s.expand('x*y.mp4'.replace('*','')); s.fetch('a');"
    code += "print([m for m in sys.modules if m.split('.')[0] in ('obstore', 'boto3')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    handler.func.log_message = lambda *_: None  # type: ignore[method-assign]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_web_server_is_read_only(web: str, tmp_path: Path) -> None:
    (tmp_path / "www" / "net one.onnx").write_bytes(b"net")
    assert fetch(f"{web}/net%20one.onnx").name == "net one.onnx"
    (tmp_path / "www" / "net one.onnx").write_bytes(b"another")
    os.utime(tmp_path / "www" / "net one.onnx", (time.time() + 5, time.time() + 5))
    with fetched(f"{web}/net%20one.onnx") as path:
        assert path.read_bytes() == b"another"
    assert expand(f"{web}/a.mp4?x=*") == [f"{web}/a.mp4?x=*"]
    with pytest.raises(InputError, match="does not exist"):
        fetch(f"{web}/none.onnx")
    with pytest.raises(InputError, match="does not list"):
        fetch_folder(web)
    with pytest.raises(OutputError, match="read only"):
        open_store(web).put("a", b"1")


def test_a_signed_address(swift_server: Server, use: Callable[[Server], str]) -> None:
    url = use(swift_server)
    open_store(url).put("a.onnx", b"net")
    key = f"{url.removeprefix(f's3://{BUCKET}/')}/a.onnx"
    signed = swift_server.client().generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": key})
    assert fetch(signed).read_bytes() == b"net"
    with pytest.raises(InputError, match="refuses these credentials") as caught:
        fetch(signed.replace("X-Amz-Signature=", "X-Amz-Signature=0"))
    assert "X-Amz" not in str(caught.value)


def test_a_profile_needs_boto3_and_is_used(
    moto_server: Server, use: Callable[[Server], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = use(moto_server)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    open_store(url).put("a", b"1")
    assert open_store(url).get("a") == b"1"
    stores._connect.cache_clear()
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", None)
    with pytest.raises(MissingDependency, match=r"rallytrace\[aws\]"):
        open_store(url)
