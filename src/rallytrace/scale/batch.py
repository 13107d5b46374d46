"""Many videos, one after the other in this process or on a Ray cluster: the same units of work, the same files.

A video is a unit, or each segment of a long one. A unit reads from the store, works, and writes whole objects under
names that follow from the job alone; so it may be done again, after a kill or by two at once, and nothing is lost or
doubled. Points of segments wait in <out>/.parts until the last segment of a video finds all others there and joins
them.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rallytrace import __version__, storage, video
from rallytrace.annotate import Style
from rallytrace.errors import OutputError, RallytraceError
from rallytrace.names import RECORD, stem_of
from rallytrace.runtime import DEFAULT_MODEL, Device, Network, load_network, network_digest
from rallytrace.scale import provenance, segments
from rallytrace.scale.inputs import local
from rallytrace.track import FILL, Progress, output_paths, track_video, write_track
from rallytrace.tracker import OpenTracker
from rallytrace.trajectory import link
from rallytrace.types import BallPoint, PointSource

SEGMENT_FRAMES = 18_000  # ten minutes at 30 frames/s: the overlaps then cost 2 %
PARTS = ".parts"
DIGITS = 12  # of a network's digest, as the endpoint tells them
LOOKS = 8  # at results, at the same time


@dataclass(frozen=True, slots=True)
class TrackJob:
    """What is done to each video of a batch: the same value on every machine.

    out: a folder that all machines see, or a URL. model: a bundled network, a file or folder that all machines see, or
    a URL. name: the stem of the results' names, for one video. network: the digest of the network; of `model` where it
    is None. segment_frames: on a cluster, longer videos are tracked
    in segments of that many frames; 0 never splits, -1 does where there are too few videos to keep all busy. The rest
    as `track_video` has it.
    """

    out: str
    model: str | None = None
    device: Device = "auto"
    threads: int | None = None
    threshold: float | None = None
    overlap: int = 1
    fill: int = FILL
    fields: bool = False
    draw_video: bool = True
    style: Style = field(default_factory=Style)
    overwrite: bool = False
    name: str | None = None
    network: str | None = None
    streams: tuple[str, ...] = ()
    segment_frames: int = -1

    def load(self) -> Network:
        """Raises ModelError, MissingDependency."""
        return load_network(self.model, device=self.device, threads=self.threads)

    def names(self, source: str) -> tuple[str, ...]:
        """Of the results in `out`: the CSV's, then the annotated video's where one is asked for."""
        return tuple(path.name for path in output_paths(source, "", self.name)[: 1 + self.draw_video])

    def identified(self) -> TrackJob:
        """With the digest of its network. Raises what finding the network raises."""
        return replace(self, network=network_digest(self.model)) if self.network is None else self

    def record_name(self, source: str) -> str:
        """Of what is kept beside the CSV: what the results were made from."""
        return f"{self.names(source)[0].removesuffix('.csv')}{RECORD}"

    def asked(self) -> dict[str, Any]:
        """What is asked of each video, as `provenance.difference` compares it. The network is known by few digits:
        those that a server tells."""
        options: dict[str, Any] = {"threshold": self.threshold, "overlap": self.overlap, "fill": self.fill}
        options["fields"] = self.fields
        options["streams"] = list(self.streams)
        if self.draw_video:
            options["style"] = json.loads(json.dumps(asdict(self.style)))  # as it is read again
        return {"network": (self.network or "")[:DIGITS], "options": options}

    def record(self, source: str, path: Path | str, *, live: bool = False) -> dict[str, Any]:
        """What is kept beside the results of that video, which is at `path` now."""
        made_by = {"model": self.model or DEFAULT_MODEL, "code": f"rallytrace {__version__}"}
        return {"source": provenance.describe(source, path, live=live), **made_by, **self.asked()}

    def place(self, name: str) -> str:
        """Path or URL of that result."""
        return f"{self.out.rstrip('/')}/{name}" if storage.is_url(self.out) else str(Path(self.out) / name)

    def present(self) -> set[str]:
        """The names of all that is in `out`, by one listing."""
        if storage.is_url(self.out):
            return {entry.key for entry in storage.open_store(self.out).list()}
        return {path.name for path in Path(self.out).iterdir()} if Path(self.out).is_dir() else set()

    def has(self, source: str) -> bool:
        """Whether all results of that video are in `out`, and are those that this job would make."""
        store = storage.open_store(self.out)
        return all(store.head(name) for name in self.names(source)) and not self.difference(source)

    def difference(self, source: str) -> str:
        """In which way the results in `out` are not those of that video and this job; empty where they are."""
        store = storage.open_store(self.out)
        name = self.record_name(source)
        known = provenance.read_record(store.get(name)) if store.head(name) else None
        return provenance.difference(self.asked(), known, source)


@dataclass(frozen=True, slots=True)
class Tracked:
    """What became of one video. csv, video: path or URL. error: why there is no result, in one line. skipped: the
    result was there already."""

    source: str
    csv: str
    video: str | None
    frames: int = 0
    found: int = 0
    filled: int = 0
    elapsed_s: float = 0.0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None
    skipped: bool = False


def track_many(
    sources: Sequence[str],
    job: TrackJob,
    *,
    on: str = "local",
    resume: bool = False,
    on_result: Callable[[Tracked], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_point: Callable[[BallPoint], None] | None = None,
    stop: threading.Event | None = None,
    open_tracker: OpenTracker | None = None,
    live: bool = False,
) -> list[Tracked]:
    """Track each video; one that cannot be tracked does not cost the others their results: see `Tracked.error`.

    on: "local" is this process, "ray" and ray://host:10001 are clusters: see `cluster.connected`. resume: leave out
    what is complete in `job.out`. live: pipes are tracked as they come. The last five are for "local" only. Results
    come in the order of their becoming.
    Raises InputError, ModelError, MissingDependency, OutputError for what concerns the whole batch.
    """
    tell = on_result or (lambda result: None)
    done: list[Tracked] = []
    job = replace(job, out=storage.plain(job.out))
    todo = [storage.plain(source) for source in sources]
    job = job if open_tracker else job.identified()
    if resume and not job.overwrite:
        todo, done = _left(todo, job)
        for result in done:
            tell(result)
    if not todo:
        return done
    if on != "local":
        from rallytrace.scale import cluster

        return done + cluster.track(todo, job, on, tell)
    network = None if open_tracker else job.load()
    hooks: dict[str, Any] = {
        "on_progress": on_progress,
        "on_point": on_point,
        "stop": stop,
        "open_tracker": open_tracker,
        "live": live,
    }
    for source in todo:
        try:
            done.append(track_one(job, source, network, overwrite=job.overwrite or resume, **hooks))
        except Exception as error:  # also a fault of ours: what one video shows must not cost the others theirs
            done.append(failed(job, source, error))
        tell(done[-1])
    return done


def _left(sources: list[str], job: TrackJob) -> tuple[list[str], list[Tracked]]:
    """What is still to do, and what became of the rest: made already, or its results' place is taken by others."""
    present = job.present()
    with ThreadPoolExecutor(LOOKS) as pool:
        told = pool.map(lambda each: job.difference(each) if job.names(each)[0] in present else None, sources)
        found = dict(zip(sources, told, strict=True))
    todo: list[str] = []
    done: list[Tracked] = []
    for source, reason in found.items():
        csv = job.place(job.names(source)[0])
        if reason:
            error = OutputError(f"{csv} exists already {reason}: use --overwrite, or another --out folder")
            done.append(failed(job, source, error))
        elif reason == "" and present.issuperset(job.names(source)):
            done.append(replace(tracked(job, source), skipped=True))
        else:
            todo.append(source)
    return todo, done


