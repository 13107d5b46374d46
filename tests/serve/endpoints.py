"""A real server in a process of its own, and an unreliable road to it."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import onnx
from onnx import TensorProto, helper

from rallytrace.runtime.onnx import SPEC_KEY

from ..networks import brightest_spec


def hanging_onnx(path: Path) -> Path:
    """`brightest_onnx`, but it never comes back from a window that has a white pixel."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["on_out"]), helper.make_node("Identity", ["v"], ["v_out"])],
        "forever",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, []),
        ],
    )
    more = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "white"], ["is_white"]),
        helper.make_node("Loop", ["", "is_white", "zero"], ["nothing"], body=body),
        helper.make_node("Add", ["clipped", "nothing"], ["heatmaps"]),
    ]
    return _brightest(path, "clipped", more, {"white": 254.5})


def brightest_onnx(path: Path) -> Path:
    """`tests.networks.Brightest` as a file: a network that costs next to nothing."""
    return _brightest(path, "heatmaps", [], {})


def _brightest(path: Path, last: str, more: list[onnx.NodeProto], numbers: dict[str, float]) -> Path:
    size = ["batch", 6, "height", "width"]
    nodes = [
        helper.make_node("Cast", ["windows"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Split", ["x", "parts"], ["pictures", "background"], axis=1),
        helper.make_node("Sub", ["pictures", "background"], ["difference"]),
        helper.make_node("Div", ["difference", "scale"], ["ratio"]),
        helper.make_node("Clip", ["ratio", "zero", "one"], [last]),
        *more,
    ]
    constants = [
        helper.make_tensor("parts", TensorProto.INT64, [2], [5, 1]),
        *(
            helper.make_tensor(n, TensorProto.FLOAT, [], [v])
            for n, v in {"scale": 150.0, "zero": 0.0, "one": 1.0, **numbers}.items()
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "brightest",
        [helper.make_tensor_value_info("windows", TensorProto.UINT8, size)],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["batch", 5, "height", "width"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model.metadata_props.add(key=SPEC_KEY, value=brightest_spec().to_json())
    onnx.save(model, str(path))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServerProcess:
    """`rallytrace serve` on a port that stays its own through kills and restarts."""

    def __init__(self, folder: Path, *options: str, tls: bool = False) -> None:
        self.port = free_port()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._log = folder / f"server-{self.port}.log"
        self._options = options
        self._folder = folder

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        command = [sys.executable, "-m", "rallytrace", "serve", "--port", str(self.port), "--threads", "1"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(self._folder)}
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen([*command, *self._options], stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + 120
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", verify=False).status_code == 200:
                    return
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()


Plan = Callable[[int], "Fate"]


class Fate:
    """What happens to one connection. answer: bytes to give instead of passing anything on. cut_after: bytes, both ways
    together, after which it is reset; the chunk that reaches the limit is truncated. delay_s: of every chunk."""

    def __init__(self, *, answer: bytes = b"", cut_after: int | None = None, delay_s: float = 0.0) -> None:
        self.answer, self.cut_after, self.delay_s = answer, cut_after, delay_s


class Proxy:
    """A TCP proxy in a thread that deals with its n-th connection as `plan(n)` says."""

    def __init__(self, target_port: int, plan: Plan) -> None:
        self._target, self._plan = target_port, plan
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.heads: list[bytes] = []  # the first chunk of each connection

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client, self.connections), daemon=True).start()
                self.connections += 1

    def _serve(self, client: socket.socket, number: int) -> None:
        with client, suppress(OSError):
            head = client.recv(65536)
            self.heads.append(head)
            fate = self._plan(number)
            if fate.answer:
                client.sendall(fate.answer)
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                server.sendall(head)
                back = threading.Thread(target=self._pass, args=(server, client, fate), daemon=True)
                back.start()
                self._pass(client, server, fate)
                back.join()

    def _pass(self, source: socket.socket, target: socket.socket, fate: Fate) -> None:
        with suppress(OSError):
            while chunk := source.recv(65536):
                time.sleep(fate.delay_s)
                if fate.cut_after is not None:
                    chunk, fate.cut_after = chunk[: max(0, fate.cut_after)], fate.cut_after - len(chunk)
                target.sendall(chunk)
                if fate.cut_after is not None and fate.cut_after <= 0:
                    break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def cuts(seed: int, n: int, low: int, high: int) -> Plan:
    """The first `n` connections are cut, each after a random number of bytes."""
    rng = random.Random(seed)
    return lambda number: Fate(cut_after=rng.randrange(low, high) if number < n else None)
