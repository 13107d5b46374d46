"""labels convert, stats, check, import and export: label files of other tools, in and out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

import typer

from rallytrace import storage
from rallytrace.cli.common import Json, Overwrite, app, parse_wh, print_json, warn
from rallytrace.cli.label import book_of
from rallytrace.errors import InputError
from rallytrace.features import read_label_sets
from rallytrace.labels import quality
from rallytrace.labels.formats import FORMATS, LabelFormat, get_format, losses, write_sets
from rallytrace.labels.sets import LabelSet, ReadOptions, WriteOptions

if TYPE_CHECKING:
    from rallytrace.label import LabelBook

labels_app = typer.Typer(no_args_is_help=True, help="Label files: convert between formats, count, check.")
app.add_typer(labels_app, name="labels")

DEFAULTS = WriteOptions()
SHOWN = 12  # paths that are printed one by one
Named = TypeVar("Named", bound=Any)


class Unlabelled(StrEnum):
    """Choices of --unlabelled."""

    refuse = "refuse"
    drop = "drop"
    absent = "absent"


class Missing(StrEnum):
    """Choices of --missing."""

    absent = "absent"
    unlabelled = "unlabelled"


class Origin(StrEnum):
    """Choices of --as."""

    labels = "labels"
    proposals = "proposals"


File = Annotated[str, typer.Argument(help="A label file, a folder or zip of them, a Ground Truth job; also a URL.")]
From = Annotated[Optional[str], typer.Option("--from", help=f"Its format: {', '.join(FORMATS)}.")]  # noqa: UP045
To = Annotated[str, typer.Option("--to", help=f"The format to write: {', '.join(FORMATS)}.")]
Out = Annotated[str, typer.Option("--out", help="Folder or URL for the result.")]
Label = Annotated[Optional[str], typer.Option("--label", help="Which label is the ball, where there are several.")]  # noqa: UP045
MissingOption = Annotated[
    Optional[Missing],  # noqa: UP045
    typer.Option("--missing", help="What frames mean that the file says nothing of; default by format."),
]
OriginOption = Annotated[
    Optional[Origin],  # noqa: UP045
    typer.Option("--as", help="Whether people have seen the positions; if not said, a tracker's CSV is proposals."),
]
UnlabelledOption = Annotated[
    Unlabelled, typer.Option("--unlabelled", help="For formats that cannot say that a frame is unlabelled.")
]
Size = Annotated[Optional[str], typer.Option("--size", help="Width x height of the picture.")]  # noqa: UP045
Video = Annotated[Optional[str], typer.Option("--video", help="The video: gives size, rate, length and name.")]  # noqa: UP045
Fps = Annotated[Optional[str], typer.Option("--fps", help="Frames per second, also as a fraction: 30000/1001.")]  # noqa: UP045
First = Annotated[Optional[int], typer.Option("--first-frame", min=0, help="What the file calls the first frame.")]  # noqa: UP045
Root = Annotated[Optional[Path], typer.Option("--root", help="Local copy of the bucket that s3:// names point to.")]  # noqa: UP045
Box = Annotated[float, typer.Option("--box", min=1, max=1000, help="Side in px of boxes written.")]
Prefix = Annotated[str, typer.Option("--prefix", help="Where a Ground Truth job's folder will be in the bucket.")]


def _read_options(
    label: str | None,
    missing: Missing | None,
    size: str | None,
    fps: str | None,
    first_frame: int | None,
    root: Path | None,
    origin: Origin | None = None,
) -> ReadOptions:
    silence: Any = missing.value if missing else None
    said: Any = origin.value if origin else None
    wh = parse_wh(size) if size else None
    return ReadOptions(label, silence, wh, _rate(fps), first_frame=first_frame, root=root, origin=said)


def _rate(text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 10_000:
        raise InputError(f"--fps {text!r}: expected frames per second, such as 30 or 30000/1001")
    return rate


def _read(file: str, source: str | None, options: ReadOptions, video_file: str | None = None) -> list[LabelSet]:
    """The label sets of `file`, with what the video tells of the pictures. Raises RallytraceError."""
    video = storage.fetch(video_file) if video_file else None
    if video is not None:
        from rallytrace.video import probe

        info = probe(video)
        wh, fps = options.wh or info.wh, options.fps or info.fps
        options = dataclasses.replace(options, wh=wh, fps=fps, n_frames=info.n_frames)
    sets = read_label_sets(file, source, options)
    if video is not None:
        if len(sets) != 1:
            raise InputError(f"{file} has {len(sets)} clips, expected one where --video is given: use --size")
        sets = [dataclasses.replace(sets[0], name=video.stem, video=video.name)]
    say_notes(note for each in sets for note in each.notes)
    return sets


def say_notes(found: Iterable[str]) -> None:
    """What the reader of labels has to say to the user, on standard error, once each."""
    for note in dict.fromkeys(found):
        warn(storage.as_typed(note), "note")


@labels_app.command("convert")
def convert_command(
    file: File,
    to: To,
    out: Out,
    source: From = None,
    label: Label = None,
    unlabelled: UnlabelledOption = Unlabelled.refuse,
    missing: MissingOption = None,
    size: Size = None,
    video: Video = None,
    fps: Fps = None,
    first_frame: First = None,
    box: Box = DEFAULTS.box_px,
    root: Root = None,
    origin: OriginOption = None,
    prefix: Prefix = DEFAULTS.prefix,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Convert labels from one format to another; the format of FILE is recognised by its content."""
    chosen = get_format(to)
    sets = _read(file, source, _read_options(label, missing, size, fps, first_frame, root, origin), video)
    paths = _write(sets, chosen, out, WriteOptions(unlabelled.value, box, prefix), overwrite)
    _say_written(sets, chosen, out, paths, as_json)


