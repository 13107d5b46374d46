"""prepare: labels and videos to a feature set."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from rallytrace import features, storage
from rallytrace.cli.common import Json, Overwrite, app, parse_wh, print_json, progress_bar
from rallytrace.cli.labels import (
    Database,
    First,
    From,
    JobName,
    Label,
    MissingOption,
    OriginOption,
    Root,
    _job_of,
    _open_project,
    _read_options,
    say_notes,
)
from rallytrace.errors import InputError
from rallytrace.models import get_spec

ELSEWHERE = ("--workers", "--on", "--out")  # options that do not shape the result


@app.command("prepare")
def prepare_command(
    source: Annotated[str, typer.Argument(help="Labelled clips, a label project, labels, or a Ground Truth job.")],
    out: Annotated[str, typer.Option("--out", help="Folder or URL of the feature set.")],
    videos: Annotated[Optional[str], typer.Option("--videos", help="Folder of the labels' videos or pictures.")] = None,  # noqa: UP045
    form: From = None,
    label: Label = None,
    missing: MissingOption = None,
    first_frame: First = None,
    root: Root = None,
    origin: OriginOption = None,
    job: JobName = None,
    database: Database = None,
    val: Annotated[float, typer.Option(min=0, max=0.9, help="Share of labels to validate on; whole matches.")] = 0,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="Share of labels to test on; whole matches.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    model: Annotated[str, typer.Option("--model", help="The network that the features are for.")] = "rallynet",
    frames: Annotated[Optional[int], typer.Option(min=1, help="Pictures in a window.")] = None,  # noqa: UP045
    size: Annotated[Optional[str], typer.Option(help="Width x height of the pictures.")] = None,  # noqa: UP045
    sigma: Annotated[Optional[float], typer.Option(min=0.1, help="Of the Gaussian target, in model px.")] = None,  # noqa: UP045
    colour: Annotated[Optional[str], typer.Option(help="grey or rgb.")] = None,  # noqa: UP045
    background: Annotated[Optional[bool], typer.Option(help="Whether windows have a background.")] = None,  # noqa: UP045
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of the JPEGs.")] = 90,
    materialise: Annotated[bool, typer.Option("--materialise", help="Write windows and targets as .npy too.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    on: Annotated[str, typer.Option("--on", help="local, ray, or ray://host:10001.")] = "local",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a feature set: each frame once as JPEG, the labels, checksums; `train` and `eval` take it as --data."""
    asked = {"frames": frames, "size_wh": size and parse_wh(size), "sigma_px": sigma, "colour": colour}
    asked["background"] = background
    spec = get_spec(model, **{name: value for name, value in asked.items() if value is not None})
    options = features.PrepareOptions(spec, quality, materialise)
    if database or (not storage.is_url(source) and (Path(source) / "book.sqlite").is_file()):
        if form or label or missing or first_frame is not None or root or origin:
            raise InputError(
                f"{source} is a label project: --from, --label, --missing and their like are for label files"
            )
        clips = _of_project(Path(source), job, database)
    else:
        read_options = _read_options(label, missing, None, None, first_frame, root, origin)
        clips = features.recordings(source, videos=videos, form=form, options=read_options)
        say_notes(note for each in clips for note in each.notes)
    if shares := {name: share for name, share in (("val", val), ("test", test)) if share}:
        clips = features.share_out(clips, shares, seed)
    executor = features.one_process if workers == 1 else features.processes(workers)
    with ExitStack() as stack:
        if on != "local":
            from rallytrace.scale.cluster import connected

            stack.enter_context(connected(on))
            executor = features.on_ray()
        bar = stack.enter_context(progress_bar("prepare", quiet=as_json))
        provenance = {"command": _command()}
        manifest = features.prepare(
            clips,
            out,
            options,
            on=executor,
            overwrite=overwrite,
            provenance=provenance,
            on_unit=lambda n, of: bar(n, of, f"{n} of {of} clips"),
        )
    _say(manifest, out, as_json)


def _command() -> str:
    """Without what differs between machines: equal input is to make equal bytes."""
    words = ["rallytrace"]
    for before, word in zip(sys.argv, sys.argv[1:], strict=False):
        if before not in ELSEWHERE and word.partition("=")[0] not in (*ELSEWHERE, "--overwrite", "--json"):
            words.append(Path(word).name if "/" in word else word)
    return " ".join(words)


def _of_project(project: Path, job: str | None, database: str | None) -> list[features.Recording]:
    from rallytrace.features.sources import of_set
    from rallytrace.label import events, exchange

    with _open_project(project, database) as book:
        parts = events.job_labels(book, _job_of(book, job))
    sets = exchange.label_sets(parts)
    sport = project.resolve().name
    return [of_set(labels, part.video.path, sport, {}) for labels, part in zip(sets, parts, strict=True)]


def _say(manifest: dict[str, Any], out: str, as_json: bool) -> None:
    told = manifest["statistics"]
    if as_json:
        print_json({"features": out, **told})
        return
    for split, n in told["splits"].items():
        print(
            f"{split}: {n['clips']} clips of {n['matches']} matches, {n['frames']} frames: "
            f"{n['located']} with a ball, {n['absent']} without, {n['unlabelled']} unlabelled"
        )
    ours, theirs = told["bytes_per_frame"] / 1e3, told["reference_bytes_per_frame"] / 1e3
    print(
        f"{ours:.1f} KB a frame; as 3 float32 RGB pictures of 512x288: {theirs:.0f} KB, {theirs / ours:.0f} times that"
    )
    print(f"  {out}/manifest.json\n  {out}/contact_sheet.png")
