"""What a feature set is made of: labelled clips of a folder, of any label format with videos, of a Ground Truth job."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rallytrace import storage, video
from rallytrace.errors import InputError, LabelError, UnknownSize
from rallytrace.files import make_folder
from rallytrace.labels import ground_truth, load_clips, read_index
from rallytrace.labels.formats import read_sets
from rallytrace.labels.sets import LabelSet, ReadOptions, safe_name
from rallytrace.labels.source import PICTURES, Source, parse_json
from rallytrace.names import PICTURE_SUFFIXES, is_video
from rallytrace.storage.stores import sha256_of
from rallytrace.types import Clip

Pictures = str | tuple[str, ...]  # path or URL of a video, path of a folder of pictures, or of each picture in order


@dataclass(frozen=True, slots=True)
class Recording:
    """A clip to be prepared; its pictures may be anywhere, `clip.video` is not read."""

    clip: Clip
    pictures: Pictures


def recordings(
    source: str | Path, *, videos: str | None = None, form: str | None = None, options: ReadOptions | None = None
) -> list[Recording]:
    """The labelled clips of `source`, a path or URL: a folder as `load_clips` takes it; with `videos` (a folder of
    videos, or of folders of pictures), labels in any format, `form` where it is not to be guessed; without it the
    output manifest of a Ground Truth job, whose files and pictures are read from where they are named.

    Labels that a tool interpolated are left out. Raises InputError, LabelError.
    """
    options = options or ReadOptions()
    if videos is not None:
        path, known = storage.fetch(source), _videos(videos)
        try:
            sets = read_sets(path, form, options)
        except UnknownSize:
            sizes = {video.probe(storage.fetch(each)).wh for each in known.values()}
            if len(sizes) != 1:
                raise InputError(f"{source} needs pictures of one size, got {sorted(sizes)}: split them") from None
            sets = read_sets(path, form, replace(options, wh=sizes.pop()))
        return list(_with_videos(sets, path, videos, known))
    if form == "ground_truth" or str(source).endswith(".manifest"):
        return _of_ground_truth(str(source), options)
    folder = storage.fetch_folder(source)
    # Of a URL, units name the videos in the store: other machines fetch their own.
    base = str(source).rstrip("/") if storage.is_url(source) else folder.resolve()
    return [Recording(each, f"{base}/{each.video.relative_to(folder).as_posix()}") for each in load_clips(folder)]


def of_set(labels: LabelSet, pictures: Pictures, sport: str, index: Mapping[str, Sequence[object]]) -> Recording:
    """A clip of its own match, to train on, unless `index` (see `read_index`) says otherwise."""
    match, split = map(str, index.get(labels.name, (labels.name, "train"))[:2])
    seen = {frame: label for frame, label in labels.labels.items() if labels.extra(frame).keyframe}
    return Recording(Clip(labels.name, Path(), seen, match, sport, split), pictures)


def _with_videos(sets: Sequence[LabelSet], source: Path, videos: str, known: dict[str, str]) -> Iterator[Recording]:
    indexes = [each for each in (source / "index.csv", Path(videos) / "index.csv") if each.is_file()]
    rows = read_index(indexes[0]) if indexes else {}
    for labels in sets:
        found = known.get(safe_name(labels.name)) or known.get(safe_name(Path(labels.video).stem))
        if found is None and (len(sets) > 1 or len(set(known.values())) != 1):
            raise InputError(f"{videos}: no video of clip {labels.name!r}, but of {', '.join(sorted(known)[:12])}")
        yield of_set(labels, found or next(iter(known.values())), Path(videos).name, rows)


def _videos(where: str) -> dict[str, str]:
    """Videos by name without suffix; folders of pictures also by their parent's name before it: game1_Clip1."""
    if storage.is_url(where):
        return {safe_name(Path(each).stem): each for each in storage.expand(where)}
    known: dict[str, str] = {}
    folder = Path(where).resolve()
    for path in sorted((folder, *folder.rglob("*"))):
        has_pictures = path.is_dir() and any(each.suffix.lower() in PICTURE_SUFFIXES for each in path.iterdir())
        if has_pictures or is_video(path.name):
            name = path.name if has_pictures else path.stem
            known |= {safe_name(each): str(path) for each in (name, f"{path.parent.name}_{name}")}
    return known