def track_one(
    job: TrackJob, source: str, network: Network | None, *, overwrite: bool, live: bool = False, **hooks: Any
) -> Tracked:
    """One whole video. overwrite: also what a killed run left, such as a video without its CSV. live: a pipe is tracked
    as it comes. hooks: of `track_video`. Raises what it raises."""
    inside = local(source, live=live, stop=hooks.get("stop"))
    with inside as path, storage.publishing(job.out, last=job.names(source)[:1]) as folder:
        result = track_video(
            path,
            folder,
            network=network,
            draw_video=job.draw_video,
            threshold=job.threshold,
            overlap=job.overlap,
            fill=job.fill,
            fields=job.fields,
            style=job.style,
            overwrite=overwrite,
            name=job.name or stem_of(source),
            record=job.record(source, path, live=live),
            streams=job.streams,
            **hooks,
        )
        _withdraw(job, source)
    told = {name: getattr(result, name) for name in ("frames", "found", "filled", "elapsed_s", "notes")}
    problems = tuple(storage.as_typed(line) for line in result.problems)
    return replace(tracked(job, source), **told, problems=problems)


def _withdraw(job: TrackJob, source: str) -> None:
    """In a store the new files come one by one: an older CSV must not stand beside a new record."""
    if storage.is_url(job.out):
        storage.open_store(job.out).delete(job.names(source)[0])


