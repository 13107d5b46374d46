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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rallytrace import __version__, storage, video
from rallytrace.annotate import Style
from rallytrace.errors import RallytraceError
from rallytrace.names import stem_of
from rallytrace.runtime import DEFAULT_MODEL, Device, Network, bundled, load_network
from rallytrace.scale import segments
from rallytrace.scale.inputs import as_typed, local
from rallytrace.track import FILL, Progress, output_paths, track_video, write_track
from rallytrace.tracker import OpenTracker
from rallytrace.trajectory import link
from rallytrace.types import BallPoint, PointSource

SEGMENT_FRAMES = 18_000  # ten minutes at 30 frames/s: the overlaps then cost 2 %
PARTS = ".parts"


@dataclass(frozen=True, slots=True)
class TrackJob:
    """What is done to each video of a batch: the same value on every machine.

    out: a folder that all machines see, or a URL. model: a bundled network, a file or folder that all machines see, or
    a URL. name: the stem of the results' names, for one video. segment_frames: on a cluster, longer videos are tracked
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
    segment_frames: int = -1

    def load(self) -> Network:
        """Raises ModelError, MissingDependency."""
        return load_network(self.model, device=self.device, threads=self.threads)

    def names(self, source: str) -> tuple[str, ...]:
        """Of the results in `out`: the CSV's, then the annotated video's where one is asked for."""
        return tuple(path.name for path in output_paths(source, "", self.name)[: 1 + self.draw_video])

    def place(self, name: str) -> str:
        """Path or URL of that result."""
        return f"{self.out.rstrip('/')}/{name}" if storage.is_url(self.out) else str(Path(self.out) / name)

    def present(self) -> set[str]:
        """The names of all that is in `out`, by one listing."""
        if storage.is_url(self.out):
            return {entry.key for entry in storage.open_store(self.out).list()}
        return {path.name for path in Path(self.out).iterdir()} if Path(self.out).is_dir() else set()

    def has(self, source: str) -> bool:
        """Whether all results of that video are in `out`."""
        store = storage.open_store(self.out)
        return all(store.head(name) for name in self.names(source))


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
    if resume and not job.overwrite:
        present = job.present()
        skipped = [source for source in todo if set(job.names(source)) <= present]
        todo = [source for source in todo if source not in set(skipped)]
        done = [replace(tracked(job, source), skipped=True) for source in skipped]
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
            **hooks,
        )
    told = {name: getattr(result, name) for name in ("frames", "found", "filled", "elapsed_s")}
    problems = tuple(as_typed(line, path, source) for line in result.problems)
    return replace(tracked(job, source), **told, problems=problems)


class Worker:
    """Does units of a job, each given and answered as a row of text; made once per process, it holds the network."""

    def __init__(self, job: TrackJob) -> None:
        self._job, self._network, self._store = job, job.load(), storage.open_store(job.out)

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
            counts = write_track(path, info, linked, folder / csv, to, style=self._job.style)
        found, filled = counts[PointSource.MODEL], counts[PointSource.FILLED]
        told: dict[str, Any] = {"frames": sum(counts.values()), "found": found, "filled": filled}
        return replace(tracked(self._job, source), **told, elapsed_s=time.monotonic() - began)


def units(job: TrackJob, key: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The units of one video, as rows for a `Worker`: itself, or its segments. key: see `job_key`."""
    source = str(row["source"])
    if source.startswith("http") or job.fields:  # FFmpeg reads it as it comes; a table of pictures has no fields
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
    path = bundled().get(job.model or DEFAULT_MODEL) or storage.fetch(job.model or DEFAULT_MODEL)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    facts = [__version__, digest.hexdigest(), job.device, job.threshold, job.overlap, job.segment_frames]
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
