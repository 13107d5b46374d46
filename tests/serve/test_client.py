"""The client against a real server: exact points over bad roads, restarts and refusals; clear errors otherwise."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rallytrace import Tracker, load_network
from rallytrace.errors import EndpointError, InputError
from rallytrace.serve.client import AsyncClient, Client
from rallytrace.serve.client_session import JPEG_BYTES, KEY_EVERY, FrameEncoder
from rallytrace.serve.protocol import Codec, is_change, unpack_change
from rallytrace.types import BallPoint, Frame, Image
from rallytrace.video import decode_jpeg

from ..networks import Brightest, brightest_spec
from .endpoints import Fate, Proxy, ServerProcess, brightest_onnx, cuts, free_port

WH = (512, 288)  # of the source, and of what the network sees


def picture(ground: Image, i: int, rng: np.random.Generator) -> Image:
    """A ball over `ground`, with a little noise, so that pictures differ."""
    out = ground.astype(np.int16) + rng.integers(0, 9, ground.shape)
    h, w = ground.shape
    x, y = (37 + 9.3 * i) % (w - 40) + 20, h / 2 + h / 3 * np.sin(i / 8)
    rows, cols = np.indices((h, w))
    out += (110 * np.exp(-((cols - x) ** 2 + (rows - y) ** 2) / 8)).astype(np.int16)
    return np.clip(out, 0, 255).astype(np.uint8)


def make_frames(n: int, wh: tuple[int, int], *, cuts: set[int], repeats: set[int]) -> list[Frame]:
    rng = np.random.default_rng(5)
    frames: list[Frame] = []
    ground = np.zeros(1, np.uint8)
    for i in range(n):
        if not i or i in cuts:
            level = 20 if ground.mean() > 80 or not i else 120
            coarse = rng.integers(level, level + 40, (wh[1] // 8, wh[0] // 8))
            ground = np.kron(coarse, np.ones((8, 8))).astype(np.uint8)
        image = frames[-1].image if i in repeats else picture(ground, i, rng)
        frames.append(Frame(i, 0.25 + i / 30, image))
    return frames


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return make_frames(150, WH, cuts={70}, repeats=set(range(5, 150, 6)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brightest_onnx(tmp_path_factory.mktemp("weights") / "brightest.onnx")


@pytest.fixture(scope="module")
def expected(frames: list[Frame], weights: Path) -> list[BallPoint]:
    return tracked_here(frames, weights)


@pytest.fixture(scope="module")
def calm(frames: list[Frame]) -> list[Frame]:
    """With less noise, as of a camera whose pictures were compressed, so that changes are small."""
    return [replace(frame, image=frame.image // 64 * 64) for frame in frames]


def tracked_here(frames: list[Frame], weights: Path) -> list[BallPoint]:
    """The points, in-process."""
    tracker = Tracker(load_network(weights, threads=1), WH)
    return [point for frame in frames for point in tracker.push(frame)] + tracker.flush()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server"), "--weights", str(weights)) as running:
        yield running


def remote(client: Client, frames: list[Frame], **options: object) -> list[BallPoint]:
    with client.session(WH, **options) as tracker:
        assert tracker.transform.content_wh == WH
        assert tracker.colour == "grey"
        return [point for frame in frames for point in tracker.push(frame)] + tracker.flush()


# what it takes to go on elsewhere


@pytest.mark.parametrize(("live", "overlap"), [(False, 1), (False, 2), (True, 1)])
def test_a_fresh_tracker_goes_on_exactly(live: bool, overlap: int) -> None:
    """Fed from `keep_from` on, through cuts, repeats and still pictures; and what must be kept is bounded."""
    source = make_frames(760, (128, 80), cuts={60, 80}, repeats={*range(5, 760, 6), *range(300, 330)})

    small = replace(brightest_spec(), size_wh=(128, 80))

    def new() -> Tracker:
        return Tracker(Brightest(small), (128, 80), live=live, overlap=overlap, threshold=0.1)

    first, points, kept = new(), list[BallPoint](), []
    for frame in source:
        points += first.push(frame)
        kept.append((first.keep_from, len(points)))
    points += first.flush()
    assert all(i - keep < 620 for i, (keep, _) in enumerate(kept))
    assert kept[-1][0] > 80
    for i in (8, 59, 61, 79, 85, 310, 333, 470, 740):
        keep, given = kept[i]
        other = new()
        again = [point for frame in source[keep:] for point in other.push(frame)] + other.flush()
        assert again[given - keep :] == points[given:], i


def test_jpeg_follows_its_budget_and_repeats_cost_nothing() -> None:
    rng = np.random.default_rng(0)
    rich = [rng.integers(0, 120, WH[::-1]).astype(np.uint8) for _ in range(150)]
    plain = make_frames(40, WH, cuts=set(), repeats={7, 13})
    encoder = FrameEncoder("jpeg")
    assert len(encoder.encode(rich[0])) < JPEG_BYTES
    encoder = FrameEncoder("jpeg")
    assert len(encoder.encode(plain[0].image)) < JPEG_BYTES
    sizes = [len(encoder.encode(image)) for image in rich]
    assert sizes[0] > 2 * JPEG_BYTES
    assert sizes[-1] < JPEG_BYTES
    encoder = FrameEncoder("jpeg")
    payloads = [encoder.encode(frame.image) for frame in plain]
    assert [i for i, payload in enumerate(payloads) if not payload] == [7, 13]
    assert sum(map(len, payloads)) < JPEG_BYTES * len(payloads)
    assert np.abs(decode_jpeg(payloads[-1], "grey").astype(int) - plain[-1].image).mean() < 3
    assert FrameEncoder("raw").encode(plain[0].image) == plain[0].image.tobytes()


def unpacked(payloads: list[bytes]) -> list[Image]:
    """The pictures, as the server has them."""
    images: list[Image] = []
    for payload in payloads:
        if not payload:
            images.append(images[-1])
        elif is_change(payload):
            images.append(unpack_change(payload, images[-1]))
        else:
            images.append(decode_jpeg(payload, "grey"))
    return images


@pytest.mark.parametrize("codec", ["delta", "png"])
def test_one_array_for_all_frames(codec: Codec) -> None:
    """An encoder that kept a caller's array would see nothing but repeats in it."""
    array = np.empty((64, 96), np.uint8)
    reused, own = FrameEncoder(codec), FrameEncoder(codec)
    for i in range(6):
        picture = np.roll(np.arange(64 * 96).reshape(64, 96) % 251, 7 * i).astype(np.uint8)
        array[:] = picture
        payload = reused.encode(array)
        assert payload
        assert payload == own.encode(picture)


