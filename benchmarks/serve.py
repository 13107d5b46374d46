"""What the server gives: the network on CPU and GPU, both wire formats on one server, many live sessions at once.

    python benchmarks/serve.py [--sessions 16] [--seconds 20] [--threads N] [--workers N] [--device auto]

Wire formats: bytes and time per frame of our stream (JPEG) and of the AWS sample's client (JSON of three frames), for
the same pictures and network. Sessions: frames per second of each, all sending as fast as they may. All on one machine;
quote the ratios. Memory over time: benchmarks/endpoint.py --soak.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from websockets.asyncio.client import connect

sys.path.insert(0, str(Path(__file__).parent.parent))

from runs.cost import frame_ms

from rallytrace import RallyOptions, RallytraceError, load_network, make_clip, video
from rallytrace.serve import protocol
from rallytrace.serve.protocol import Done, End, Points, Start, Started
from rallytrace.types import Image

CLIP = RallyOptions(wh=(512, 288), seconds=4.0, seed=3)


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """URL of a warm server."""
    command = [sys.executable, "-m", "rallytrace", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    url = next(line.split()[-1] for line in process.stdout if line.startswith("listening on"))
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


async def stream(url: str, payloads: list[bytes], model: str, until: float, live: bool) -> tuple[int, float, int]:
    """Send the pictures over and over until the time is up. Returns frames, seconds, bytes."""
    n = n_bytes = told = 0
    async with connect(url.replace("http", "ws", 1) + "/v1/stream", max_size=None) as socket:
        await socket.send(Start((512, 288), model=model, live=live).to_json())
        started = protocol.parse_server(str(await socket.recv()))
        assert isinstance(started, Started), started
        began = time.perf_counter()
        while time.perf_counter() < until:
            while n >= told + started.window:
                message = protocol.parse_server(str(await socket.recv()))
                assert isinstance(message, Points), message
                told = message.next
            data = protocol.pack_frame(n, n / 30, payloads[n % len(payloads)])
            await socket.send(data)
            n, n_bytes = n + 1, n_bytes + len(data)
        await socket.send(End().to_json())
        while not isinstance(protocol.parse_server(str(await socket.recv())), Done):
            pass
        return n, time.perf_counter() - began, n_bytes


def reference(url: str, pictures: list[Image], seconds: float) -> tuple[int, float, int]:
    """The AWS sample's client: one request a frame. Returns frames, seconds, bytes."""
    until, n, n_bytes, began = time.perf_counter() + seconds, 0, 0, time.perf_counter()
    while time.perf_counter() < until:
        three = [pictures[(n + i) % len(pictures)] for i in range(3)]
        unit = np.concatenate([np.moveaxis(picture, -1, 0) for picture in three])[None].astype("float32")
        unit /= 255
        body = json.dumps(unit.tolist()).encode()
        request = urllib.request.Request(f"{url}/endpoints/window3/invocations", body)
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=120) as answer:
            np.array(json.loads(answer.read())["predictions"], dtype="float32")
        n, n_bytes = n + 1, n_bytes + len(body)
    return n, time.perf_counter() - began, n_bytes


def wire_formats(url: str, pictures: list[Image], jpegs: list[bytes], seconds: float) -> None:
    n, took_s, size = asyncio.run(stream(url, jpegs, "window3", time.perf_counter() + seconds, True))
    ours_ms, ours_kb = took_s / n * 1000, size / n / 1000
    print(f"stream, JPEG:         {ours_kb:9.1f} KB/frame {ours_ms:8.1f} ms/frame")
    n, took_s, size = reference(url, pictures, seconds)
    print(f"AWS sample's JSON:    {size / n / 1000:9.1f} KB/frame {took_s / n * 1000:8.1f} ms/frame")
    print(f"ratio:                {size / n / 1000 / ours_kb:9.0f}x         {took_s / n * 1000 / ours_ms:8.1f}x")


def sessions(url: str, jpegs: list[bytes], count: int, seconds: float) -> None:
    async def all_of_them() -> list[tuple[int, float, int]]:
        until = time.perf_counter() + seconds
        return await asyncio.gather(*(stream(url, jpegs, "accurate", until, True) for _ in range(count)))

    rates = [n / took_s for n, took_s, _ in asyncio.run(all_of_them())]
    print(
        f"{count} live sessions:     {sum(rates):.1f} frames/s in all, {statistics.median(rates):.2f} each, "
        f"max/min {max(rates) / min(rates):.2f}"
    )


def devices() -> None:
    """What a frame of `accurate` takes on each device that is here, and for the other the reason why it is not."""
    taken: dict[str, float] = {}
    for device in ("cpu", "cuda"):
        try:
            network = load_network("accurate", device=device)
        except RallytraceError as error:
            print(f"{device}: {error}")
            continue
        taken[device] = frame_ms(network, time.perf_counter)
        print(f"{device}: {taken[device]:.1f} ms a frame of the network alone")
    if len(taken) == 2:
        print(f"the GPU is {taken['cpu'] / taken['cuda']:.1f} times as quick")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    clip = folder / f"rallytrace-serve-{os.getpid()}.mp4"
    make_clip(clip, CLIP)
    with video.read(clip, wh=(512, 288), colour="rgb") as reader:
        pictures = [frame.image for frame in reader]
    with video.read(clip, wh=(768, 432), colour="grey") as reader:
        large = [video.encode_jpeg(frame.image, 75) for frame in reader]
    for path in (clip, clip.with_name(f"{clip.stem}_ball.csv")):
        path.unlink()
    small = [video.encode_jpeg(picture, 75) for picture in pictures]
    threads = () if given.threads is None else ("--threads", str(given.threads))
    devices()
    with serving("--workers", str(given.workers), "--device", given.device, *threads) as url:
        wire_formats(url, pictures, small, given.seconds)
        sessions(url, large, given.sessions, given.seconds)


if __name__ == "__main__":
    main()
