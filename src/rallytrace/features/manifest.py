"""manifest.json: what a feature set holds, and where each clip came from. It is written last, once all is there."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from rallytrace import storage
from rallytrace.errors import InputError, RallytraceError
from rallytrace.features.index import read_index
from rallytrace.labels import check_split, load_clips
from rallytrace.labels.sets import safe_name
from rallytrace.storage.stores import sha256_of
from rallytrace.types import Clip

MANIFEST = "manifest.json"
FORMAT = "rallytrace features 1"
FETCHES = 8  # at the same time
REFERENCE_BYTES = 9 * 288 * 512 * 4  # a frame's window as the published solution stores it

Json = dict[str, Any]


def paths_of(name: str, number: int = 0) -> dict[str, str]:
    """Where the files of the clip of that name and number are, below the set's folder."""
    arrays = {kind: f"arrays/{kind}_data_{number}.npy" for kind in ("x", "y")}
    return {"shard": f"shards/{name}.tar", "index": f"shards/{name}.parquet", "done": f"shards/{name}.json", **arrays}


def parts_of(about: Json) -> list[Json]:
    """The files of a clip of the manifest: path, bytes, sha256."""
    return list(about["files"].values())


def is_features(where: str | Path) -> bool:
    """Whether a folder or URL has a feature set's manifest."""
    return storage.open_store(where).head(MANIFEST) is not None


def read_manifest(where: str | Path) -> Json:
    """Raises InputError for one that is missing, of another kind, or names files that are not a feature set's."""
    try:
        manifest: Json = json.loads(storage.open_store(where).get(MANIFEST))
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {str(manifest['format'])[:40]!r}, expected {FORMAT!r}")
        for number, about in enumerate(manifest["clips"]):
            paths, files = paths_of(about["name"], number), about["files"]
            foreign = [kind for kind in {*files, "shard", "index"} if files[kind]["path"] != paths[kind]]
            words = [about["match"], about["sport"], about["split"], *(part["sha256"] for part in files.values())]
            if foreign or about["name"] != safe_name(about["name"]) or not all(isinstance(word, str) for word in words):
                raise ValueError(f"clip {number} has a file or name that is none of a feature set's: {foreign}")
        return manifest
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, RallytraceError):
            raise
        raise InputError(f"{where}/{MANIFEST} is no manifest of a feature set ({error}): prepare it again") from None


def load_features(where: str | Path) -> list[Clip]:
    """The clips of a feature set, for `train` and `evaluate_clips`; of a URL, shards come through the cache.

    Checked here: sizes, the labels' checksums, the pictures' places. A shard's checksum is checked when it is read.
    Raises InputError, LabelError, EndpointError.
    """
    with ThreadPoolExecutor(FETCHES) as pool:
        clips = list(pool.map(partial(_clip, storage.open_store(where)), read_manifest(where)["clips"]))
    check_split(clips)
    return clips


def _clip(store: storage.Store, about: Json) -> Clip:
    shard, index = (about["files"][kind] for kind in ("shard", "index"))
    paths = [store.fetch(part["path"]) for part in (shard, index)]
    for path, part in zip(paths, (shard, index), strict=True):
        if path.stat().st_size != part["bytes"] or (part is index and sha256_of(path) != part["sha256"]):
            raise InputError(f"{path} is damaged or was replaced: it is not the file of {MANIFEST}; copy it again")
    _, labels = read_index(paths[1], about["frames"], shard["bytes"])
    return Clip(about["name"], paths[0], labels, about["match"], about["sport"], about["split"], shard["sha256"])


def load_data(folders: Sequence[str | Path]) -> list[Clip]:
    """The labelled clips of all folders, feature sets and URLs of either. Raises what `load_clips` raises too, and
    InputError where two of them have a clip of the same name."""
    each = (load_features(f) if is_features(f) else load_clips(storage.fetch_folder(f)) for f in folders)
    with storage.naming_urls():
        clips = [clip for clips in each for clip in clips]
    name, count = Counter(clip.name for clip in clips).most_common(1)[0] if clips else ("", 0)
    if count > 1:
        raise InputError(f"{count} clips of {', '.join(map(str, folders))} are called {name}: rename all but one")
    return clips


def describe_data(where: str | Path) -> dict[str, str]:
    """Name and SHA-256 of data to learn from: of a feature set's manifest, or of the label files of a folder."""
    store = storage.open_store(where)
    keys = [MANIFEST] if is_features(where) else sorted(e.key for e in store.list() if e.key.endswith(".csv"))
    digest = hashlib.sha256(b"".join(key.encode() + store.get(key) for key in keys))
    return {"name": PurePosixPath(where).name, "sha256": digest.hexdigest()}


def statistics(clips: Sequence[Json]) -> Json:
    """Counts by split and in all, and how large a frame is."""
    splits: dict[str, Counter[str]] = {}
    for about in clips:
        for split in (about["split"], "total"):
            splits.setdefault(split, Counter()).update(about["counts"], clips=1, frames=about["frames"])
    for split, counts in splits.items():
        counts["matches"] = len({about["match"] for about in clips if split in (about["split"], "total")})
    size = sum(about["files"][kind]["bytes"] for about in clips for kind in ("shard", "index"))
    mean = round(size / splits["total"]["frames"])
    return {"splits": splits, "bytes_per_frame": mean, "reference_bytes_per_frame": REFERENCE_BYTES}