def _write(sets: Sequence[LabelSet], to: LabelFormat, out: str, options: WriteOptions, overwrite: bool) -> list[str]:
    """Returns what was written, as paths or URLs."""
    with storage.publishing(out, overwrite=overwrite) as folder:
        paths = write_sets(sets, to.name, folder, options, overwrite=overwrite)
    return [f"{out.rstrip('/')}/{path.relative_to(folder)}" for path in paths]


def _say_written(sets: Sequence[LabelSet], to: LabelFormat, out: str, paths: list[str], as_json: bool) -> None:
    lost = losses(sets, to)
    if as_json:
        print_json({"to": to.name, "clips": [quality.stats(each) for each in sets], "files": paths, "lost": lost})
        return
    for each in sets:
        print(_summary(quality.stats(each)))
    for note in lost:
        warn(f"{note} in {to.title}", "note")
    print("\n".join(f"  {path}" for path in paths[:SHOWN]))
    if len(paths) > SHOWN:
        print(f"  and {len(paths) - SHOWN} more files in {out}")


def _summary(told: dict[str, Any]) -> str:
    return "{clip}: {frames} frames, {located} with a ball, {absent} without, {unlabelled} unlabelled".format(**told)


@labels_app.command("stats")
def stats_command(
    file: File,
    source: From = None,
    label: Label = None,
    missing: MissingOption = None,
    size: Size = None,
    video: Video = None,
    first_frame: First = None,
    root: Root = None,
    origin: OriginOption = None,
    as_json: Json = False,
) -> None:
    """Count what a label file holds: states, visibility, events, speeds, runs without a ball."""
    for each in _read(file, source, _read_options(label, missing, size, None, first_frame, root, origin), video):
        told = quality.stats(each)
        if as_json:
            print_json(told)
            continue
        print(_summary(told))
        for name in ("visibility", "events", "speed_px_per_frame", "invisible_runs"):
            counts = told[name] or {"none": None}
            listed = ", ".join(f"{key} {'-' if value is None else value}" for key, value in counts.items())
            print(f"  {name.replace('_', ' ')}: {listed}")
        print(f"  interpolated: {told['interpolated']}")


@labels_app.command("check")
def check_command(
    file: File,
    source: From = None,
    label: Label = None,
    missing: MissingOption = None,
    size: Size = None,
    video: Video = None,
    fps: Fps = None,
    first_frame: First = None,
    root: Root = None,
    origin: OriginOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where something was found.")] = False,
    as_json: Json = False,
) -> None:
    """Flag labels that look wrong: outside the picture, impossibly fast, jumps away and back, copied positions."""
    sets = _read(file, source, _read_options(label, missing, size, fps, first_frame, root, origin), video)
    found = [finding for each in sets for finding in quality.check(each)]
    for finding in found:
        if as_json:
            print_json(dataclasses.asdict(finding))
        else:
            print(f"{finding.clip}, frame {finding.frame}: {finding.kind}: {finding.message}")
    if not as_json:
        print(f"{len(found)} findings in {sum(len(each.labels) for each in sets)} labels")
    if found and strict:
        raise typer.Exit(1)