def test_changes_are_exact_and_small_until_there_are_too_many() -> None:
    """First a camera that stands still, then noise, then still once more."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 250, WH[::-1]).astype(np.uint8)
    still = [ground.copy() for _ in range(KEY_EVERY + 20)]
    for i, image in enumerate(still):
        image[100:130, i : i + 30] = 255
    noise = [rng.integers(0, 250, WH[::-1]).astype(np.uint8) for _ in range(60)]
    encoder = FrameEncoder("delta")
    payloads = [encoder.encode(image) for image in still]
    assert all(map(np.array_equal, unpacked(payloads), still))
    assert [i for i, payload in enumerate(payloads) if payload[:4] == b"\x89PNG"] == [0, KEY_EVERY + 1]
    assert sum(map(len, payloads)) < JPEG_BYTES / 10 * len(still)
    payloads += [encoder.encode(image) for image in noise]
    assert payloads[-1][:2] == b"\xff\xd8"
    assert sum(map(len, payloads)) < JPEG_BYTES * len(payloads)
    again = [encoder.encode(image) for image in still * 2]
    pictures = unpacked(payloads + again)
    assert is_change(again[-1])
    assert np.array_equal(pictures[-1], still[-1])
    colours = [np.stack([image, image, ground], -1) for image in still[:3]]
    rgb = FrameEncoder("delta")
    first, second = rgb.encode(colours[0]), rgb.encode(colours[1])
    assert np.array_equal(unpack_change(second, decode_jpeg(first)), colours[1])


# points


def test_lossless_is_exact(
    server: ServerProcess, frames: list[Frame], expected: list[BallPoint], calm: list[Frame], weights: Path
) -> None:
    with Client(server.url) as client:
        assert remote(client, frames, codec="raw") == expected
        assert remote(client, calm) == tracked_here(calm, weights)
        assert remote(client, frames[:1], codec="raw")[0].frame == 0
        assert client.models()[0]["name"] == "brightest"


def test_jpeg_is_close(server: ServerProcess, frames: list[Frame], expected: list[BallPoint]) -> None:
    with Client(server.url) as client:
        points = remote(client, frames, codec="jpeg")
    assert_close(points, expected)


def assert_close(points: list[BallPoint], expected: list[BallPoint], share: float = 0.98) -> None:
    """As many frames, and nearly all with the same ball within 0.5 px."""
    assert [(p.frame, p.pts_s) for p in points] == [(p.frame, p.pts_s) for p in expected]
    same = [
        (a.xy is None) == (b.xy is None) and (a.xy is None or b.xy is None or np.hypot(*np.subtract(a.xy, b.xy)) < 0.5)
        for a, b in zip(points, expected, strict=True)
    ]
    assert sum(p.xy is not None for p in expected) > len(expected) / 2
    assert np.mean(same) >= share


def test_async_client(server: ServerProcess, frames: list[Frame], expected: list[BallPoint]) -> None:
    """Two sessions at once in one loop, with points taken by another task."""

    async def track(client: AsyncClient) -> list[BallPoint]:
        points: list[BallPoint] = []

        async def take() -> None:
            while fresh := await session.receive():
                points.extend(fresh)

        async with client.session(WH, codec="png") as session:
            taker = asyncio.create_task(take())
            for frame in frames:
                points.extend(await session.push(frame))
            points.extend(await session.flush())
            await taker
        return points

    async def both() -> list[list[BallPoint]]:
        async with AsyncClient(server.url) as client:
            return await asyncio.gather(track(client), track(client))

    for points in asyncio.run(both()):
        assert points == expected


def test_options_travel(server: ServerProcess, frames: list[Frame], weights: Path) -> None:
    tracker = Tracker(load_network(weights, threads=1), WH, threshold=0.3, overlap=2, live=True)
    here = [point for frame in frames[:40] for point in tracker.push(frame)] + tracker.flush()
    with Client(server.url) as client:
        assert remote(client, frames[:40], codec="raw", threshold=0.3, overlap=2, live=True, model="brightest") == here


def test_wrong_frames(server: ServerProcess, frames: list[Frame]) -> None:
    with Client(server.url) as client, client.session(WH) as tracker:
        with pytest.raises(ValueError, match="frame 3 is pushed where 0 is due"):
            tracker.push(frames[3])
        with pytest.raises(ValueError, match="image must be grey of"):
            tracker.push(Frame(0, 0.0, np.zeros((10, 10), np.uint8)))


# bad roads


@pytest.mark.parametrize("seed", range(4))
def test_cut_connections_lose_and_double_nothing(
    seed: int, server: ServerProcess, frames: list[Frame], expected: list[BallPoint]
) -> None:
    """Cut anywhere: in the handshake, in the middle of a frame, between end and done."""
    low, high = ((1, 600), (1, 50_000), (100_000, 9_000_000), (2_000_000, 13_000_000))[seed]
    with Proxy(server.port, cuts(seed, 6, low, high)) as proxy, Client(proxy.url) as client:
        assert remote(client, frames, codec="raw") == expected
        assert proxy.connections > 1


def test_a_slow_road(server: ServerProcess, frames: list[Frame], expected: list[BallPoint]) -> None:
    with Proxy(server.port, lambda _: Fate(delay_s=0.003)) as proxy, Client(proxy.url) as client:
        assert remote(client, frames[:60], codec="jpeg")[-1].frame == 59


@pytest.mark.parametrize("codec", ["raw", "delta"])
def test_a_killed_server_is_replayed(
    codec: Codec, tmp_path: Path, frames: list[Frame], calm: list[Frame], weights: Path
) -> None:
    """kill -9 in the middle, and again when all frames are sent: same points, each once."""
    frames = calm if codec == "delta" else frames
    with ServerProcess(tmp_path, "--weights", str(weights)) as server, Client(server.url) as client:
        points: list[BallPoint] = []
        with client.session(WH, codec=codec) as tracker:
            for frame in frames:
                if frame.index == 40:
                    server.kill()
                    restart = threading.Timer(0.5, server.start)
                    restart.start()
                points += tracker.push(frame)
            restart.join()
            while not tracker._session._keep:  # type: ignore[union-attr]  # so that a replay begins in the middle
                time.sleep(0.01)
            server.kill()
            server.start()
            points += tracker.flush()
    assert points == tracked_here(frames, weights)


def test_patience_ends(tmp_path: Path, frames: list[Frame], weights: Path) -> None:
    with (
        ServerProcess(tmp_path, "--weights", str(weights)) as server,
        Client(server.url, deadline_s=1.0) as client,
        client.session(WH) as tracker,
    ):
        server.kill()
        with pytest.raises(EndpointError, match="refuses the connection"):
            [tracker.push(frame) for frame in frames]


BUSY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: %d\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
PLAIN = b"HTTP/1.1 %s\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"


def test_429_waits_as_long_as_it_is_told(server: ServerProcess, frames: list[Frame], expected: list[BallPoint]) -> None:
    began = time.monotonic()
    plan = lambda n: Fate(answer=BUSY % 1 if n < 2 else b"")  # noqa: E731
    with Proxy(server.port, plan) as proxy, Client(proxy.url) as client:
        assert remote(client, frames, codec="raw") == expected
        assert time.monotonic() - began >= 2
    with (
        Proxy(server.port, lambda _: Fate(answer=BUSY % 900)) as proxy,
        Client(proxy.url) as client,
        pytest.raises(EndpointError, match=r"busy \(HTTP 429\): try again in 900 s"),
        client.session(WH),
    ):
        pass


@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad Request", b"404 Not Found", b"426 Upgrade Required"])
def test_batches_where_no_web_socket_gets_through(
    status: bytes, server: ServerProcess, frames: list[Frame], expected: list[BallPoint]
) -> None:
    """A proxy that answers the upgrade itself. The background is then of the clip: points are close, not equal."""
    notices: list[str] = []
    plan = lambda n: Fate(answer=PLAIN % status if n == 0 else b"")  # noqa: E731
    with Proxy(server.port, plan) as proxy, Client(proxy.url, on_notice=notices.append) as client:
        points = remote(client, frames[:100] if status[:1] == b"2" else frames)
    assert [p.frame for p in points] == list(range(len(points)))
    assert_close(points, expected[: len(points)], share=0.9)
    assert len(notices) == 1
    assert "no WebSocket" in notices[0]
    assert all(b"Upgrade: websocket" not in head for head in proxy.heads[1:])


# refusals


def test_nobody_there() -> None:
    with Client(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(EndpointError, match="refuses the connection: check the address"), client.session(WH):
            pass
        with pytest.raises(EndpointError, match="refuses the connection"):
            client.models()


def test_unknown_model_and_wrong_option(server: ServerProcess) -> None:
    with Client(server.url) as client:
        with pytest.raises(EndpointError, match="nowhere"), client.session(WH, model="nowhere"):
            pass
        with pytest.raises(EndpointError, match="overlap must be between 1 and"), client.session(WH, overlap=9):
            pass
        with pytest.raises(InputError, match="codec is 'gif'"), client.session(WH, codec="gif"):
            pass


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://x", "https://", "http://x/?a=1"])
def test_malformed_addresses(url: str) -> None:
    with pytest.raises(InputError, match="expected a URL such as"):
        Client(url)


def test_malformed_fingerprints() -> None:
    with pytest.raises(InputError, match="64 hex digits"):
        Client("https://x", fingerprint="AB:CD")
    Client("https://x", fingerprint="SHA256:" + ":".join(["AB"] * 32)).close()


STARTED = (
    '{"type":"started","session":"s","model":"m","version":"1","content_wh":[512,288],"colour":"grey","next":0,'
    '"window":4}'
)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (["garbage"], "not JSON"),
        (['{"type":"done","frames":0}'], "expected 'started'"),
        (
            ['{"type":"error","code":"bad_request","message":"protocol 1,\\nexpected 2"}'],
            "protocol 1, expected 2",
        ),
        ([STARTED, '{"type":"points","points":[[7,0.1,null,null,0.1,"none"]],"next":1}'], "frame 7 came where 0 was"),
        ([STARTED, '{"type":"points","points":[[0,0.1,"x",2,0.1,"none"]],"next":1}'], "malformed points"),
        ([STARTED, '{"type":"done","frames":3}'], "done after 0 points of"),
        ([STARTED, *['{"type":"error","code":"internal","message":"broken"}'] * 9], "broken"),
    ],
    ids=["garbage", "out of turn", "version", "gap", "no point", "too early", "internal"],
)
def test_servers_that_break_the_rules(answers: list[str], words: str, frames: list[Frame]) -> None:
    async def answer(connection: websockets.ServerConnection) -> None:
        await connection.recv()
        for text in answers:
            await connection.send(text)
        await connection.wait_closed()

    async def main() -> None:
        async with websockets.serve(answer, "127.0.0.1", 0) as stub:
            port = stub.sockets[0].getsockname()[1]
            async with AsyncClient(f"http://127.0.0.1:{port}", deadline_s=20).session(WH) as session:
                for frame in frames[:2]:
                    await session.push(frame)
                await session.flush()

    with pytest.raises(EndpointError, match=words) as caught:
        asyncio.run(main())
    assert "\n" not in str(caught.value)


# certificates


def certificate(folder: Path, *, days: int) -> tuple[Path, str]:
    """A self-signed one (with its key) for localhost that ends in so many days; its fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=100))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{days}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + cert.public_bytes(serialization.Encoding.PEM))
    return path, hashlib.sha256(cert.public_bytes(serialization.Encoding.DER)).hexdigest()


