"""The command line: one function per verb, each a thin call of a public Python function."""

from __future__ import annotations

import dataclasses
import glob
import json
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from rallytrace import __version__, track, video
from rallytrace.annotate import Style
from rallytrace.errors import InputError, MissingDependency, OutputError, RallytraceError
from rallytrace.evaluate import Report, evaluate_clips, write_report
from rallytrace.labels import VIDEO_SUFFIXES, load_clips
from rallytrace.runtime import DEFAULT_MODEL, bundled, load_network
from rallytrace.synth import RallyOptions, make_clip
from rallytrace.types import Clip

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Sports broadcast video to ball trajectories. `rallytrace COMMAND --help` explains each command.",
)
notes = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON lines on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
Model = Annotated[str, typer.Option("--model", help="A bundled network, an .onnx file, or a checkpoint folder.")]
Threads = Annotated[Optional[int], typer.Option("--threads", min=1, help="CPU threads of the network; default all.")]  # noqa: UP045


class DeviceName(StrEnum):
    """Choices of --device."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    openvino = "openvino"


class StyleName(StrEnum):
    """Choices of --style."""

    comet = "comet"
    dot = "dot"
    ring = "ring"


class Sport(StrEnum):
    """Choices of --sport."""

    badminton = "badminton"
    tennis = "tennis"


Device = Annotated[DeviceName, typer.Option("--device", help="Where the network runs.")]


@app.command("track")
def track_command(
    sources: Annotated[list[str], typer.Argument(help="Videos, folders, globs, URLs, or a camera (camera:0).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("."),
    model: Model = DEFAULT_MODEL,
    device: Device = DeviceName.auto,
    threads: Threads = None,
    threshold: Annotated[float, typer.Option(min=0.01, max=0.99, help="Weaker detections are no ball.")] = 0.5,
    overlap: Annotated[int, typer.Option(min=1, help="Windows that see each frame: more is slower and better.")] = 1,
    fill: Annotated[int, typer.Option(min=0, help="Interpolate gaps of up to this many frames.")] = track.FILL,
    no_video: Annotated[bool, typer.Option("--no-video", help="Write the CSV only.")] = False,
    style: Annotated[StyleName, typer.Option(help="How the ball is drawn.")] = StyleName.comet,
    trail: Annotated[float, typer.Option(min=0, max=10, help="Seconds of path behind the ball.")] = 0.5,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Track the ball: writes <name>.csv and <name>.tracked.mp4 for each video."""
    found = _expand(sources)
    _check_outputs(found, out, draw_video=not no_video, overwrite=overwrite)
    network = load_network(model, device=device.value, threads=threads)
    stop = _stop_on_ctrl_c()
    failed = 0
    for source in found:
        try:
            with _bar(Path(source).name, quiet=as_json) as bar:
                result = track.track_video(
                    source,
                    out,
                    network=network,
                    draw_video=not no_video,
                    threshold=threshold,
                    overlap=overlap,
                    fill=fill,
                    style=Style(kind=style.value, trail_s=trail),
                    overwrite=overwrite,
                    on_progress=lambda p: bar(p.frames_done, p.frames_total, f"{p.frames_done / p.elapsed_s:.0f} fps"),
                    stop=stop,
                )
        except RallytraceError as error:
            if len(found) == 1:
                raise
            failed += 1
            _complain(error, as_json)
            continue
        _say_tracked(result, as_json)
    if failed:
        raise InputError(f"{failed} of {len(found)} videos could not be tracked (see above)")


