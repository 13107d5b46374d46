"""What a Ground Truth video frame labelling job (object tracking, keypoints) needs of videos: frames and manifests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rallytrace import storage, video
from rallytrace.errors import InputError
from rallytrace.labels import ground_truth
from rallytrace.labels.sets import LabelSet, WriteOptions, safe_name

QUALITY = 92  # of the JPEGs


def estimate(sources: Sequence[str]) -> list[LabelSet]:
    """One set without labels per video, as long as the file says that it is. Raises InputError, VideoError."""
    sets = []
    for source in sources:
        with storage.fetched(source) as path:
            info = video.probe(path)
        frames = info.n_frames or round((info.duration_s or 0) * info.fps)
        sets.append(LabelSet(safe_name(Path(source).stem), {}, n_frames=frames))
    return _one_of_each(sets)


def upload(sources: Sequence[str], out: str, on_frame: Callable[[str, int], None]) -> list[LabelSet]:
    """Every frame of every video as frames/<video>/frame000001.jpg in `out`; the sets, now of exact length.

    Frames that are there already, equal in size, are not sent again. Raises VideoError, OutputError, EndpointError.
    """
    store = storage.open_store(out)
    sets = []
    for source in sources:
        name, count = safe_name(Path(source).stem), 0
        there = {entry.key: entry.size for entry in store.list(f"frames/{name}/")}

        def put(number: int, data: bytes, name: str = name, there: dict[str, int] = there) -> None:
            key = f"frames/{name}/frame{number:06}.jpg"
            if there.get(key) != len(data):
                store.put(key, data)

        with storage.fetched(source) as path, video.read(path, colour="rgb") as reader, ThreadPoolExecutor(8) as pool:
            waiting = []
            for frame in reader:
                count += 1
                waiting.append(pool.submit(put, count, video.encode_jpeg(frame.image, QUALITY)))
                if len(waiting) == 64:
                    waiting.pop(0).result()
                on_frame(source, count)
            for each in waiting:
                each.result()
        sets.append(LabelSet(name, {}, n_frames=count))
    return _one_of_each(sets)


def _one_of_each(sets: list[LabelSet]) -> list[LabelSet]:
    names = [each.name for each in sets]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two videos are called {double!r}: rename one")
    return sets


def write(sets: Sequence[LabelSet], out: str) -> list[str]:
    """Sequence files, the label category config and, last, the input manifests, whose names it returns. Raises
    OutputError, EndpointError."""
    store, last = storage.open_store(out), manifests(sets, out)
    files = _files(sets, out)
    for key in [*sorted(set(files) - set(last)), *last]:
        store.put(key, files[key].encode())
    return last


def _files(sets: Sequence[LabelSet], out: str) -> dict[str, str]:
    files = ground_truth.render(sets, WriteOptions(prefix=out))
    return {key: text for key, text in files.items() if not key.startswith(f"{ground_truth.JOB}/")}


def manifests(sets: Sequence[LabelSet], out: str) -> list[str]:
    """The input manifests below `out`, one per labelling job: each takes 10 sequences of 2,000 frames."""
    return sorted(key for key in _files(sets, out) if key.endswith(".manifest"))
