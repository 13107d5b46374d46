"""Training on a Ray cluster: `train.train` in each worker of Ray Train, its run folder kept in a folder or a store."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rallytrace import storage
from rallytrace.errors import InputError
from rallytrace.features import load_data
from rallytrace.files import AtomicFile, make_folder
from rallytrace.models import ModelSpec
from rallytrace.scale.cluster import import_ray, run_on

if TYPE_CHECKING:
    from rallytrace.train import TrainOptions

OnStep = Callable[[int, dict[str, float]], None]
STATE = "state.pt"  # of a run: what resuming needs, stored after all that it speaks of
FOLLOW_S = 2.0
MAX_FAILURES = 8


@dataclass(frozen=True, slots=True)
class TrainJob:
    """What `train.train` is given, by value: folders and URLs that all machines see.

    out: the run's folder or URL; a run that is there is resumed. workers: training processes; None takes all CPUs, or
    GPUs, that the cluster has.
    """

    data: tuple[str, ...]
    spec: ModelSpec
    out: str
    options: TrainOptions
    init: str | None = None
    cache: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    workers: int | None = None


def train_on_ray(job: TrainJob, on: str, on_step: OnStep | None = None) -> str:
    """Train on the cluster `on`; path or URL of the best checkpoint.

    A worker that dies costs the steps since the last save: all go on from there, with fewer workers until a new one is
    found. on_step: told as `train.train` tells. Raises InputError, EndpointError, MissingDependency.
    """
    here: dict[str, Any] = {
        name: _everywhere(path) for name in ("out", "init", "cache") if (path := getattr(job, name))
    }
    job = replace(job, data=tuple(map(_everywhere, job.data)), **here)
    ended = threading.Event()
    follower = threading.Thread(target=_follow, args=(storage.open_store(job.out), on_step, ended), daemon=True)
    follower.start()
    try:
        run_on(on, _fit, job)
    finally:
        ended.set()
        follower.join()
    return f"{job.out.rstrip('/')}/best"


def _everywhere(path: str) -> str:
    return path if storage.is_url(path) else os.path.abspath(path)


def _fit(job: TrainJob) -> None:
    ray = import_ray()
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    resources, batch = ray.cluster_resources(), job.options.batch
    gpu = job.options.device != "cpu" and resources.get("GPU", 0) > 0
    most = job.workers or max(1, int(resources.get("GPU" if gpu else "CPU", 1)))
    size = max(n for n in range(1, most + 1) if batch % n == 0)
    elastic = all(batch % n == 0 for n in range(1, size + 1))  # any number of workers can share the batch
    workers: Any = (1, size) if elastic and size > 1 else size
    each = {"CPU": 0.5, "GPU": 1} if gpu else {"CPU": 0.5}  # Ray's controller wants some too
    scaling = ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=each)
    with tempfile.TemporaryDirectory(prefix="rallytrace-ray-") as folder:
        run = RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=MAX_FAILURES))
        trainer = TorchTrainer(_work, train_loop_config={"job": job}, scaling_config=scaling, run_config=run)
        try:
            trainer.fit()
        except TrainingFailedError as error:
            reason = " ".join(str(error).split())[-600:]
            raise InputError(f"training ended after {MAX_FAILURES} failures: {reason}") from None


def _work(config: dict[str, Any]) -> None:
    """One worker. Ray Train has joined the processes and set RANK and WORLD_SIZE, as torchrun would."""
    from rallytrace.train import train

    job: TrainJob = config["job"]
    with tempfile.TemporaryDirectory(prefix="rallytrace-run-") as scratch:
        out, cache, save = Path(job.out), Path(job.cache) if job.cache else None, None
        if storage.is_url(job.out):
            out, cache = Path(scratch), cache or Path(tempfile.gettempdir()) / "rallytrace-frames"
            save = _Mirror(job.out, out).save
        train(
            load_data(job.data),
            job.spec,
            out,
            job.options,
            init=storage.fetch(job.init) if job.init else None,
            cache=cache,
            provenance=job.provenance,
            on_save=save if os.environ.get("RANK", "0") == "0" else None,
        )


class _Mirror:
    """A run folder on this machine and its copy in a store, which is read at first and then kept up to date."""

    def __init__(self, url: str, folder: Path) -> None:
        self._store, self._folder = storage.open_store(url), folder
        for entry in self._store.list():
            path = folder / entry.key
            make_folder(path.parent)
            with AtomicFile(path, "wb") as file:
                file.write(self._store.get(entry.key))
        self._known = self._stamps()

    def save(self) -> None:
        """Store what has changed, the state last: who resumes finds all that belongs to it."""
        stamps = self._stamps()
        for key in sorted(stamps, key=lambda key: key == STATE):
            if self._known.get(key) != stamps[key]:
                self._store.put(key, self._folder / key)
        self._known = stamps

    def _stamps(self) -> dict[str, str]:
        return {entry.key: entry.etag for entry in storage.open_store(self._folder).list()}


def _follow(store: storage.Store, on_step: OnStep | None, ended: threading.Event) -> None:
    """Tells the lines of the run's metrics as they come; lines that a resumed run takes back are told again."""
    told, last = -1, False
    while on_step and not last:
        last = ended.wait(FOLLOW_S)
        lines = store.get("metrics.jsonl").decode().splitlines() if store.head("metrics.jsonl") else []
        told = len(lines) if told < 0 else min(told, len(lines))  # what was there before is not news
        for line in lines[told:] if not lines or lines[-1].endswith("}") else lines[told:-1]:
            values = json.loads(line)
            on_step(int(values.pop("step")), values)
            told += 1
