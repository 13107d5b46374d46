"""A folder of labelled clips: videos with a ball CSV each, and what a split must never cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rallytrace.errors import InputError, LabelError
from rallytrace.labels.tracknetv2 import read_labels
from rallytrace.names import EXPECTED_VIDEO, is_video
from rallytrace.trajectory.table import Row, read_rows
from rallytrace.types import Clip

MATCH_COLUMNS = ("match", "venue", "park")
SPLITS = ("train", "val", "test")
INDEX = "index.csv"


def load_clips(folder: Path | str) -> list[Clip]:
    """The clips of `folder`, in one of three layouts; the folder's name is the sport.

    1. `index.csv` (columns clip, one of match, venue or park, and optionally split: train, val or test; train where it
       is missing or empty), `<clip>.mp4` (or another video) and `<clip>_ball.csv`.
    2. TrackNetV2's: `match1/video/<clip>.mp4` and `match1/csv/<clip>_ball.csv` (or `<clip>.csv`). Clips are named
       `match1_<clip>`, their match is `match1`, their split train.
    3. Videos with a `<clip>_ball.csv` beside them; each is a match of its own, split train.

    Raises LabelError for a folder or file that is missing or malformed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LabelError(f"{folder}: no such folder, expected one with videos and <clip>_ball.csv files")
    if (folder / INDEX).is_file():
        clips = _indexed(folder)
    else:
        clips = [clip for match in sorted(folder.glob("match*"), key=_natural) for clip in _of_match(folder, match)]
        clips = clips or _beside(folder)
    if not clips:
        raise LabelError(
            f"{folder}: no clips found, expected {INDEX}, match<n>/csv or <clip>_ball.csv beside videos, or a finished "
            "Ground Truth job with manifests/output/output.manifest"
        )
    return clips


def check_length(clip: Clip, n_frames: int) -> None:
    """Raises LabelError where a label lies beyond the video's `n_frames`: labels and video are not of one clip."""
    last = max(clip.labels, default=-1)
    if last >= n_frames:
        raise LabelError(
            f"clip {clip.name}: a label is on frame {last}, but {clip.video.name} has {n_frames} frames: "
            "expected labels and video of the same clip"
        )


def check_split(clips: Sequence[Clip]) -> None:
    """Raises InputError where one match is in two splits: neighbouring frames would leak into the figures."""
    split_of: dict[str, Clip] = {}
    for clip in clips:
        other = split_of.setdefault(clip.match, clip)
        if other.split != clip.split:
            raise InputError(
                f"match {clip.match!r} is in two splits ({other.name} in {other.split!r}, {clip.name} in "
                f"{clip.split!r}): give all clips of a match the same split"
            )


def _sport(folder: Path) -> str:
    return folder.resolve().name


def _natural(match: Path) -> tuple[int, str]:
    """match2 before match10."""
    return len(match.name), match.name


def _videos(folder: Path) -> dict[str, Path]:
    """The videos of `folder` by name without suffix."""
    videos: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not is_video(path.name):
            continue
        if path.stem in videos:
            raise LabelError(f"{folder}: clip {path.stem} has two videos, {videos[path.stem].name} and {path.name}")
        videos[path.stem] = path
    return videos


def _video_of(videos: dict[str, Path], name: str, wanted_by: str) -> Path:
    if name not in videos:
        raise LabelError(f"{wanted_by}: no video of clip {name!r}, expected {name} with one of {EXPECTED_VIDEO}")
    return videos[name]


def _indexed(folder: Path) -> list[Clip]:
    videos = _videos(folder)
    clips = []
    for name, (match, split, line) in read_index(folder / INDEX).items():
        video = _video_of(videos, name, f"{folder / INDEX}, line {line}")
        labels = read_labels(folder / f"{name}_ball.csv")
        clips.append(Clip(name, video, labels, match, _sport(folder), split))
    return clips


def read_index(path: Path) -> dict[str, tuple[str, str, int]]:
    """Match, split and line of each clip, from an index.csv as `load_clips` describes it. Raises LabelError."""
    clips: dict[str, tuple[str, str, int]] = {}
    for row in read_rows(path, ("clip",)):
        name = row.cells["clip"]
        if not name or name in clips:
            raise row.error("clip", "expected the name of a clip that no other line has")
        clips[name] = _match_of(row), _split_of(row), row.line
    return clips


def _match_of(row: Row) -> str:
    column = next((name for name in MATCH_COLUMNS if name in row.cells), None)
    if column is None:
        raise LabelError(f"{row.path}: no column {' or '.join(MATCH_COLUMNS)}; a split needs to know what not to cut")
    if not row.cells[column]:
        raise row.error(column, "expected a name")
    return row.cells[column]


def _split_of(row: Row) -> str:
    split = row.cells.get("split") or SPLITS[0]
    if split not in SPLITS:
        raise row.error("split", f"expected {', '.join(SPLITS)}")
    return split


def _of_match(folder: Path, match: Path) -> list[Clip]:
    videos = _videos(match / "video")
    clips: dict[str, Clip] = {}
    for path in sorted((match / "csv").glob("*.csv")):
        stem = path.stem.removesuffix("_ball")
        video = _video_of(videos, stem, str(path))
        name = f"{match.name}_{stem}"
        if name in clips:
            raise LabelError(f"{path}: a second CSV of clip {stem}, expected one")
        clips[name] = Clip(name, video, read_labels(path), match.name, _sport(folder), SPLITS[0])
    return list(clips.values())


def _beside(folder: Path) -> list[Clip]:
    found = ((name, video, folder / f"{name}_ball.csv") for name, video in _videos(folder).items())
    return [
        Clip(name, video, read_labels(path), name, _sport(folder), SPLITS[0])
        for name, video, path in found
        if path.is_file()
    ]