def _of_ground_truth(manifest: str, options: ReadOptions) -> list[Recording]:
    with TemporaryDirectory(prefix="rallytrace-") as root:
        source = Source(storage.fetch(manifest))
        _copy_bucket(source, Path(root))
        options = replace(options, root=Path(root))
        frames = ground_truth.frame_names(source, options)
        sets = ground_truth.read(source, options)
    made = []
    for each in sets:
        named = frames[each.name]
        first = min(named, default=0)
        if sorted(named) != list(range(first, first + len(named))) or not named:
            raise LabelError(f"{manifest}: clip {each.name} lacks pictures between its first and its last")
        moved = {n - first: replace(label, frame=n - first) for n, label in each.labels.items()}
        extras = {n - first: extra for n, extra in each.extras.items()}
        pictures = tuple(named[frame] for frame in sorted(named))
        made.append(of_set(replace(each, labels=moved, extras=extras, n_frames=len(named)), pictures, each.name, {}))
    return made


def _copy_bucket(source: Source, root: Path) -> None:
    """The JSON files that a manifest's lines name, under `root` as they lie in their buckets; no pictures."""
    lines = [parse_json(line, str(source.path)) for line in source.text(source.path.name).splitlines() if line.strip()]
    pairs = (pair for line in lines if isinstance(line, dict) for pair in line.items())
    for uri in dict.fromkeys(str(value) for key, value in pairs if key.endswith("-ref")):
        if not re.match(r"(s3|gs|az|memory)://", uri) or ".." in uri.split("/"):
            raise LabelError(f"{source.path}: refers to {uri[:120]!r}, expected s3://bucket/name (or give --videos)")
        path = root / uri.partition("://")[2]
        make_folder(path.parent)
        path.write_bytes(storage.fetch(uri).read_bytes())


@contextmanager
def local_pictures(pictures: Pictures) -> Iterator[Path]:
    """A path that `video.read` takes: the video, or a folder that shows the pictures in their order."""
    if isinstance(pictures, str):
        with storage.fetched(pictures) as path:
            yield path
        return
    with TemporaryDirectory(prefix="rallytrace-") as name:
        parents = {parent: storage.fetch_folder(parent) for parent in {each.rpartition("/")[0] for each in pictures}}
        for n, picture in enumerate(pictures):
            parent, _, file = picture.rpartition("/")
            path, suffix = parents[parent] / file, Path(file).suffix.lower()
            if suffix not in PICTURES or not path.is_file():
                raise InputError(f"{picture[:200]} is no picture that exists, but the labels name it: copy it there")
            os.symlink(path.resolve(), Path(name) / f"{n:08}{suffix}")
        yield Path(name)


def checksum(path: Path) -> str:
    """SHA-256 of a video; of a folder of pictures, that of their checksums by name. Raises InputError."""
    if not path.exists():
        raise InputError(f"{path} does not exist, but the labels are of it: copy the video there")
    if path.is_file():
        return sha256_of(path)
    lines = (f"{each.name} {sha256_of(each)}\n" for each in sorted(path.iterdir()) if each.is_file())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def state(pictures: Pictures) -> list[str]:
    """What changes when the pictures change: their checksums, in a store their sizes and etags. Nothing is fetched."""
    if isinstance(pictures, str):
        if not storage.is_url(pictures):
            return [checksum(Path(pictures))]
        parent, _, name = pictures.rpartition("/")
        entry = storage.open_store(parent).head(name)
        return [f"{entry.size} {entry.etag}" if entry else "missing"]
    stores = [storage.open_store(parent) for parent in sorted({each.rpartition("/")[0] for each in pictures})]
    return [f"{entry.key} {entry.size} {entry.etag}" for store in stores for entry in store.list()]


def share_out(clips: Sequence[Recording], shares: Mapping[str, float], seed: int) -> list[Recording]:
    """Splits by match: whole matches, in an order that the seed draws, until each split has its share of the labels;
    the rest is "train". Raises InputError where there are too few matches."""
    sizes: Counter[str] = Counter()
    for each in clips:
        sizes[each.clip.match] += len(each.clip.labels)
    matches = sorted(sizes, key=lambda match: hashlib.sha256(f"{seed} {match}".encode()).digest())
    if len(matches) <= len(shares):
        raise InputError(f"{len(matches)} matches cannot be split into train, {', '.join(shares)}: a split is by match")
    split_of: dict[str, str] = {}
    for left, (name, share) in reversed(list(enumerate(shares.items(), 1))):
        taken = 0.0
        while len(matches) > left and (not taken or taken + sizes[matches[0]] / 2 < share * sizes.total()):
            taken += sizes[matches[0]] or 1
            split_of[matches.pop(0)] = name
    return [replace(each, clip=replace(each.clip, split=split_of.get(each.clip.match, "train"))) for each in clips]
