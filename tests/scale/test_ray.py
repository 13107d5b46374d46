"""Ray, on one small cluster of this machine: each kind of job loses a process to SIGKILL on its way, and ends whole."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from rallytrace import Clip, RallyOptions, make_clip, track_video
from rallytrace.errors import InputError
from rallytrace.features import PrepareOptions, load_features, on_ray, prepare
from rallytrace.models import get_spec
from rallytrace.runtime import load_network
from rallytrace.scale import cluster
from rallytrace.scale.batch import PARTS, Tracked, TrackJob, track_many
from rallytrace.storage import expand, fetch_folder, open_store
from rallytrace.tracker import Tracker
from rallytrace.video import read

from ..serve.endpoints import brightest_onnx, free_port
from ..storage.servers import moto

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]
SMALL = get_spec("rallynet", widths=(4, 8, 8, 8))


@pytest.fixture(scope="module", autouse=True)
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of two CPUs and an S3 server, once for all tests."""
    with pytest.MonkeyPatch.context() as patch, moto() as server:
        server.client().create_bucket(Bucket="scale")
        for name, value in {**server.env, "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "180")
        for name, seconds in cluster.PATIENCE.items():
            patch.setenv(name, seconds)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield "ray"
        ray.shutdown()


def descendants() -> dict[int, str]:
    """Processes that this one has started, directly or not, and how each calls itself."""
    parent, title = {}, {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit():
                stat = (folder / "stat").read_text()
                parent[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
                title[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # it has ended meanwhile
    ours = {os.getpid()}
    while more := {pid for pid, above in parent.items() if above in ours} - ours:
        ours |= more
    return {pid: title[pid] for pid in ours}


class Killer:
    """Kills one process of ours whose title has `name` in it, as soon as `is_time`."""

    def __init__(self, name: str, is_time: Callable[[], bool]) -> None:
        self._name, self._is_time, self._end = name, is_time, threading.Event()
        self.killed: list[str] = []
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        while not self._end.wait(0.02) and not self.killed:
            if self._is_time():
                for pid, title in descendants().items():
                    if self._name in title and not self.killed:
                        os.kill(pid, signal.SIGKILL)
                        self.killed.append(title)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One that is long enough for five segments, and two that are not."""
    folder = tmp_path_factory.mktemp("videos")
    for name, seconds in (("long", 12.0), ("a", 1.0), ("b", 1.0)):
        options = RallyOptions(wh=(320, 180), seconds=seconds, seed=len(name), repeats=True)
        make_clip(folder / f"{name}.mp4", options)
    return sorted(folder.glob("*.mp4"))


def test_a_batch_loses_a_worker_and_its_files_are_those_of_one_process(
    on: str, videos: list[Path], tmp_path: Path
) -> None:
    """From a store to a store; a broken video costs the others nothing; a second run does nothing again."""
    store = open_store("s3://scale/raw")
    for path in videos:
        store.put(path.name, path)
    store.put("zz.mp4", b"no video")
    out = open_store("s3://scale/out")
    job = TrackJob(out.url, model="fast", segment_frames=100, threads=1)
    sources = expand("s3://scale/raw/*.mp4")
    told: list[Tracked] = []
    with Killer("Worker)", lambda: any("/0" in entry.key for entry in out.list(PARTS))) as killer:
        results = track_many(sources, job, on=on, on_result=told.append)
    assert killer.killed
    assert sorted(r.source for r in told) == [r.source for r in results] == sources
    assert [bool(r.error) for r in results] == [False, False, False, True]
    network = load_network("fast", threads=1)
    for path, result in zip(videos, results, strict=False):
        one = track_video(path, tmp_path / "one", network=network)
        assert one.video
        assert out.get(one.csv.name) == one.csv.read_bytes()
        assert out.get(one.video.name) == one.video.read_bytes()
        assert (result.frames, result.found, result.filled) == (one.frames, one.found, one.filled)
        assert result.csv == f"s3://scale/out/{one.csv.name}"
    left = [f"{path.stem}{end}" for path in videos for end in (".csv", ".tracked.mp4")]
    assert [entry.key for entry in out.list()] == sorted(left), "no part is left"
    again = track_many(sources, job, on=on, resume=True)
    assert [r.skipped for r in again] == [True, True, True, False]


def test_what_a_cluster_cannot_do_is_refused_at_once(on: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is live"):
        track_many(["rtsp://host/stream"], TrackJob(str(tmp_path)), on=on)
    with pytest.raises(InputError, match="expected local, ray or ray://"):
        track_many(["a.mp4"], TrackJob(str(tmp_path)), on="moon")


def test_short_units_end_in_order_and_an_error_ends_the_rest(on: str) -> None:
    """Cancelling a task whose result had just been read made Ray 2.60 abort the whole process."""
    for _ in range(10):
        assert list(on_ray()(abs, range(-30, 0))) == list(range(30, 0, -1))
    with pytest.raises(ZeroDivisionError):
        list(on_ray()((1).__truediv__, [1, 0, *[1] * 30]))


def test_prepare_loses_a_worker_and_makes_the_bytes_of_one_process(
    on: str, rallies_clips: list[Clip], tmp_path: Path
) -> None:
    source = rallies_clips[0].video.parent
    options = PrepareOptions(SMALL)
    prepare(source, tmp_path / "one", options)
    with Killer("prepare_unit", lambda: True) as killer:
        prepare(source, tmp_path / "many", options, on=on_ray())
    assert killer.killed
    one, many = open_store(tmp_path / "one"), open_store(tmp_path / "many")
    assert [entry.key for entry in one.list()] == [entry.key for entry in many.list()]
    assert all(one.get(entry.key) == many.get(entry.key) for entry in one.list())
    assert len(load_features(tmp_path / "many")) == 2


def test_training_loses_a_worker_and_ends_with_every_step_once(on: str, rallies: Path, tmp_path: Path) -> None:
    """The run is kept in a store: each worker has a folder of its own."""
    from rallytrace.checkpoint import load_checkpoint, load_torch
    from rallytrace.scale.training import TrainJob, train_on_ray
    from rallytrace.train import TrainOptions

    options = TrainOptions(steps=20, batch=4, log_every=1, save_every=2, val_every=10, workers=0, warmup_steps=2)
    store = open_store("s3://scale/run")
    job = TrainJob(
        data=(str(rallies),), spec=SMALL, out=store.url, options=options, cache=str(tmp_path / "c"), provenance={}
    )
    seen: list[int] = []
    with Killer("RayTrainWorker", lambda: store.head("state.pt") is not None) as killer:
        best = train_on_ray(job, on, lambda step, values: seen.append(step))
    assert killer.killed
    assert best == "s3://scale/run/best"
    run = fetch_folder(store.url)
    load_checkpoint(run / "best")
    assert load_torch(run / "state.pt")["step"] == 20
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "heatmap" in line] == list(range(1, 21))
    assert [line["step"] for line in lines if "val_f1_4at288" in line] == [10, 20]
    assert seen[-1] == 20


def test_an_endpoint_loses_its_replica_and_streams_go_on_exactly(on: str, videos: list[Path], tmp_path: Path) -> None:
    from rallytrace.scale.serving import deploy
    from rallytrace.serve import Client, ServeOptions

    weights = brightest_onnx(tmp_path / "brightest.onnx")
    url = deploy(ServeOptions(weights=(str(weights),), port=free_port(), threads=1, drain_s=1.0))
    network = load_network(weights, threads=1)
    with read(videos[-1]) as reader:
        here = Tracker(network, reader.info.wh)
        reader.give(wh=here.transform.content_wh, colour="grey")
        frames = list(reader)
        wh = reader.info.wh
    expected = [p for frame in frames for p in here.push(frame)] + here.flush()
    assert httpx.get(f"{url}/ping", timeout=60).status_code == 200
    answer = httpx.post(f"{url}/v1/track", content=videos[0].read_bytes(), headers={"accept": "text/csv"}, timeout=120)
    assert answer.text == track_video(videos[0], tmp_path, network=network, draw_video=False).csv.read_text()
    points = []
    with Client(url, deadline_s=180) as client, client.session(wh, codec="raw") as session:
        for frame in frames:
            points += session.push(frame)
            if frame.index == 200:
                with Killer("ServeReplica", lambda: True) as killer:
                    while not killer.killed:
                        time.sleep(0.01)
        points += session.flush()
    assert killer.killed
    assert points == expected