class Worker:
    """Does units of a job, each given and answered as a row of text; made once per process, it holds the network."""

    def __init__(self, job: TrackJob) -> None:
        self._job = job.identified()
        self._network = job.load()
        self._store = storage.open_store(job.out)

    def __call__(self, row: dict[str, Any]) -> list[dict[str, str]]:
        """A finished video, or nothing where other segments of it are still to come."""
        source = str(row["source"])
        try:
            result = self._work(source, int(row["segment"]), str(row["parts"]))
        except Exception as error:  # also a fault of ours: what one video shows must not cost the others theirs
            result = failed(self._job, source, error)
        return [{"result": json.dumps(asdict(result))}] if result else []

    def _work(self, source: str, segment: int, parts: str) -> Tracked | None:
        if not self._job.overwrite and self._job.has(source):
            return replace(tracked(self._job, source), skipped=True)  # by one who was killed before it could say so
        if segment < 0:
            return track_one(self._job, source, self._network, overwrite=True)
        began = time.monotonic()
        whole = segments.Plan.unpack(self._store.get(f"{parts}/plan.npz"))
        names = [f"{parts}/{number:05d}.npz" for number in range(len(whole.segments))]
        if self._store.head(names[segment]) is None:
            options = {"threshold": self._job.threshold, "overlap": self._job.overlap}
            with local(source) as path:
                points = segments.track_segment(path, whole, segment, self._network, **options)  # type: ignore[arg-type]
            self._store.put(names[segment], segments.pack_points(points))
        present = {entry.key for entry in self._store.list(parts)}
        return self._join(source, names, began) if present >= set(names) else None

    def _join(self, source: str, names: list[str], began: float) -> Tracked:
        points = (point for name in names for point in segments.unpack_points(self._store.get(name)))
        csv, *drawn = self._job.names(source)
        with local(source) as path, storage.publishing(self._job.out, last=[csv]) as folder:
            info = video.probe(path)
            linked = ((None, point) for point in link(points, info.wh, fill=self._job.fill))
            to = folder / drawn[0] if drawn else None
            record = self._job.record(source, path)
            lost: list[str] = []
            counts = write_track(
                path, info, linked, folder / csv, to, style=self._job.style, record=record, problems=lost
            )
            _withdraw(self._job, source)
        found, filled = counts[PointSource.MODEL], counts[PointSource.FILLED]
        told: dict[str, Any] = {"frames": sum(counts.values()), "found": found, "filled": filled}
        told["problems"] = tuple(lost)
        return replace(tracked(self._job, source), **told, elapsed_s=time.monotonic() - began)


def units(job: TrackJob, key: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The units of one video, as rows for a `Worker`: itself, or its segments. key: see `job_key`."""
    source = str(row["source"])
    job = job.identified()
    # FFmpeg reads a URL as it comes; a table of pictures has no fields, and the default streams only.
    if source.startswith("http") or job.fields or job.streams:
        return [row]
    try:
        parts, store = parts_of(source, key), storage.open_store(job.out)
        if job.has(source) and not job.overwrite:
            return [row]
        if store.head(f"{parts}/plan.npz") is None:
            with local(source) as path:
                info = video.probe(path)
                if info.is_live or (info.duration_s or 0.0) * info.fps < 1.5 * job.segment_frames:
                    return [row]
                whole = segments.plan(path, job.load().spec, overlap=job.overlap, length=job.segment_frames)
            if len(whole.segments) == 1:
                return [row]
            store.put(f"{parts}/plan.npz", whole.pack())
        count = len(segments.Plan.unpack(store.get(f"{parts}/plan.npz")).segments)
    except RallytraceError:
        return [row]  # whoever tracks it says what is wrong
    return [{"source": source, "segment": number, "parts": parts} for number in range(count)]


def job_key(job: TrackJob) -> str:
    """Changes with everything that the points of a segment depend on, but the video."""
    facts = [__version__, job.identified().network, job.device, job.threshold, job.overlap, job.segment_frames]
    return json.dumps(facts)


def parts_of(source: str, key: str) -> str:
    """The folder in `out` of a video's segments; another one when the video changes."""
    folder, _, name = source.rpartition("/")
    entry = storage.open_store(folder or "/").head(name)
    version = entry.etag if entry else ""
    return f"{PARTS}/{hashlib.sha256(json.dumps([key, source, version]).encode()).hexdigest()[:24]}"


def failed(job: TrackJob, source: str, error: Exception) -> Tracked:
    """A video without a result. A fault of ours is said to be one, and of which video."""
    line = " ".join(str(error).split())
    if not isinstance(error, RallytraceError):
        line = f"{source}: {type(error).__name__}: {line} (a fault of rallytrace: please report it)"
    return replace(tracked(job, source), error=line)


def tracked(job: TrackJob, source: str) -> Tracked:
    """A result of which only the names are known."""
    csv, *drawn = map(job.place, job.names(source))
    return Tracked(source, csv, drawn[0] if drawn else None)