class Listener:
    """Speaks TLS, and notes what it is told before it hangs up."""

    def __init__(self, pem: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._socket.getsockname()[1]}"
        self.heard = b""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            plain, _ = self._socket.accept()
            try:
                with self._context.wrap_socket(plain, server_side=True) as secure:
                    self.heard += secure.recv(4096)
                    secure.sendall(PLAIN % b"401 Unauthorized")
            except OSError:
                plain.close()


def refused(url: str, **options: object) -> str:
    with Client(url, api_key="secret", deadline_s=5, **options) as client:  # type: ignore[arg-type]
        with pytest.raises(EndpointError) as caught, client.session(WH):
            pass
        with pytest.raises(EndpointError):
            client.models()
    return str(caught.value)


@pytest.mark.parametrize(("days", "reason"), [(50, "self-signed certificate"), (-2, "expired|self-signed")])
def test_untrusted_certificates(days: int, reason: str, tmp_path: Path) -> None:
    pem, fingerprint = certificate(tmp_path, days=days)
    listener = Listener(pem)
    said = refused(listener.url)
    assert "not trusted" in said
    assert f"--fingerprint {fingerprint}" in said
    said = refused(listener.url, fingerprint="00" * 32)
    assert fingerprint in said
    assert "expected 0000" in said
    assert listener.heard == b""  # neither key nor anything else was told to an impostor
    assert "this API key is not accepted" in refused(listener.url, fingerprint=fingerprint)
    assert b"Bearer secret" in listener.heard
    with pytest.warns(UserWarning, match="not checked"):
        assert "this API key is not accepted" in refused(listener.url, insecure=True)


def test_expired_although_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem, fingerprint = certificate(tmp_path, days=-2)
    listener = Listener(pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    said = refused(listener.url)
    assert "expired" in said
    assert fingerprint in said


def test_a_trusted_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem, _ = certificate(tmp_path, days=50)
    listener = Listener(pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    assert "this API key is not accepted" in refused(listener.url)


def test_plain_where_tls_is_expected(server: ServerProcess) -> None:
    assert "speaks no TLS" in refused(server.url.replace("http:", "https:"))


def test_names_are_public_and_cost_nothing() -> None:
    code = (
        "import sys, rallytrace; heavy = {'httpx', 'websockets', 'fastapi', 'torch'} & set(sys.modules);"
        "assert not heavy, heavy; from rallytrace import AsyncClient, Client; print(Client, AsyncClient)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Client" in done.stdout, done.stderr
