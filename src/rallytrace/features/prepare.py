"""The feature-engineering job: a shard for each clip, made by units that run anywhere, then the manifest.

Equal input makes equal bytes, whatever runs the units. A unit leaves its files whole or not at all and says in a JSON
file of its own that it is done: a job that was killed goes on there.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from rallytrace import storage, video
from rallytrace.errors import InputError, LabelError, OutputError
from rallytrace.features.executors import Executor, one_process
from rallytrace.features.index import write_index
from rallytrace.features.manifest import FORMAT, MANIFEST, Json, parts_of, paths_of, statistics
from rallytrace.features.sheet import contact_sheet_of
from rallytrace.features.sources import Recording, checksum, local_pictures, recordings, state
from rallytrace.features.windows import write_arrays
from rallytrace.files import AtomicFile, make_folder, output_errors, write_text
from rallytrace.geometry import FrameTransform
from rallytrace.labels import check_length, check_split
from rallytrace.labels.sets import safe_name
from rallytrace.models import ModelSpec
from rallytrace.storage.stores import sha256_of

SHEET = "contact_sheet.png"


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """spec: the network that the features are for; its size, colour and targets. quality: of the JPEGs, 1 to 100.
    arrays: write windows and targets as arrays too (`features.windows.write_arrays`)."""

    spec: ModelSpec
    quality: int = 90
    arrays: bool = False


def prepare(
    source: str | Path | Sequence[Recording],
    out: str | Path,
    options: PrepareOptions,
    *,
    on: Executor = one_process,
    overwrite: bool = False,
    provenance: Json | None = None,
    on_unit: Callable[[int, int], None] | None = None,
) -> Json:
    """Make the feature set of `source` in `out`, a folder or URL, and return its manifest. A job that was interrupted
    is taken up where it ended; with `overwrite` a finished set is brought up to date.

    on_unit: told how many clips of how many are done. Raises InputError (also where a match is in two splits),
    LabelError, VideoError, OutputError.
    """
    clips = recordings(source) if isinstance(source, str | Path) else list(source)
    check_split([each.clip for each in clips])
    names = Counter(safe_name(each.clip.name).casefold() for each in clips)
    if len(names) < len(clips) or not clips:
        raise InputError(f"expected clips of different names, got {names.most_common(1) or 'none'}: rename one")
    out = out if storage.is_url(out) else Path(out).resolve()  # units run elsewhere
    store = storage.open_store(out)
    if store.head(MANIFEST) is not None:
        if not overwrite:
            raise OutputError(f"{out} has a feature set already: use --overwrite, or another --out")
        store.delete(MANIFEST)
    made: list[Json] = []
    for report in on(partial(prepare_unit, options=options, out=str(out)), list(enumerate(clips))):
        made.append(report)
        if on_unit:
            on_unit(len(made), len(clips))
    _clean(store, out, made)
    manifest = {
        "format": FORMAT,
        "options": asdict(options),
        "provenance": {"packages": _versions(), **(provenance or {})},
        "statistics": statistics(made),
        "clips": [{key: value for key, value in each.items() if key != "key"} for each in made],
    }
    sheet = video.encode_png(contact_sheet_of(store, made, options.spec))
    with storage.publishing(out, last=(MANIFEST,)) as folder:
        with AtomicFile(folder / SHEET, "wb") as file, output_errors(folder / SHEET):
            file.write(sheet)
        write_text(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))
    return manifest


def prepare_unit(unit: tuple[int, Recording], *, options: PrepareOptions, out: str) -> Json:
    """One clip's files in `out`, and what the manifest says of it; what is there already is not made again."""
    number, one = unit
    name = safe_name(one.clip.name)
    done = paths_of(name)["done"]
    clip = replace(one.clip, video=Path(), labels=dict(sorted(one.clip.labels.items())))
    facts = [FORMAT, _versions(), number, asdict(clip), state(one.pictures), asdict(options)]
    key = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()
    store = storage.open_store(out)
    with suppress(InputError, ValueError, LookupError, TypeError):
        report: Json = json.loads(store.get(done))
        heads = [(store.head(part["path"]), part["bytes"]) for part in parts_of(report)]
        if report["key"] == key and all(head and head.size == size for head, size in heads):
            return report
    store.delete(done)
    with local_pictures(one.pictures) as pictures, storage.publishing(out, last=(Path(done).name,)) as folder:
        report = {"key": key, "name": name, **_make(number, one, pictures, folder, options)}
        write_text(folder / done, json.dumps(report, sort_keys=True))
    return report


