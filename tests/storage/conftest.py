"""A server for each kind, started once; a bucket's fresh folder for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rallytrace.storage import stores
from tests.storage.servers import Proxy, Server, azurite, moto, proxy, swift, why_no_swift

BUCKET = "rallytrace-tests"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No test sees the machine's credentials or cache, nor another test's connections."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "RALLYTRACE_CACHE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stores._connect.cache_clear()
    yield tmp_path / "cache" / "rallytrace"
    stores._connect.cache_clear()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Server]:
    with moto() as server:
        server.client().create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if why := why_no_swift():
        (pytest.fail if os.environ.get("RALLYTRACE_REQUIRE_SWIFT") else pytest.skip)(f"no Swift here: {why}")
    with swift(tmp_path_factory.mktemp("swift")) as server:
        server.client().create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(scope="session")
def azure() -> Iterator[str]:
    """Of whom has it: RALLYTRACE_TEST_AZURITE is the path of azurite-blob."""
    with azurite(REAL.get("RALLYTRACE_TEST_AZURITE") or pytest.skip("no RALLYTRACE_TEST_AZURITE"), BUCKET) as url:
        yield url


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], str]:
    """Points this process at a server; returns the URL of a folder in it that nobody else uses."""

    def point(server: Server) -> str:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        return f"s3://{BUCKET}/{uuid.uuid4().hex}"

    return point


@pytest.fixture
def broken(moto_server: Server, use: Callable[[Server], str]) -> Iterator[tuple[str, Proxy]]:
    """A folder of moto behind the proxy, which breaks what a test tells it to."""
    with proxy(moto_server) as (between, server):
        yield use(server), between


@pytest.fixture
def google(moto_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder of gs://, which is moto's S3 by Google's headers: no emulator of PyPI, Debian or npm has the XML API."""
    with proxy(moto_server, google=True) as (between, _):
        monkeypatch.setenv("GOOGLE_BASE_URL", between.url)
        monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "token")
        yield f"gs://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["folder", "memory", "moto", "swift", "google", "azure", "real"])
def where(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    use: Callable[[Server], str],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """A fresh place in each kind of store. "real" is a bucket of yours: RALLYTRACE_TEST_S3_URL, with credentials."""
    if request.param in ("folder", "memory"):
        return str(tmp_path / "store") if request.param == "folder" else f"memory:///{uuid.uuid4().hex}"
    if request.param == "google":
        return str(request.getfixturevalue("google"))
    if request.param == "azure":
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        return f"{request.getfixturevalue('azure')}/{uuid.uuid4().hex}"
    if request.param == "real":
        url = REAL.get("RALLYTRACE_TEST_S3_URL") or pytest.skip("RALLYTRACE_TEST_S3_URL names no bucket to test on")
        return f"{use(Server('', {k: v for k, v in REAL.items() if k.startswith('AWS_')})) and url}/{uuid.uuid4().hex}"
    return use(request.getfixturevalue(f"{request.param}_server"))


REAL = dict(os.environ)
