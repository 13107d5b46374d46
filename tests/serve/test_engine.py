"""The batcher: fair, bounded, exact; and models that are loaded anew under load."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rallytrace.errors import MissingDependency, ModelError
from rallytrace.runtime import Floats, bundled
from rallytrace.serve.engine import Batcher, BatchingNetwork, Busy, Cancelled, Engine, Metrics, Model, find_models
from rallytrace.types import Image
from tests.networks import Brightest
from tests.serve.conftest import wait_until


class Gated(Brightest):
    """Runs only when the test says so, and notes the first pixel of what it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.seen = threading.Semaphore(0), list[list[int]]()

    def run(self, windows: Image) -> tuple[Floats, Floats | None]:
        self.gate.acquire()
        self.seen.append([int(window[0, 0, 0]) for window in windows])
        return super().run(windows)


def windows(value: int, n: int = 1, hw: tuple[int, int] = (16, 16)) -> Image:
    return np.full((n, 6, *hw), value, np.uint8)


class Callers:
    """Threads that run windows through a batcher."""

    def __init__(self, batcher: Batcher, network: Brightest) -> None:
        self.batcher, self.model = batcher, Model("gated", "1", Path(), network)
        self.threads: list[threading.Thread] = []
        self.errors: list[Exception] = []

    def start(self, *values: int, hw: tuple[int, int] = (16, 16), network: BatchingNetwork | None = None) -> None:
        mine = network or BatchingNetwork(self.batcher, self.model)
        before = self.batcher.queued

        def work() -> None:
            try:
                for value in values:
                    mine.run(windows(value, hw=hw))
            except Exception as error:
                self.errors.append(error)

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        wait_until(lambda: self.batcher.queued > before, "the window to be queued", 10)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def gated() -> Iterator[tuple[Callers, Gated]]:
    network = Gated()
    batcher = Batcher(Metrics(), max_batch=4, max_queued=6)
    callers = Callers(batcher, network)
    blocker = threading.Thread(target=lambda: BatchingNetwork(batcher, callers.model).run(windows(0)))
    blocker.start()
    # The worker waits in the network with this one, so that the queue holds all that follows.
    wait_until(lambda: batcher.queued == 0 and blocker.is_alive() and network.gate is not None, "the blocker", 10)
    time.sleep(0.05)
    yield callers, network
    for _ in range(50):
        network.gate.release()
    blocker.join(10)
    callers.join()
    batcher.close()


def test_windows_of_several_callers_run_together_and_come_back_to_their_own() -> None:
    batcher = Batcher(Metrics(), max_batch=4, max_wait_s=0.05)
    network = Brightest()
    model = Model("brightest", "1", Path(), network)
    found: dict[int, Floats] = {}

    def work(value: int) -> None:
        rng = np.random.default_rng(value)
        mine = rng.integers(0, 256, (1 + value % 2, 6, 16, 32), dtype=np.uint8)
        result = BatchingNetwork(batcher, model).run(mine)[0]
        found[value] = result - Brightest().run(mine)[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    batcher.close()
    assert len(found) == 12
    assert all((difference == 0).all() for difference in found.values())
    assert max(network.batches) > 1
    assert max(network.batches) <= 4


def test_no_caller_waits_for_more_than_one_run_of_each_other(gated: tuple[Callers, Gated]) -> None:
    callers, network = gated
    callers.batcher._max_batch = 1  # one at a time, so that the order shows
    for base in (10, 20, 30):
        callers.start(*range(base, base + 4))
    for i in range(13):
        network.gate.release()
        wait_until(lambda n=i: len(network.seen) > n, "a run", 10)  # type: ignore[misc]
        time.sleep(0.02)  # the caller that was served queues its next window
    turns = [seen[0] // 10 for seen in network.seen[1:]]
    for start in range(0, 12, 3):
        assert sorted(turns[start : start + 3]) == [1, 2, 3], turns


def test_only_windows_of_one_shape_run_together(gated: tuple[Callers, Gated]) -> None:
    callers, network = gated
    callers.start(1)
    callers.start(2, hw=(32, 32))
    callers.start(3)
    for _ in range(3):
        network.gate.release()
    callers.join()
    assert network.seen == [[0], [1, 3], [2]]


def test_a_full_queue_is_busy(gated: tuple[Callers, Gated]) -> None:
    callers, _ = gated
    for value in range(6):
        callers.start(value)
    with pytest.raises(Busy):
        callers.batcher.check_room()
    with pytest.raises(Busy, match="6 windows wait"):
        BatchingNetwork(callers.batcher, callers.model).run(windows(9))


def test_what_nobody_waits_for_is_not_run(gated: tuple[Callers, Gated]) -> None:
    callers, network = gated
    left = BatchingNetwork(callers.batcher, callers.model)
    late = BatchingNetwork(callers.batcher, callers.model, deadline=time.monotonic())
    callers.start(1, network=left)
    callers.start(2, network=late)
    callers.start(3)
    left.cancel.set()
    for _ in range(4):
        network.gate.release()
    callers.join()
    assert network.seen == [[0], [3]]
    assert [type(error) for error in callers.errors] == [Cancelled, Cancelled]


def test_an_error_of_the_network_reaches_its_callers_and_no_one_else() -> None:
    class Broken(Brightest):
        def run(self, windows: Image) -> tuple[Floats, Floats | None]:
            raise ValueError("broken")

    batcher = Batcher(Metrics())
    with pytest.raises(ValueError, match="broken"):
        BatchingNetwork(batcher, Model("broken", "1", Path(), Broken())).run(windows(0))
    BatchingNetwork(batcher, Model("good", "1", Path(), Brightest())).run(windows(0))
    batcher.close()


def test_closing_ends_those_who_wait(gated: tuple[Callers, Gated]) -> None:
    callers, network = gated
    callers.start(1)
    closer = threading.Thread(target=callers.batcher.close)
    closer.start()
    callers.join()
    network.gate.release()
    closer.join(10)
    assert isinstance(callers.errors[0], Cancelled)


def test_models_are_found_by_name_and_file(tmp_path: Path) -> None:
    mine = shutil.copy(bundled()["window3"], tmp_path / "mine.onnx")
    found = find_models(["window3", str(mine), f"other={mine}"])
    assert found == {"window3": bundled()["window3"], "mine": Path(mine), "other": Path(mine)}
    with pytest.raises(ModelError, match="no network 'nope'"):
        find_models(["nope"])
    with pytest.raises(ModelError, match="NAME=FILE"):
        find_models(["window3", "window3"])


def test_a_changed_file_is_served_and_a_broken_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "ball.onnx"
    shutil.copy(bundled()["window3"], path)
    engine = Engine({"ball": path}, device="cpu", threads=1)
    with pytest.raises(Busy):
        engine.model()
    engine.load()
    old = engine.network("ball")
    assert engine.reload() == []
    shutil.copy(bundled()["accurate"], path)
    (new,) = engine.reload()
    assert new.version != old.model.version
    assert (new.spec.channels, old.spec.channels) == (6, 3)
    old.run(np.zeros((1, 3, 32, 32), np.uint8))  # who holds the old version goes on with it
    path.write_bytes(b"not a network")
    assert engine.reload() == []
    assert "ball.onnx is not an ONNX network" in engine.problems["ball"]
    assert engine.model("ball").version == new.version
    path.unlink()
    assert engine.reload() == []
    assert engine.model("ball").version == new.version
    engine.close()


def test_a_gpu_that_is_not_there_is_said_clearly() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(MissingDependency, match="onnxruntime-gpu"):
        Engine(find_models(["window3"]), device="cuda").load()
