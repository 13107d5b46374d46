"""S3-compatible servers to test against: moto, OpenStack Swift with its s3api, and a proxy that breaks things."""

from __future__ import annotations

import base64
import hmac
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

SWIFT_USER, SWIFT_SECRET = "test:tester", "testing-2f8c1d"
SWIFT_PARTS = ("account", "container", "object")
FILTERS = "catch_errors gatekeeper healthcheck cache listing_formats s3api tempauth copy slo dlo versioned_writes"


@dataclass(frozen=True)
class Server:
    """A running server. env: what a client needs to find it and to be let in."""

    url: str
    env: dict[str, str]

    def client(self) -> Any:
        """boto3's, to look at what is really there."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region_name=self.env["AWS_REGION"],
            config=Config(s3={"addressing_style": "path"}, signature_version="s3v4"),
        )


def _environment(url: str, user: str, secret: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": user,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def moto() -> Iterator[Server]:
    """moto's HTTP server: real requests, signatures unchecked."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        yield Server(url, _environment(url, "AKIATESTING", "secret-of-moto"))
    finally:
        server.stop()


def why_no_swift() -> str | None:
    """The reason why Swift cannot be started here; None where it can."""
    missing = [name for name in ("swift-proxy-server", "swift-object-server", "memcached") if not shutil.which(name)]
    if not missing:
        return None
    packages = "swift-proxy swift-account swift-container swift-object memcached"
    return f"{', '.join(missing)} missing: apt-get install --no-install-recommends {packages}"


@contextmanager
def swift(folder: Path) -> Iterator[Server]:
    """OpenStack Swift with its s3api middleware: real SigV4, real processes, one replica, all in `folder`."""
    ports = {name: free_port() for name in (*SWIFT_PARTS, "proxy", "memcached")}
    _rings(folder, ports)
    _configure(folder, ports)
    commands = [["memcached", "-l", "127.0.0.1", "-p", str(ports["memcached"]), "-u", "nobody"]]
    commands += [[f"swift-{name}-server", str(folder / f"{name}.conf")] for name in (*SWIFT_PARTS, "proxy")]
    log = open(folder / "log", "wb")  # noqa: SIM115 - open while the processes are
    processes = [subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) for command in commands]
    try:
        for port in ports.values():
            _wait_for(port, folder / "log")
        url = f"http://127.0.0.1:{ports['proxy']}"
        yield Server(url, _environment(url, SWIFT_USER, SWIFT_SECRET))
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
        for process in processes:
            process.wait(30)
        log.close()


@contextmanager
def azurite(command: str, container: str) -> Iterator[str]:
    """Azure's own emulator of its blob store (npm install azurite), with a container, on the port that is its own."""
    process = subprocess.Popen(
        [command, "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"], start_new_session=True
    )
    try:
        _wait_for(10000, Path(os.devnull))
        account = "devstoreaccount1"  # and its key: the same on every machine
        key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        asked = f"x-ms-date:{date}\nx-ms-version:2021-08-06\n/{account}/{account}/{container}\nrestype:container"
        signed = hmac.digest(base64.b64decode(key), ("PUT" + "\n" * 12 + asked).encode(), "sha256")
        headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
        headers["authorization"] = f"SharedKey {account}:{base64.b64encode(signed).decode()}"
        url = f"http://127.0.0.1:10000/{account}/{container}?restype=container"
        httpx.put(url, headers=headers).raise_for_status()
        yield f"az://{container}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def _rings(folder: Path, ports: dict[str, int]) -> None:
    """In one process of the Debian Python that has swift: its command line starts a Python for each step."""
    code = "import sys\nfrom swift.common.ring import RingBuilder\n" + "".join(
        "b = RingBuilder(4, 1, 1)\n"
        f"b.add_dev(dict(region=1, zone=1, ip='127.0.0.1', port={ports[name]}, device='d1', weight=1.0))\n"
        f"b.rebalance()\nb.get_ring().save(sys.argv[1] + '/{name}.ring.gz')\n"
        for name in SWIFT_PARTS
    )
    subprocess.run(["/usr/bin/python3", "-c", code, str(folder)], check=True, capture_output=True)


def _configure(folder: Path, ports: dict[str, int]) -> None:
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = tests\n"
        "[storage-policy:0]\nname = one\ndefault = yes\n[swift-constraints]\nmax_file_size = 5368709122\n"
    )
    user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
    (folder / "srv" / "d1").mkdir(parents=True)
    common = (
        f"[DEFAULT]\nbind_ip = 127.0.0.1\nworkers = 1\nuser = {user}\nswift_dir = {folder}\n"
        f"devices = {folder}/srv\nmount_check = false\nlog_address = /dev/null\nfallocate_reserve = 0\n"
    )
    for name in SWIFT_PARTS:
        (folder / f"{name}.conf").write_text(
            f"{common}bind_port = {ports[name]}\n[pipeline:main]\npipeline = {name}-server\n"
            f"[app:{name}-server]\nuse = egg:swift#{name}\n"
        )
    filters = "".join(
        f"[filter:{name}]\nuse = egg:swift#{'memcache' if name == 'cache' else name}\n{_settings(name, ports)}"
        for name in FILTERS.split()
    )
    (folder / "proxy.conf").write_text(
        f"{common}bind_port = {ports['proxy']}\n[pipeline:main]\npipeline = {FILTERS} proxy-server\n{filters}"
        "[app:proxy-server]\nuse = egg:swift#proxy\nallow_account_management = true\naccount_autocreate = true\n"
    )


def _settings(name: str, ports: dict[str, int]) -> str:
    user = SWIFT_USER.replace(":", "_")
    return {
        "cache": f"memcache_servers = 127.0.0.1:{ports['memcached']}\n",
        "s3api": "location = us-east-1\n",
        "tempauth": f"user_{user} = {SWIFT_SECRET} .admin\n",
    }.get(name, "")


