"""One engine behind all routes: networks by name, and the batcher that every window of every caller goes through.

A caller (a session, a request) holds a `BatchingNetwork`, which is a `runtime.Network`: `Tracker` runs on it unchanged.
Its `run` puts the windows into the batcher's queue and waits for them, so that a caller has one job there at most and
none starves. The batcher runs jobs of the same network and shape together.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rallytrace.errors import ModelError, RallytraceError
from rallytrace.geometry import FrameTransform
from rallytrace.models import ModelSpec
from rallytrace.runtime import Device, Floats, Network, bundled, load_network, network_digest
from rallytrace.storage import fetch
from rallytrace.types import Image

log = logging.getLogger("rallytrace.serve")
HANG_S = 60.0
LOOK_S = 0.5  # how often who waits looks whether the network still runs
LATENCY_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Busy(RallytraceError):
    """The server has as much work as it may hold; try again in `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(Busy):
    """The networks are still being loaded."""


class Cancelled(RallytraceError):
    """The caller went away, or its deadline passed, before its windows were run."""


class Hung(RallytraceError):
    """A run of a network does not end: nothing more can be run until the process is started anew."""


class Metrics:
    """What GET /metrics shows, in a registry of its own: several servers may live in one process."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        labels = ["route", "method", "status"]
        self.requests = Counter("rallytrace_requests", "Requests by route and status.", labels, registry=r)
        self.latency = Histogram("rallytrace_request_seconds", "Duration.", ["route"], buckets=LATENCY_S, registry=r)
        self.batch = Histogram("rallytrace_batch_windows", "Windows per run.", buckets=(1, 2, 4, 8, 16), registry=r)
        self.run = Histogram("rallytrace_network_seconds", "Duration of a run.", buckets=LATENCY_S, registry=r)
        self.wait = Histogram("rallytrace_queue_seconds", "Wait for a run.", buckets=LATENCY_S, registry=r)
        self.queued = Gauge("rallytrace_queue_windows", "Windows that wait for a run.", registry=r)
        self.sessions = Gauge("rallytrace_sessions", "Sessions by state.", ["state"], registry=r)
        self.frames = Counter("rallytrace_frames", "Frames tracked.", ["model"], registry=r)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """One version of a network that is loaded and warm. `version`: the first 12 digits of its file's SHA-256."""

    name: str
    version: str
    path: Path
    network: Network = field(repr=False)

    @property
    def spec(self) -> ModelSpec:
        return self.network.spec


@dataclass(slots=True, eq=False)
class _Job:
    model: Model
    windows: Image  # (B, C, H, W)
    cancel: threading.Event
    deadline: float
    queued_at: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)
    result: tuple[Floats, Floats | None] | None = None
    error: BaseException | None = None

    @property
    def group(self) -> tuple[Model, tuple[int, ...]]:
        return self.model, self.windows.shape[1:]

    def finish(self, result: tuple[Floats, Floats | None] | None, error: BaseException | None = None) -> None:
        self.result, self.error = result, error
        self.done.set()


class Batcher:
    """The queue and its workers. One worker keeps a network's own threads busy; more overlap networks that use one.

    max_wait_s: how long a run waits for company; on a CPU batches gain nothing, so the default is not to wait.
    max_queued: windows that may wait, over all callers. hang_s: a run that takes longer will not end.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_batch: int = 1,
        max_wait_s: float = 0.0,
        max_queued: int = 256,
        workers: int = 1,
        hang_s: float = HANG_S,
    ) -> None:
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._max_queued = max_queued
        self._hang_s = hang_s
        self._began: dict[int, float] = {}  # thread -> when its run began
        self._queue: deque[_Job] = deque()  # first come, first served: fair, since a session waits for its answer
        self._n_queued = 0
        self._changed = threading.Condition()
        self._closed = False
        names = [f"rallytrace-batcher-{i}" for i in range(workers)]
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    @property
    def queued(self) -> int:
        """Windows that wait."""
        return self._n_queued

    @property
    def is_hung(self) -> bool:
        """Whether a run takes so long that it will not end."""
        oldest = min(self._began.copy().values(), default=float("inf"))
        return time.monotonic() - oldest > self._hang_s

    def check_well(self) -> None:
        """Raises Hung."""
        if self.is_hung:
            raise Hung(f"a network has not answered for {self._hang_s:g} s: the server starts anew")

    def check_room(self) -> None:
        """Raises Busy where a new request would have to wait behind a full queue, Hung."""
        self.check_well()
        if self._n_queued >= self._max_queued:
            raise Busy(f"{self._n_queued} windows wait already: try again later")

    def run(self, job: _Job) -> tuple[Floats, Floats | None]:
        """Queue `job` and wait for its result. Raises Busy, Hung, Cancelled, and whatever the network raises."""
        with self._changed:
            if self._closed:
                raise Cancelled("the server stops")
            if self._n_queued + len(job.windows) > self._max_queued and self._n_queued:
                raise Busy(f"{self._n_queued} windows wait already: try again later")
            self._queue.append(job)
            self._count(len(job.windows))
            self._changed.notify()
        while not job.done.wait(max(0.0, min(LOOK_S, job.deadline - time.monotonic()))):
            self.check_well()
            if time.monotonic() >= job.deadline:
                job.cancel.set()
                raise Cancelled("this took longer than a request may take here")
        if job.error is not None:
            raise job.error
        assert job.result is not None
        return job.result

    def close(self) -> None:
        """Ends the workers; what waits is cancelled."""
        with self._changed:
            self._closed = True
            for job in self._queue:
                job.finish(None, Cancelled("the server stops"))
            self._queue.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=0 if self.is_hung else 10)

    def _count(self, change: int) -> None:
        self._n_queued += change
        self._metrics.queued.set(self._n_queued)

    def _work(self) -> None:
        while jobs := self._next_batch():
            self._run(jobs)

    def _next_batch(self) -> list[_Job]:
        """Jobs of one group, from callers in turn; empty when closed."""
        with self._changed:
            while not self._closed:
                jobs = self._take([])
                if not jobs:
                    self._changed.wait()
                    continue
                until = time.monotonic() + self._max_wait_s
                while self._size(jobs) < self._max_batch and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                    jobs = self._take(jobs)
                return jobs
        return []

    @staticmethod
    def _size(jobs: list[_Job]) -> int:
        return sum(len(job.windows) for job in jobs)

    def _take(self, jobs: list[_Job]) -> list[_Job]:
        """`jobs` and the waiting ones that fit to them, the oldest first; those that nobody waits for are dropped."""
        left: deque[_Job] = deque()
        for job in self._queue:
            if job.cancel.is_set() or job.deadline < time.monotonic():
                job.finish(None, Cancelled("nobody waits for this any more, or not for so long"))
            elif self._fits(jobs, job):
                jobs.append(job)
            else:
                left.append(job)
                continue
            self._count(-len(job.windows))
        self._queue = left
        return jobs

    def _fits(self, jobs: list[_Job], job: _Job) -> bool:
        return not jobs or (job.group == jobs[0].group and self._size(jobs) + len(job.windows) <= self._max_batch)

    def _run(self, jobs: list[_Job]) -> None:
        began = time.monotonic()
        self._began[threading.get_ident()] = began
        for job in jobs:
            self._metrics.wait.observe(began - job.queued_at)
        try:
            windows = jobs[0].windows if len(jobs) == 1 else np.concatenate([job.windows for job in jobs])
            heatmaps, offsets = jobs[0].model.network.run(windows)
        except Exception as error:  # onnxruntime's have no common base; each caller gets it
            for job in jobs:
                job.finish(None, error)
            return
        finally:
            del self._began[threading.get_ident()]
        self._metrics.batch.observe(len(windows))
        self._metrics.run.observe(time.monotonic() - began)
        start = 0
        for job in jobs:
            part = slice(start, start := start + len(job.windows))
            job.finish((heatmaps[part], None if offsets is None else offsets[part]))


class BatchingNetwork:
    """See `runtime.Network`: one caller's network, run by the batcher. Stays with the version that it was made for.

    cancel: set it, and windows that wait are dropped with Cancelled, as after `deadline` (of time.monotonic).
    """

    def __init__(
        self, batcher: Batcher, model: Model, *, cancel: threading.Event | None = None, deadline: float = float("inf")
    ) -> None:
        self._batcher, self.model = batcher, model
        self.cancel, self.deadline = cancel or threading.Event(), deadline

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    @property
    def device(self) -> str:
        return self.model.network.device

    def run(self, windows: Image) -> tuple[Floats, Floats | None]:
        return self._batcher.run(_Job(self.model, windows, self.cancel, self.deadline))


class Engine:
    """The networks that are served, by name; the first is the default. A file that changes is loaded anew.

    models: name -> path. The new version is loaded and warmed beside the old one, then takes its name; whoever holds
    the old one finishes with it. A file that cannot be loaded leaves the old version in place.
    """

    def __init__(
        self,
        models: dict[str, Path],
        *,
        device: Device = "auto",
        threads: int | None = None,
        workers: int = 1,
        hang_s: float = HANG_S,
    ) -> None:
        if not models:
            raise ModelError("no network to serve: name at least one with --weights")
        self.metrics = Metrics()
        self.problems: dict[str, str] = {}  # model name -> why its newest file is not served
        self._paths, self._device, self._threads = dict(models), device, threads
        self._models: dict[str, Model] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        self._loading = threading.Lock()
        self._workers = workers
        self._hang_s = hang_s
        self._batcher: Batcher | None = None

    def load(self) -> None:
        """Load and warm all networks; takes seconds. Raises ModelError or MissingDependency."""
        for name in self._paths:
            self._load(name)
        cuda = any(model.network.device == "cuda" for model in self._models.values())
        batch, wait_s = (8, 0.003) if cuda else (1, 0.0)
        self._batcher = Batcher(
            self.metrics, max_batch=batch, max_wait_s=wait_s, workers=self._workers, hang_s=self._hang_s
        )

    @property
    def is_ready(self) -> bool:
        return self._batcher is not None

    @property
    def is_hung(self) -> bool:
        """See `Batcher.is_hung`."""
        return self._batcher is not None and self._batcher.is_hung

    @property
    def batcher(self) -> Batcher:
        if self._batcher is None:
            raise NotReady("the networks are still being loaded", retry_after_s=1)
        return self._batcher

    @property
    def models(self) -> list[Model]:
        return list(self._models.values())

    def model(self, name: str | None = None) -> Model:
        """By name, the default when None. Raises ModelError, or NotReady before `load` is done."""
        self.batcher  # noqa: B018 - raises
        if name is None:
            return next(iter(self._models.values()))
        if name not in self._models:
            raise ModelError(f"no model {name!r} here: expected one of {', '.join(self._models)}")
        return self._models[name]

    def network(
        self, name: str | None = None, *, cancel: threading.Event | None = None, deadline: float = float("inf")
    ) -> BatchingNetwork:
        """A caller's own handle of a model. Raises as `model` does."""
        return BatchingNetwork(self.batcher, self.model(name), cancel=cancel, deadline=deadline)

    def reload(self, name: str | None = None, *, force: bool = False) -> list[Model]:
        """Load the files that changed (or all, with `force`); returns the new versions. Failures go to `problems`."""
        fresh = []
        for each in [name] if name else list(self._paths):
            if not force and self._stamps.get(each) == _stamp(self._paths[each]):
                continue
            before = self._models.get(each)
            try:
                self._load(each)
            except (RallytraceError, OSError) as error:
                self.problems[each] = str(error)
                log.error("model %s stays at %s: %s", each, before and before.version, error)
                continue
            if before is None or self._models[each].version != before.version:
                fresh.append(self._models[each])
        return fresh

    def close(self) -> None:
        if self._batcher is not None:
            self._batcher.close()

    def _load(self, name: str) -> None:
        with self._loading:
            path = self._paths[name]
            self._stamps[name] = _stamp(path)
            network = load_network(path, device=self._device, threads=self._threads)
            version = network_digest(path)[:12]
            _warm_up(network)
            self._models[name] = Model(name, version, path, network)
            self.problems.pop(name, None)
            log.info("model %s %s is ready on %s", name, version, network.device)


def find_models(names: list[str]) -> dict[str, Path]:
    """What --weights says -> name: path. A bundled name, a file (named by its stem), a checkpoint, a URL, or NAME=FILE.

    Raises ModelError for what does not exist or is named twice.
    """
    found: dict[str, Path] = {}
    for text in names:
        name, equals, path = text.partition("=")
        file = bundled().get(text) or fetch(path if equals else text)
        key = name if equals else file.stem
        if not file.exists():
            raise ModelError(f"no network {text!r}: expected one of {', '.join(bundled())}, or an .onnx file")
        if key in found:
            raise ModelError(f"two networks are named {key!r}: write NAME=FILE")
        found[key] = file
    return found


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _warm_up(network: Network) -> None:
    """One run at the shape of a 16:9 video, so that the first caller does not wait for allocations."""
    spec = network.spec
    w, h = FrameTransform.fit_area((1280, 720), spec.size_wh, spec.multiple).canvas_wh
    network.run(np.zeros((1, spec.channels, h, w), np.uint8))