Project = Annotated[Path, typer.Argument(help="The folder of a label project.")]
JobName = Annotated[Optional[str], typer.Option("--job", help="Name of the job; needed where there are several.")]  # noqa: UP045
Database = Annotated[Optional[str], typer.Option("--database", help="URL of the label book, if not in the folder.")]  # noqa: UP045


@labels_app.command("export")
def export_command(
    project: Project,
    to: Annotated[str, typer.Option("--to", help=f"The format to write: {', '.join(FORMATS)}.")],
    out: Out,
    job: JobName = None,
    unlabelled: UnlabelledOption = Unlabelled.refuse,
    box: Box = DEFAULTS.box_px,
    prefix: Prefix = DEFAULTS.prefix,
    database: Database = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write what a job of a label project has, a set per video."""
    from rallytrace.label import events, exchange

    chosen = get_format(to)
    with _open_project(project, database) as book:
        parts = events.job_labels(book, _job_of(book, job))
    missing = sum(len(part.unlabelled) for part in parts)
    if missing and unlabelled is Unlabelled.refuse:
        raise InputError(f"{missing} frames of the job are unlabelled: label them, or use --unlabelled drop or absent")
    sets = exchange.label_sets(parts)
    paths = _write(sets, chosen, out, WriteOptions(unlabelled.value, box, prefix), overwrite)
    _say_written(sets, chosen, out, paths, as_json)


@labels_app.command("import")
def import_command(
    project: Project,
    file: File,
    video: Annotated[Optional[str], typer.Option("--video", help="Name of the video, where there are several.")] = None,  # noqa: UP045
    job: JobName = None,
    source: From = None,
    label: Label = None,
    missing: MissingOption = None,
    first_frame: First = None,
    root: Root = None,
    origin: OriginOption = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Take labels into the unlabelled frames of a job's open tasks; what a tool interpolated is left out.

    What a tracker wrote is shown in the workspace as proposals.
    """
    from rallytrace.label import events, exchange, team

    with _open_project(project, database) as book:
        admin = next((user for user in team.users(book) if user.role == "admin" and user.active), None)
        if admin is None:
            raise InputError(f"{project} has no admin yet: start `rallytrace label {project}` and make one first")
        job_id = _job_of(book, job)
        video_ids = {part["video_id"] for part in events.job_parts(book, job_id)}
        wanted = _only([book.video(each) for each in sorted(video_ids)], video, "video", "--video")
        size = f"{wanted.w}x{wanted.h}" if wanted.w and wanted.h else None
        options = _read_options(label, missing, size, wanted.rate, first_frame, root, origin)
        sets = read_label_sets(file, source, options)
        if len(sets) == 1:  # then it is of this video, whatever it is called
            sets = _read(file, source, dataclasses.replace(options, n_frames=wanted.n_frames))
        else:
            sets = [each for each in sets if exchange.is_of(each, wanted.name)]
        if len(sets) != 1:
            raise InputError(f"{file} has {len(sets)} clips called {wanted.name!r}, expected one")
        done = exchange.import_set(book, admin, job_id, wanted.id, sets[0], Path(file).name)
    if as_json:
        print_json(done._asdict())
        return
    left_out = f"{done.skipped} skipped, {done.interpolated} interpolated left out"
    proposed = f", {done.proposed} shown as proposals" if done.proposed else ""
    print(f"{wanted.name}: {done.imported} labels taken in, {left_out}{proposed}")


@contextmanager
def _open_project(project: Path, database: str | None) -> Iterator[LabelBook]:
    from rallytrace.label import open_book

    with open_book(book_of(project, database), migrate=False) as book:
        yield book


def _job_of(book: LabelBook, name: str | None) -> int:
    from rallytrace.label import jobs
    from rallytrace.label.book import every

    known = list(every(lambda after: jobs.jobs(book, after)))
    return int(_only(known, name, "job", "--job").id)


def _only(known: Sequence[Named], name: str | None, what: str, option: str) -> Named:
    """The one that is called `name`, or the only one. A video may be named without its suffix."""
    found = [each for each in known if name is None or name in (each.name, Path(each.name).stem)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(each.name for each in known[:20]) or "none"
    said = f"no single {what} is called {name!r}" if name else f"there are {len(known)} {what}s"
    raise InputError(f"{said}; the project has {names}: choose with {option}")