def _wait_for(port: int, log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"nothing listens on port {port}: {log.read_text(errors='replace')[-2000:]}")


@dataclass
class Fault:
    """What a proxy does to one request. status: answered instead of asking the server. cut_after: bytes of the answer's
    body, then the connection is closed. cut_request: closed before the request is read. damage: a byte of the answer's
    body is another one."""

    status: int = 0
    code: str = ""
    cut_after: int | None = None
    cut_request: bool = False
    damage: bool = False


@dataclass
class Proxy:
    """Between client and server. plan(method, target, n) tells the fault of the n-th request, None for none."""

    url: str
    plan: Callable[[str, str, int], Fault | None] = lambda *_: None
    requests: list[tuple[str, str]] = field(default_factory=list)

    def methods(self) -> list[str]:
        return [method for method, _ in self.requests]

    def forget(self) -> None:
        self.requests.clear()
        self.sent = self.received = 0

    sent: int = 0  # bytes of answers' bodies
    received: int = 0  # bytes of requests' bodies
    google: str = ""  # who asks the server behind, where it is spoken to as Google


@contextmanager
def proxy(server: Server, google: bool = False) -> Iterator[tuple[Proxy, Server]]:
    """In front of `server`: counts requests and breaks those that its plan names. The Host header stays the
    client's own, so signatures hold. google: it is spoken to as to Google Cloud Storage, whose XML API is that of S3
    with other headers (cloud.google.com/storage/docs/xml-api/overview)."""
    port = free_port()
    seen = Proxy(f"http://127.0.0.1:{port}")
    if google:
        seen.google = f"{server.env['AWS_ACCESS_KEY_ID']}/20260101/us-east-1/s3/aws4_request"
    target = int(server.url.rpartition(":")[2])
    listener = socket.create_server(("127.0.0.1", port))
    stop = threading.Event()

    def accept() -> None:
        while not stop.is_set():
            with suppress(OSError):
                client, _ = listener.accept()
                threading.Thread(target=_serve, args=(client, target, seen), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield seen, Server(seen.url, server.env | {"AWS_ENDPOINT_URL": seen.url})
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def _serve(client: socket.socket, target: int, seen: Proxy) -> None:
    """One request after the other of one connection; each gets a connection of its own to the server."""
    with client, suppress(OSError, EOFError), client.makefile("rb") as reader:
        while True:
            head, fields = _head(reader)
            method, path, _ = head.split(" ", 2)
            seen.requests.append((method, path))
            fault = seen.plan(method, path, len(seen.requests)) or Fault()
            if fault.cut_request:
                reader.read(min(1000, int(fields.get("content-length", 0))))
                return
            length = int(fields.get("content-length", 0))
            body = reader.read(length)
            seen.received += len(body)
            if len(body) < length:
                return
            if fault.status:
                _refuse(client, fault)
                continue
            _forward(client, target, seen, (head, fields, body), fault)
            if fault.cut_after is not None:
                return


def _head(reader: Any) -> tuple[str, dict[str, str]]:
    line = reader.readline().decode("latin-1").rstrip("\r\n")
    if not line:
        raise EOFError
    fields = {}
    while text := reader.readline().decode("latin-1").rstrip("\r\n"):
        name, _, value = text.partition(":")
        fields[name.lower()] = value.strip()
    return line, fields


def _refuse(client: socket.socket, fault: Fault) -> None:
    body = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
    head = f"HTTP/1.1 {fault.status} Injected\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)


def _forward(
    client: socket.socket, target: int, seen: Proxy, asked: tuple[str, dict[str, str], bytes], fault: Fault
) -> None:
    head, fields, body = asked
    fields = fields | {"connection": "close"}
    fields.pop("expect", None)
    if seen.google:
        head = head.replace("%2D", "-")  # moto decodes keys, but no buckets
        fields["authorization"] = f"AWS4-HMAC-SHA256 Credential={seen.google}, SignedHeaders=host, Signature=0"
        fields = {name.replace("x-goog-meta-", "x-amz-meta-"): value for name, value in fields.items()}
        if fields.pop("x-goog-if-generation-match", "") == "0":
            fields["if-none-match"] = "*"
    lines = [head, *(f"{name}: {value}" for name, value in fields.items())]
    with socket.create_connection(("127.0.0.1", target), timeout=60) as server:
        server.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)
        with server.makefile("rb") as answer:
            status, answered = _head(answer)
            answered.pop("connection", None)
            if seen.google:
                answered = {name.replace("x-amz-meta-", "x-goog-meta-"): value for name, value in answered.items()}
            chunked = "chunked" in answered.pop("transfer-encoding", "")
            data = _unchunk(answer) if chunked else None
            if data is not None:
                answered["content-length"] = str(len(data))
            empty = head.startswith("HEAD") or status.split()[1] in ("204", "304")
            left = 0 if empty else int(answered.get("content-length", 0))
            lines = [status, *(f"{name}: {value}" for name, value in answered.items())]
            client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            allowed = left if fault.cut_after is None else min(left, fault.cut_after)
            while allowed:
                piece = data[:allowed] if data is not None else answer.read(min(allowed, 1 << 16))
                if not piece:
                    return
                seen.sent += len(piece)  # before the client can have it, and the test can go on and count
                client.sendall(bytes([piece[0] ^ 1]) + piece[1:] if fault.damage else piece)
                allowed -= len(piece)


def _unchunk(answer: Any) -> bytes:
    data = b""
    while size := int(answer.readline().split(b";")[0], 16):
        data += answer.read(size)
        answer.readline()
    return data
