"""Ray: finding or starting a cluster, and batches of videos on it by Ray Data."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from rallytrace import storage
from rallytrace.errors import EndpointError, InputError, MissingDependency
from rallytrace.scale.batch import PARTS, SEGMENT_FRAMES, Tracked, TrackJob, Worker, job_key, parts_of, tracked, units
from rallytrace.video import is_pipe

# Seconds for a node, and for the proxy of an endpoint, to come up: Ray's own 30 and 5 are too few on two busy cores.
PATIENCE = {"RAY_raylet_start_wait_time_s": "180", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
CLIENT = "ray://"
MAX_BLOCKS = 4096  # of a batch: each costs the driver some KB
# What workers must be told to reach the same stores. Credentials are not sent: each node has its own, or a role.
PASSED = ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ALLOW_HTTP"]
PASSED += ["AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "GOOGLE_BASE_URL", "RALLYTRACE_CACHE_GB"]


def import_ray() -> Any:
    """Raises MissingDependency."""
    try:
        import ray
    except ImportError:
        raise MissingDependency("--on ray needs Ray: pip install 'rallytrace[ray]'") from None
    return ray


@contextmanager
def connected(on: str) -> Iterator[Any]:
    """Ray, connected as `on` says for the block; a connection that is there already is used, and stays.

    "ray": the cluster of RAY_ADDRESS, one that runs on this machine, or else a new one here, ended with the block.
    ray://host:10001: that one. Raises InputError, EndpointError, MissingDependency.
    """
    if on != "ray" and not on.startswith(CLIENT):
        raise InputError(f"--on {on!r}: expected local, ray or ray://host:10001")
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    for name, seconds in PATIENCE.items():
        os.environ.setdefault(name, seconds)
    passed = {"env_vars": {name: os.environ[name] for name in PASSED if name in os.environ}}
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": passed}
    address = on if on.startswith(CLIENT) else os.environ.get("RAY_ADDRESS", "auto")
    try:
        try:
            ray.init(address, **options)
        except ConnectionError:
            if address != "auto":
                raise
            ray.init("local", include_dashboard=False, **options)
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise EndpointError(f"no Ray cluster answers at {on} ({reason}): check the address and its token") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def run_on(on: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """`work` on the cluster: of ray:// in a task there, since Ray's Data and Train need their driver inside."""
    with connected(on) as ray:
        if not on.startswith(CLIENT):
            return work(*arguments)
        return ray.get(ray.remote(num_cpus=0, max_retries=3)(work).remote(*arguments))


def track(sources: list[str], job: TrackJob, on: str, tell: Callable[[Tracked], None]) -> list[Tracked]:
    """See `batch.track_many`. Through ray:// the results are told when all are there."""
    for source in sources:
        if source.startswith("camera:") or is_pipe(source) or ("://" in source and not storage.is_url(source)):
            raise InputError(f"{source} is live or a pipe: track it on this machine, without --on")
    where = job.out if storage.is_url(job.out) else os.path.abspath(job.out)
    absolute = {source if "://" in source else os.path.abspath(source): source for source in sources}
    job = replace(job, out=where)
    if on.startswith(CLIENT):
        found = run_on(on, _track, list(absolute), job)
        for result in found:
            tell(result)
        return list(found)
    return list(run_on(on, _track, list(absolute), job, tell))


def _track(sources: list[str], job: TrackJob, tell: Callable[[Tracked], None] | None = None) -> list[Tracked]:
    """The driver: it holds a few KB for each video, whatever their length."""
    from ray.data import ActorPoolStrategy, DataContext, from_items

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    DataContext.get_current().enable_progress_bars = False
    cpus = max(1, int(import_ray().cluster_resources().get("CPU", 1)))
    if job.segment_frames < 0:  # many videos keep all workers busy; to split them would only cost
        job = replace(job, segment_frames=SEGMENT_FRAMES if len(sources) < 4 * cpus else 0)
    key = job_key(job)
    alone = [{"source": source, "segment": -1, "parts": ""} for source in sources]
    rows: Any = from_items(alone, override_num_blocks=min(len(sources), MAX_BLOCKS))
    if job.segment_frames:
        rows = rows.flat_map(partial(units, job, key)).repartition(target_num_rows_per_block=1)
    pool = ActorPoolStrategy(min_size=1, max_size=cpus, max_tasks_in_flight_per_actor=2)
    gpus = 1 if job.device == "cuda" else 0
    answers = rows.flat_map(Worker, fn_constructor_args=(job,), compute=pool, num_cpus=1, num_gpus=gpus)
    done: dict[str, Tracked] = {}
    for row in answers.iter_rows():
        result = Tracked(**json.loads(row["result"]))
        if result.source not in done:  # two that joined the same segments both say so
            done[result.source] = result
            if tell:
                tell(result)
    if job.segment_frames:
        cut = [source for source, result in done.items() if result.error is None and not source.startswith("http")]
        _clean_up(job, [parts_of(source, key) for source in cut])
    return [done.get(s) or replace(tracked(job, s), error="segments are missing: run it again") for s in sources]


def _clean_up(job: TrackJob, folders: list[str]) -> None:
    """Parts of videos that are whole, once nobody can ask for them again."""
    store = storage.open_store(job.out)
    for folder in folders:
        for entry in list(store.list(folder)):
            store.delete(entry.key)
    if not storage.is_url(job.out):
        for path in sorted((storage.fetch(job.out) / PARTS).glob("*"), reverse=True):
            if not any(path.iterdir()):
                path.rmdir()
