"""Keys, TLS, limits: who may not is refused, early, in bounded time and memory, and nobody else notices."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallytrace.errors import EndpointError, InputError
from rallytrace.serve import hosting, jobs
from rallytrace.serve.app import ServeOptions
from rallytrace.serve.security import ANYONE, ApiError, ApiKey, KeyFile, RateLimit
from rallytrace.web.tls import fingerprint, self_signed, tls_context
from tests.serve.conftest import Running, running

KIND = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, KeyFile]]:
    keys = KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")
    keys.add(["admin"])
    with running(keys=keys.path, max_body=1 << 20, read_timeout_s=1.0) as server:
        yield server, keys


def test_a_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "deep" / "keys.json")
    secret = keys.add(["track"], note="mine")
    text = keys.path.read_text()
    assert secret not in text
    assert secret.split("_", 2)[2] not in text
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    found = keys.check(secret)
    assert found is not None
    assert (found.scopes, found.note) == (("track",), "mine")
    assert len(secret.split("_", 2)[2]) == 43  # 256 bits
    with pytest.raises(InputError, match="expected some of"):
        keys.add(["root"])
    with pytest.raises(InputError, match="no key"):
        keys.revoke("00000000")


@given(st.text(max_size=60) | st.from_regex(r"rt_[0-9a-f]{8}_[\w-]{43}", fullmatch=True))
def test_other_texts_are_no_keys(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        keys = KeyFile(Path(folder) / "keys.json")
        keys.add(["track"])
        assert keys.check(text) is None


@pytest.mark.parametrize("text", ["", "[]", '{"keys": [{}]}', '{"keys": 3}', "\xff"])
def test_a_broken_key_file_lets_nobody_in(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="not a file of API keys"):
        KeyFile(path).check("rt_00000000_" + "x" * 43)


def test_scopes_and_ways_to_say_a_key(guarded: tuple[Running, KeyFile]) -> None:
    server, keys = guarded
    track, metrics = keys.add(["track"]), keys.add(["metrics"])
    ways = ({"authorization": f"Bearer {track}"}, {"x-api-key": track}, {"x-amz-security-token": track})
    for headers in ways:
        assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200
    for path, key, status in (
        ("/v1/models", "", 401),
        ("/v1/models", track[:-1] + ("a" if track[-1] != "a" else "b"), 401),
        ("/v1/models", track[:-1] + "\u00e9", 401),
        ("/v1/models", metrics, 403),
        ("/metrics", track, 403),
        ("/metrics", metrics, 200),
        ("/ping", "", 200),
        ("/health", "", 200),
    ):
        headers_raw = [(b"x-api-key", key.encode())]
        answer = httpx.get(server.url + path, headers=headers_raw)
        assert answer.status_code == status, (path, answer.text)
    assert httpx.get(f"{server.url}/v1/models").headers["www-authenticate"] == "Bearer"


def test_a_revoked_key_ends_at_once(guarded: tuple[Running, KeyFile]) -> None:
    server, keys = guarded
    secret = keys.add(["track"])
    headers = {"x-api-key": secret}
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200
    keys.revoke(secret.split("_")[1])
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 401


def test_a_key_may_ask_so_often_and_others_do_not_notice(guarded: tuple[Running, KeyFile]) -> None:
    server, keys = guarded
    hasty, calm = keys.add(["track"], rate=1), keys.add(["track"])
    statuses = [httpx.get(f"{server.url}/v1/models", headers={"x-api-key": hasty}).status_code for _ in range(6)]
    assert statuses[:2] == [200, 200]
    assert 429 in statuses
    assert httpx.get(f"{server.url}/v1/models", headers={"x-api-key": calm}).status_code == 200


def test_tokens_come_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("rallytrace.serve.security.time.monotonic", lambda: now[0])
    limit, key = RateLimit(), ApiKey("k", "", ("track",), 2.0, "")
    for _ in range(4):
        limit.take(key)
    with pytest.raises(ApiError) as refused:
        limit.take(key)
    assert refused.value.retry_after_s == pytest.approx(0.5)
    now[0] += 0.5
    limit.take(key)
    with pytest.raises(ApiError):
        limit.take(key)
    for _ in range(100):
        limit.take(ANYONE)


def test_other_machines_need_keys() -> None:
    with pytest.raises(InputError, match="rallytrace keys add"):
        ServeOptions(host="0.0.0.0")
    ServeOptions(host="0.0.0.0", no_keys=True)
    with pytest.raises(InputError, match="--cert and --key"):
        ServeOptions(cert=Path("x"))


def test_without_keys_only_local_names_and_our_own_page_are_answered(shared_server: Running) -> None:
    for headers in (
        {"host": "evil.example"},
        {"host": "evil.example:80"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ):
        answer = httpx.get(f"{shared_server.url}/v1/models", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    host = shared_server.url.split("://")[1]
    for headers in ({"host": "localhost"}, {"host": "[::1]:80"}, {"host": host, "origin": f"http://{host}"}):
        assert httpx.get(f"{shared_server.url}/v1/models", headers=headers).status_code == 200


def test_answers_have_security_headers(shared_server: Running) -> None:
    for path in ("/ping", "/v1/models", "/nope"):
        headers = httpx.get(shared_server.url + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "server" not in headers


def test_the_access_log_has_no_secrets(guarded: tuple[Running, KeyFile], caplog: pytest.LogCaptureFixture) -> None:
    server, keys = guarded
    secret = keys.add(["track"])
    with caplog.at_level(logging.INFO, "rallytrace.access"):
        httpx.get(f"{server.url}/v1/models?token=hush", headers={"authorization": f"Bearer {secret}"})
        until = time.monotonic() + 10  # a line is written after its answer
        while not (lines := [json.loads(r.message) for r in caplog.records if r.name == "rallytrace.access"]):
            assert time.monotonic() < until
            time.sleep(0.01)
    assert (lines[-1]["path"], lines[-1]["status"], lines[-1]["key"]) == ("/v1/models", 200, secret.split("_")[1])
    assert secret not in caplog.text
    assert "hush" not in caplog.text


# ---- bodies -------------------------------------------------------------------------------------------------------


def raw(server: Running, head: str, timeout_s: float = 30) -> socket.socket:
    host, port = server.url.split("://")[1].split(":")
    connection = socket.create_connection((host, int(port)), timeout=timeout_s)
    connection.sendall(head.replace("\n", "\r\n").encode())
    return connection


def read_all(connection: socket.socket) -> bytes:
    data = b""
    try:
        while chunk := connection.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def test_a_gigabyte_that_is_announced_is_refused_before_it_is_sent(guarded: tuple[Running, KeyFile]) -> None:
    server, _ = guarded
    head = f"POST /invocations HTTP/1.1\nhost: localhost\ncontent-type: application/json\ncontent-length: {1 << 30}\n\n"
    with raw(server, head) as connection:
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] == "too_large"


def test_a_gigabyte_in_chunks_is_refused_after_the_limit(guarded: tuple[Running, KeyFile]) -> None:
    server, keys = guarded
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1 << 14):
            sent += 1 << 16
            yield b"0" * (1 << 16)

    headers = {**KIND, "x-api-key": keys.add(["track"])}
    try:
        answer = httpx.post(f"{server.url}/invocations", content=chunks(), headers=headers, timeout=30)
        assert answer.status_code == 413
    except httpx.TransportError:  # the connection was closed on what was still coming
        pass
    assert sent < 256 << 20


def test_a_body_without_a_key_is_not_read(guarded: tuple[Running, KeyFile]) -> None:
    server, _ = guarded
    head = "POST /v1/track HTTP/1.1\nhost: localhost\ncontent-length: 1000000000\n\n"
    with raw(server, head) as connection:
        assert read_all(connection).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("length", ["-1", "1e9", "99999999999999999999999", "abc"])
def test_lengths_that_are_none_are_refused(guarded: tuple[Running, KeyFile], length: str) -> None:
    with raw(guarded[0], f"POST /invocations HTTP/1.1\nhost: localhost\ncontent-length: {length}\n\n") as connection:
        answer = read_all(connection)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["message"]


def test_a_body_that_trickles_is_given_up(guarded: tuple[Running, KeyFile]) -> None:
    server, keys = guarded
    key = keys.add(["track"])
    head = f"POST /invocations HTTP/1.1\nhost: localhost\nx-api-key: {key}\ncontent-type: application/json\n"
    with raw(server, head + "content-length: 1000\n\n") as connection:
        with pytest.raises((BrokenPipeError, ConnectionResetError, StopIteration)):
            _trickle(connection, b"0")
        assert httpx.get(f"{server.url}/ping").status_code == 200


def test_a_head_that_trickles_is_given_up(guarded: tuple[Running, KeyFile]) -> None:
    gone = (BrokenPipeError, ConnectionResetError, StopIteration)
    with raw(guarded[0], "GET /ping HTTP/1.1\n") as connection, pytest.raises(gone):
        _trickle(connection, b"x-a: b\r\n")


def _trickle(connection: socket.socket, piece: bytes) -> None:
    """A piece every 0.1 s, for half a minute; raises where the server is gone."""
    connection.settimeout(0.1)
    for _ in range(300):
        connection.sendall(piece)
        try:
            if not connection.recv(65536):
                raise StopIteration
        except TimeoutError:
            continue


def test_a_huge_head_is_refused(guarded: tuple[Running, KeyFile]) -> None:
    with raw(guarded[0], "GET /ping HTTP/1.1\nhost: localhost\n") as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"x-a: " + b"b" * (4 << 20) + b"\r\n\r\n")
        assert read_all(connection)[:12] in (b"HTTP/1.1 400", b"")


def test_connections_are_bounded(serve: Callable[..., Running]) -> None:
    server = serve(max_connections=5)
    opened = [raw(server, "") for _ in range(12)]
    time.sleep(0.2)
    assert len(server.server.server_state.connections) <= 5
    for connection in opened:
        connection.close()
    assert httpx.get(f"{server.url}/ping").status_code == 200


def test_bodies_in_memory_are_bounded_together(serve: Callable[..., Running]) -> None:
    server = serve(max_held=1000)
    answer = httpx.post(f"{server.url}/invocations", content=b"0" * 5000, headers=KIND)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "busy")
    form = httpx.post(f"{server.url}/invocations", files=[("frames", (f"{i}.jpg", b"0" * 500)) for i in range(4)])
    assert (form.status_code, form.json()["error"]["code"]) == (429, "busy")
    assert server.services._held.held == 0


def test_only_allowed_addresses_are_fetched(tmp_path: Path) -> None:
    allowed = ["s3://bucket/videos"]
    for url in (
        "s3://bucket/other.mp4",
        "s3://bucket/videos2/x.mp4",
        "s3://bucket/videos/../secret.mp4",
        "s3://bucket2/videos/x.mp4",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "/etc/passwd",
    ):
        with pytest.raises(ApiError, match="does not fetch"):
            jobs.fetch(url, allowed, tmp_path / "x", 1000)


# ---- TLS ----------------------------------------------------------------------------------------------------------


def test_a_certificate_is_made_once_and_kept(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path, ["ball.example", "10.1.2.3"])
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = fingerprint(cert)
    assert self_signed(tmp_path, ["ball.example"])[0] == cert
    assert fingerprint(cert) == before
    self_signed(tmp_path, ["new.example"])
    assert fingerprint(cert) != before
    pem = cert.read_text()
    assert fingerprint(cert) == hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def test_the_made_certificate_is_trusted_by_who_knows_it(serve: Callable[..., Running], tmp_path: Path) -> None:
    server = serve(tls_self_signed=True, state=tmp_path)
    knows = ssl.create_default_context(cafile=str(tmp_path / "endpoint.crt"))
    for host in ("127.0.0.1", "localhost"):
        assert httpx.get(server.url.replace("127.0.0.1", host) + "/ping", verify=knows).status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{server.url}/ping")
    assert tls_context(tmp_path / "endpoint.crt", tmp_path / "endpoint.key").minimum_version == ssl.TLSVersion.TLSv1_2


def test_an_expired_certificate_is_refused_by_clients(serve: Callable[..., Running], tmp_path: Path) -> None:
    cert, key = _expired(tmp_path)
    server = serve(cert=cert, key=key)
    with pytest.raises(httpx.ConnectError, match="expired"):
        httpx.get(f"{server.url}/ping", verify=ssl.create_default_context(cafile=str(cert)))


def _expired(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    cert, key = self_signed(folder, [])
    private: Any = serialization.load_pem_private_key(key.read_bytes(), None)
    old, now = x509.load_pem_x509_certificate(cert.read_bytes()), datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(old.issuer, old.subject, private.public_key(), 7)
    builder = builder.not_valid_before(now - datetime.timedelta(days=9)).not_valid_after(
        now - datetime.timedelta(days=1)
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    cert.write_bytes(builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return cert, key


def test_tls_files_that_are_none_are_one_clear_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("x")
    command = [sys.executable, "-m", "rallytrace", "serve", "--cert", str(bad), "--key", str(bad), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot use")
    assert len(done.stderr.splitlines()) == 1


# ---- hosting ------------------------------------------------------------------------------------------------------


def test_the_containers_entry_point_satisfies_sagemaker(tmp_path: Path) -> None:
    """`serve` with nothing but SageMaker's files and environment: docker/entrypoint.sh as a process."""
    import shutil

    from rallytrace.runtime import bundled
    from tests.serve.conftest import WAIT_S, is_warm, wait_until

    model = tmp_path / "ml" / "model"
    model.mkdir(parents=True)
    shutil.copy(bundled()["window3"], model / "mine.onnx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).parents[2] / "docker" / "entrypoint.sh"
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    env = {"PATH": path, "SAGEMAKER_BASE_DIR": str(tmp_path / "ml"), "SAGEMAKER_BIND_TO_PORT": str(port)}
    env["OMP_NUM_THREADS"] = "1"
    process = subprocess.Popen(["sh", str(script), "serve"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: is_warm(f"http://127.0.0.1:{port}"), "GET /ping", WAIT_S)
        models = httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["models"]
        assert models[0]["name"] == "mine"
        body = json.dumps([[[[0.5] * 32] * 32] * 9])
        answer = httpx.post(f"http://127.0.0.1:{port}/invocations", content=body, headers=KIND)
        assert answer.status_code == 200
        assert len(answer.json()["predictions"][0]) == 32
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_what_sagemaker_says_is_obeyed(tmp_path: Path) -> None:
    env = {"SAGEMAKER_BASE_DIR": str(tmp_path)}
    assert not hosting.sagemaker_options(env)["no_keys"]  # not on SageMaker: then callers are ours to check
    (tmp_path / "model").mkdir()
    more = {
        "SAGEMAKER_BIND_TO_PORT": "7000",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT": "30",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "6",
    }
    options = ServeOptions(
        **hosting.sagemaker_options({**env, **more, "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"})
    )
    assert (options.host, options.port, options.no_keys) == ("0.0.0.0", 7000, True)
    assert (options.request_timeout_s, options.max_body, options.default_accept) == (30, 6 << 20, "text/csv")
    with pytest.raises(InputError, match="positive number"):
        hosting.sagemaker_options({**env, "SAGEMAKER_BIND_TO_PORT": "x"})
    (tmp_path / "model" / "saved_model.pb").touch()
    with pytest.raises(InputError, match=r"holds no \.onnx"):
        hosting.sagemaker_options(env)


def test_keys_are_made_listed_and_revoked_on_the_command_line(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "rallytrace", "keys", *arguments, "--keys", str(tmp_path / "k.json")]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    secret = run("add", "--scopes", "track,admin", "--note", "mine").strip()
    name = secret.split("_")[1]
    assert KeyFile(tmp_path / "k.json").check(secret) is not None
    listed = run("list")
    assert name in listed
    assert "mine" in listed
    assert secret not in listed
    run("revoke", name)
    assert KeyFile(tmp_path / "k.json").check(secret) is None


def test_a_store_that_does_not_answer_is_a_bad_gateway() -> None:
    """Not an error of this server, and nothing that the caller's request could be blamed for."""
    error = ApiError.of(EndpointError("s3://clips does not answer"))
    assert (error.status, error.code, str(error)) == (502, "store", "s3://clips does not answer")