def _stop_on_ctrl_c() -> threading.Event:
    """The first Ctrl-C asks for a clean end, the second one does not ask."""
    stop = threading.Event()

    def ask(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    return stop


def _say_tracked(result: track.TrackResult, as_json: bool) -> None:
    for problem in result.problems:
        notes.print(f"[yellow]warning:[/] {result.source}: {problem}", highlight=False, soft_wrap=True)
    if as_json:
        _print_json({**dataclasses.asdict(result), "fps": result.frames / result.elapsed_s})
        return
    print(
        f"{result.source}: ball found in {result.found} of {result.frames} frames, {result.filled} more interpolated "
        f"({result.frames / result.elapsed_s:.0f} frames/s)"
    )
    for path in (result.csv, result.video):
        if path:
            print(f"  {path}")


def _expand(sources: list[str]) -> list[str]:
    """Folders become their videos (a folder of numbered images stays one source), globs their matches."""
    found: list[str] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            inside = sorted(str(p) for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
            if not inside and not any(p.suffix.lower() in video.PICTURE_SUFFIXES for p in path.iterdir()):
                raise InputError(f"folder {source} holds no video and no images: expected {_suffixes()}")
            found += inside or [source]
        elif not path.exists() and glob.has_magic(source) and "://" not in source:
            matches = sorted(glob.glob(source, recursive=True))
            if not matches:
                raise InputError(f"no file matches {source!r}: check the pattern")
            found += matches
        else:
            found.append(source)
    return list(dict.fromkeys(found))


def _suffixes() -> str:
    return "files such as " + ", ".join(VIDEO_SUFFIXES)


def _check_outputs(sources: list[str], out: Path, *, draw_video: bool, overwrite: bool) -> None:
    """Before any work: no result is overwritten unasked, and no two sources share one."""
    owner: dict[Path, str] = {}
    for source in sources:
        csv, drawn = track.output_paths(source, out)
        for path in (csv, drawn) if draw_video else (csv,):
            if path in owner:
                raise OutputError(f"{owner[path]} and {source} would both be written to {path}: use two --out folders")
            owner[path] = source
            if path.exists() and not overwrite:
                raise OutputError(f"{path} exists already: use --overwrite, or another --out folder")


@app.command("synth")
def synth_command(
    out: Annotated[Path, typer.Argument(help="The .mp4 to write; its labels go beside it.")],
    sport: Annotated[Sport, typer.Option(help="Court and ball.")] = Sport.badminton,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600)] = 5.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    size: Annotated[str, typer.Option(help="Width x height in pixels.")] = "1280x720",
    fps: Annotated[str, typer.Option(help="Frames per second, also as a fraction: 30000/1001.")] = "30",
    repeats: Annotated[bool, typer.Option("--repeats", help="Repeat every sixth frame, as 25 -> 30 fps does.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a synthetic rally: an .mp4 and its exact labels, <name>_ball.csv."""
    try:
        rate = Fraction(fps)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"--fps {fps!r}: expected frames per second, such as 30 or 30000/1001") from None
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists already: use --overwrite, or another name")
    options = RallyOptions(sport=sport.value, wh=_size(size), fps=rate, seconds=seconds, seed=seed, repeats=repeats)
    labels = make_clip(out, options)
    visible = sum(label.xy is not None for label in labels)
    if as_json:
        _print_json({"video": out, "frames": len(labels), "visible": visible})
    else:
        print(f"{out}: {len(labels)} frames, ball visible in {visible}")


@app.command("models")
def models_command(as_json: Json = False) -> None:
    """List the bundled networks."""
    for name, path in bundled().items():
        card = path.with_suffix(".md")
        about = card.read_text().splitlines()[2] if card.exists() else ""
        size = path.stat().st_size / 2**20
        if as_json:
            _print_json({"name": name, "path": path, "mib": round(size, 2), "about": about})
        else:
            print(f"{name}{' (default)' if name == DEFAULT_MODEL else ''}  {size:.1f} MiB  {about}\n  {path}")


@app.command("eval")
def eval_command(
    data: Annotated[list[Path], typer.Option("--data", help="Folder of labelled clips (index.csv).")],
    weights: Annotated[str, typer.Option("--weights", help="A bundled network, .onnx or checkpoint.")] = DEFAULT_MODEL,
    split: Annotated[str, typer.Option(help="Which split of the data; 'all' for every clip.")] = "val",
    out: Annotated[Optional[Path], typer.Option("--out", help="Folder for report.json and report.html.")] = None,  # noqa: UP045
    device: Device = DeviceName.auto,
    threads: Threads = None,
    threshold: Annotated[float, typer.Option(min=0.01, max=0.99)] = 0.5,
    overlap: Annotated[int, typer.Option(min=1)] = 1,
    fill: Annotated[int, typer.Option(min=0, help="Score with gap filling of up to this many frames.")] = 0,
    reject: Annotated[bool, typer.Option("--reject", help="Score with outlier rejection.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Score a network on labelled clips with the field's metrics."""
    if out and (out / "report.json").exists() and not overwrite:
        raise OutputError(f"{out / 'report.json'} exists already: use --overwrite, or another --out folder")
    clips = _load(data)
    chosen = [clip for clip in clips if split in (clip.split, "all")]
    if not chosen:
        raise InputError(f"no clip of split {split!r} in {data}: it has {sorted({clip.split for clip in clips})}")
    network = load_network(weights, device=device.value, threads=threads)
    with _bar("evaluate", quiet=as_json) as bar:
        report = evaluate_clips(
            network,
            chosen,
            threshold=threshold,
            overlap=overlap,
            fill=fill,
            reject=reject,
            on_clip=lambda done: bar(done, len(chosen), ""),
        )
    if out:
        write_report(report, out)
    if as_json:
        _print_json(report.to_dict())
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(_score_table(report))
        if report.total.n_unlabelled:
            print(f"  {report.total.n_unlabelled} frames have no label and were not scored")
        if out:
            print(f"  {out / 'report.html'}\n  {out / 'report.json'}")


def _score_table(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = ("", "within px", "TP", "FP1", "FP2", "TN", "FN", "prec.", "recall", "F1", "acc.", "median", "p95 px")
    for name in columns:
        table.add_column(name, justify="left" if name in ("", "within px") else "right", no_wrap=True)
    for clip, *row in report.rows():
        ratios = [f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value) for value in row]
        table.add_row(str(clip), *ratios)
    return table


@app.command("train")
def train_command(
    data: Annotated[list[Path], typer.Option("--data", help="Folder of labelled clips with a train and a val split.")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder; an existing run is resumed.")],
    model: Annotated[str, typer.Option("--model", help="A network of the registry.")] = "rallynet",
    init: Annotated[Optional[Path], typer.Option(help="A checkpoint to start from, for fine-tuning.")] = None,  # noqa: UP045
    steps: Annotated[int, typer.Option(min=1)] = 12_000,
    batch: Annotated[int, typer.Option(min=1, help="Windows per step.")] = 24,
    lr: Annotated[float, typer.Option(min=1e-7, max=1.0)] = 2e-3,
    loss: Annotated[str, typer.Option(help="focal or wbce.")] = "focal",
    mixup: Annotated[float, typer.Option(min=0, max=1, help="Share of batches that are blended.")] = 0.0,
    frames: Annotated[Optional[int], typer.Option(min=1, help="Pictures in a window.")] = None,  # noqa: UP045
    size: Annotated[Optional[str], typer.Option(help="Input width x height.")] = None,  # noqa: UP045
    sigma: Annotated[Optional[float], typer.Option(min=0.1, help="Of the Gaussian target, in model px.")] = None,  # noqa: UP045
    colour: Annotated[Optional[str], typer.Option(help="grey or rgb.")] = None,  # noqa: UP045
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Device = DeviceName.auto,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the training step.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    val_every: Annotated[int, typer.Option(min=1)] = 1000,
    save_every: Annotated[int, typer.Option(min=1)] = 200,
    log_every: Annotated[int, typer.Option(min=1)] = 50,
    patience: Annotated[int, typer.Option(min=0, help="Validations without progress before stopping.")] = 0,
    cache: Annotated[Optional[Path], typer.Option(help="Folder for decoded frames.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Train a network; run the same command again to resume after an interruption."""
    import torch

    from rallytrace.models import get_spec
    from rallytrace.train import TrainOptions, train

    torch.set_num_threads(threads)
    asked = {"frames": frames, "size_wh": size and _size(size), "sigma_px": sigma, "colour": colour}
    spec = get_spec(model, **{name: value for name, value in asked.items() if value is not None})
    options = TrainOptions(
        steps=steps,
        batch=batch,
        lr=lr,
        loss=loss,  # type: ignore[arg-type]  # checked by TrainOptions
        mixup=mixup,
        precision=precision,  # type: ignore[arg-type]
        device=device.value,  # type: ignore[arg-type]
        workers=workers,
        seed=seed,
        val_every=val_every,
        save_every=save_every,
        log_every=log_every,
        patience=patience,
    )

    def say(step: int, values: dict[str, float]) -> None:
        if as_json:
            _print_json({"step": step, **values})
        else:
            print(f"step {step}/{steps}  " + "  ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)

    # Weights travel: the command is kept without the folders of the machine that it ran on.
    command = " ".join(["rallytrace", *(Path(word).name if "/" in word else word for word in sys.argv[1:])])
    provenance = {"command": command, "data": [folder.name for folder in data]}
    best = train(_load(data), spec, out, options, init=init, cache=cache, provenance=provenance, on_step=say)
    print(json.dumps({"best": str(best)}) if as_json else f"best checkpoint: {best}")


@app.command("export")
def export_command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder, such as run/best.")],
    out: Annotated[Path, typer.Option("--out", help="The .onnx file to write.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint as an .onnx file, which runs without torch."""
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists already: use --overwrite, or another name")
    from rallytrace.runtime.export import export

    export(checkpoint, out)
    size = out.stat().st_size / 2**20
    print(json.dumps({"onnx": str(out), "mib": size}) if as_json else f"{out} ({size:.1f} MiB)")


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.lower())
    if not found:
        raise InputError(f"--size {text!r}: expected width x height in pixels, such as 1280x720")
    return int(found[1]), int(found[2])


def _load(folders: list[Path]) -> list[Clip]:
    return [clip for folder in folders for clip in load_clips(folder)]


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values, default=str), flush=True)


@contextmanager
def _bar(label: str, *, quiet: bool) -> Iterator[Any]:
    """Yields bar(done, total, note). On standard error, so that standard output stays clean for pipes."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeRemainingColumn(), console=notes, transient=True, disable=quiet) as progress:
        task = progress.add_task(label, total=None, note="")

        def update(done: int, total: int | None, note: str) -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield update


def _complain(error: Exception, as_json: bool) -> None:
    message = " ".join(str(error).split())
    if as_json:
        _print_json({"error": message})
    print(f"error: {message}", file=sys.stderr)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line. Errors are one line on standard error; the exit code is 1, 2 for usage, 130 for Ctrl-C."""
    as_json = "--json" in sys.argv
    try:
        app()
    except SystemExit as done:
        if done.code == 130:  # what Typer makes of Ctrl-C
            print("interrupted: nothing half-written is left", file=sys.stderr)
        raise
    except RallytraceError as error:
        _complain(error, as_json)
        sys.exit(1)
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        if name not in ("torch", "onnx", "onnxscript", "tensorboard"):
            raise
        _complain(MissingDependency(f"this command needs {name}: pip install 'rallytrace[train]'"), as_json)
        sys.exit(1)
    sys.exit(0)
