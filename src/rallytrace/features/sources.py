"""What a feature set is made of: labelled clips of a folder, of any label format with videos, of a Ground Truth job."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rallytrace import storage, video
from rallytrace.errors import InputError, LabelError, UnknownSize
from rallytrace.labels import ground_truth, load_clips, read_index
from rallytrace.labels.clips import INDEX
from rallytrace.labels.formats import read_sets
from rallytrace.labels.sets import LabelSet, ReadOptions, safe_name
from rallytrace.labels.source import PICTURES, Source
from rallytrace.names import PICTURE_SUFFIXES, is_video
from rallytrace.storage.stores import sha256_of
from rallytrace.types import Clip

JOB_MANIFEST = "manifests/output/output.manifest"
Pictures = str | tuple[str, ...]  # path or URL of a video, path of a folder of pictures, or of each picture in order


@dataclass(frozen=True, slots=True)
class Recording:
    """A clip to be prepared; its pictures may be anywhere, `clip.video` is not read. notes: for the user."""

    clip: Clip
    pictures: Pictures
    notes: tuple[str, ...] = ()


def read_label_sets(where: str | Path, form: str | None = None, options: ReadOptions | None = None) -> list[LabelSet]:
    """`read_sets` of a path or URL. What a Ground Truth manifest names is fetched where there is no local copy; of a
    job's folder in a store, its output manifest is read. Raises LabelError, InputError, EndpointError."""
    with storage.naming_urls():
        options = replace(options or ReadOptions(), fetch=storage.fetch)
        return read_sets(storage.fetch(_manifest_of(str(where), form)), form, options)


def recordings(
    source: str | Path, *, videos: str | None = None, form: str | None = None, options: ReadOptions | None = None
) -> list[Recording]:
    """The labelled clips of `source`, a path or URL: a folder as `load_clips` takes it; with `videos` (a folder of
    videos, or of folders of pictures), labels in any format, `form` where it is not to be guessed; without it the
    folder or output manifest of a Ground Truth job, whose files and pictures are read from where they are named.

    Labels that a tool interpolated are left out. Raises InputError, LabelError.
    """
    with storage.naming_urls():
        options = options or ReadOptions()
        if videos is not None:
            return _with_videos(str(source), videos, form, options)
        manifest = _manifest_of(str(source), form)
        if form == "ground_truth" or manifest.endswith(".manifest") or _is_job_folder(manifest):
            return _of_ground_truth(manifest, options)
        if form is not None or options != ReadOptions():
            raise InputError(
                f"{source}: --from, --label, --missing, --first-frame and --root are for label files with --videos and "
                "for Ground Truth jobs; in the CSVs of clips a row with Visibility 0 is no ball, with -1 unlabelled"
            )
        folder = storage.fetch_folder(source)
        # Of a URL, units name the videos in the store: other machines fetch their own.
        base = str(source).rstrip("/") if storage.is_url(source) else folder.resolve()
        clips = load_clips(folder)
        return [Recording(each, f"{base}/{each.video.relative_to(folder).as_posix()}") for each in clips]


def _manifest_of(where: str, form: str | None) -> str:
    """Of a Ground Truth job's folder in a store the output manifest; else `where`."""
    if form not in (None, "ground_truth") or not storage.is_url(where) or where.endswith(".manifest"):
        return where
    with suppress(InputError):  # a web server has no folders
        if storage.open_store(where).head(JOB_MANIFEST) is not None:
            return f"{where.rstrip('/')}/{JOB_MANIFEST}"
    return where


def _is_job_folder(where: str) -> bool:
    """Of a folder on this machine, which has no clips."""
    if storage.is_url(where) or not Path(where).is_dir():
        return False
    source = Source(where)
    return not source.find(".csv") and ground_truth.detect(source)


def of_set(labels: LabelSet, pictures: Pictures, sport: str, index: Mapping[str, Sequence[object]]) -> Recording:
    """A clip of its own match, to train on, unless `index` (see `read_index`) says otherwise."""
    match, split = map(str, index.get(labels.name, (labels.name, "train"))[:2])
    seen = {frame: label for frame, label in labels.labels.items() if labels.extra(frame).keyframe}
    return Recording(Clip(labels.name, Path(), seen, match, sport, split), pictures, labels.notes)


def _with_videos(source: str, videos: str, form: str | None, options: ReadOptions) -> list[Recording]:
    known = _videos(videos)
    if not storage.is_url(videos):
        options = replace(options, folders=(Path(videos).resolve(),))
    try:
        sets = read_label_sets(source, form, options)
    except UnknownSize:
        sizes = {video.probe(storage.fetch(each)).wh for each in known.values()}
        if len(sizes) != 1:
            raise InputError(f"{source} needs pictures of one size, got {sorted(sizes)}: split them") from None
        sets = read_label_sets(source, form, replace(options, wh=sizes.pop()))
    return list(_matched(sets, source, videos, known))


def _matched(sets: Sequence[LabelSet], source: str, videos: str, known: dict[str, str]) -> Iterator[Recording]:
    rows = _index_beside(source) or _index_beside(videos)
    for labels in sets:
        found = known.get(safe_name(labels.name)) or known.get(safe_name(Path(labels.video).stem))
        if found is None and (len(sets) > 1 or len(set(known.values())) != 1):
            raise InputError(f"{videos}: no video of clip {labels.name!r}, but of {', '.join(sorted(known)[:12])}")
        yield of_set(labels, found or next(iter(known.values())), Path(videos).name, rows)


def _index_beside(where: str) -> dict[str, tuple[str, str, int]]:
    """What the index.csv of a folder says, also of one in a store; nothing where there is none."""
    store = storage.open_store(where)
    there = False
    with suppress(InputError):  # a file that stands alone in a store
        there = store.head(INDEX) is not None
    return read_index(store.fetch(INDEX)) if there else {}


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
    options = replace(options, fetch=storage.fetch)
    source = Source(storage.fetch(manifest))
    frames = ground_truth.pictures(source, options)
    made = []
    for each in ground_truth.read(source, options):
        named = frames[each.name]
        first = min(named, default=0)
        if sorted(named) != list(range(first, first + len(named))) or not named:
            why = f" ({each.notes[0]})" if each.notes and not named else ""
            raise LabelError(f"{manifest}: clip {each.name} lacks pictures between its first and its last{why}")
        moved = {n - first: replace(label, frame=n - first) for n, label in each.labels.items()}
        extras = {n - first: extra for n, extra in each.extras.items()}
        pictures = tuple(named[frame] for frame in sorted(named))
        made.append(of_set(replace(each, labels=moved, extras=extras, n_frames=len(named)), pictures, each.name, {}))
    return made


@contextmanager
def local_pictures(pictures: Pictures) -> Iterator[Path]:
    """A path that `video.read` takes: the video, or a folder that shows the pictures in their order."""
    if isinstance(pictures, str):
        with storage.fetched(pictures) as path:
            yield path
        return
    with TemporaryDirectory(prefix="rallytrace-") as name, storage.naming_urls():
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