def _make(number: int, one: Recording, pictures: Path, folder: Path, options: PrepareOptions) -> Json:
    spec, clip = options.spec, one.clip
    paths = {kind: folder / path for kind, path in paths_of(safe_name(clip.name), number).items()}
    make_folder(paths["shard"].parent)
    with video.read(pictures) as reader:
        reader.find_picture()
        info = reader.info
        transform = FrameTransform.fit_picture(info.wh, info.picture, spec.size_wh, spec.multiple)
        reader.give(wh=transform.content_wh, colour=spec.colour, box=transform.box)
        places = video.write_shard(paths["shard"], reader, info, transform, spec.colour, options.quality)
    try:
        check_length(clip, len(places))
    except LabelError:
        paths["shard"].unlink()
        raise
    write_index(paths["index"], places, clip.labels)
    if options.arrays:
        make_folder(paths["x"].parent)
        write_arrays(replace(clip, video=paths["shard"]), spec, paths["x"], paths["y"])
    kinds = ("shard", "index", "x", "y") if options.arrays else ("shard", "index")
    counts = Counter("absent" if label.xy is None else "located" for label in clip.labels.values())
    first = one.pictures if isinstance(one.pictures, str) else one.pictures[0].rpartition("/")[0]
    return {
        **{key: getattr(clip, key) for key in ("match", "sport", "split")},
        "frames": len(places),
        "source_wh": info.wh,
        "wh": transform.content_wh,
        **({} if info.picture is None else {"picture": info.picture}),
        "fps": str(info.fps),
        "counts": {**counts, "unlabelled": len(places) - len(clip.labels)},
        # Without the folders of the machine that it was on.
        "source": {"name": first.partition("?")[0].rstrip("/").rpartition("/")[2], "sha256": checksum(pictures)},
        "files": {kind: _file(folder, paths[kind]) for kind in kinds},
    }


def _file(folder: Path, path: Path) -> Json:
    return {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _versions() -> dict[str, str]:
    """Of what shapes the bytes."""
    return {name: importlib.metadata.version(name) for name in ("rallytrace", "av", "numpy", "pyarrow")}


def _clean(store: storage.Store, out: str | Path, made: Sequence[Json]) -> None:
    """What is left of other clips and of killed jobs goes: equal input is to leave equal folders. What is called
    otherwise than our own files, or has no note of a unit beside it, is somebody else's and stays."""
    kept = {paths_of(each["name"])["done"] for each in made} | {
        part["path"] for each in made for part in parts_of(each)
    }
    keys = {entry.key for below in ("shards", "arrays") for entry in store.list(below)}
    for key in sorted(keys - kept, key=lambda key: key.endswith(".json")):  # the note goes last
        unit = re.fullmatch(r"(shards/[^/]+)\.(tar|parquet|json)", key)
        if re.fullmatch(r"arrays/[xy]_data_\d+\.npy", key) or (unit and f"{unit[1]}.json" in keys):
            store.delete(key)
    if not storage.is_url(out):
        for pattern in ("shards/.*.partial", "arrays/.*.partial", f".{MANIFEST}.*.partial", f".{SHEET}.*.partial"):
            for left in Path(out).glob(pattern):
                left.unlink(missing_ok=True)
