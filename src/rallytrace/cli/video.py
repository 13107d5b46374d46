"""track and synth: videos in, videos out."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from contextlib import ExitStack
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from rallytrace import storage, track
from rallytrace.annotate import Style
from rallytrace.cli.common import (
    Device,
    DeviceName,
    Json,
    On,
    Overwrite,
    Threads,
    Threshold,
    app,
    complain,
    on_request_to_end,
    parse_wh,
    print_json,
    progress_bar,
    warn,
)
from rallytrace.errors import InputError, MissingDependency, OutputError
from rallytrace.runtime import DEFAULT_MODEL
from rallytrace.scale.batch import Tracked, TrackJob, track_many
from rallytrace.synth import RallyOptions, make_clip
from rallytrace.types import BallPoint


class StyleName(StrEnum):
    """Choices of --style."""

    comet = "comet"
    dot = "dot"
    ring = "ring"


class Sport(StrEnum):
    """Choices of --sport."""

    badminton = "badminton"
    tennis = "tennis"


class CodecName(StrEnum):
    """Choices of --codec."""

    delta = "delta"
    jpeg = "jpeg"
    raw = "raw"


@app.command("track")
def track_command(
    sources: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(help="Videos, folders, globs, URLs (s3://bucket/raw/*.mp4), camera:0, or - for a pipe."),
    ] = None,
    out: Annotated[str, typer.Option("--out", help="Folder or URL for the results.")] = ".",
    on: On = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--model",
            help=f"A bundled network ({DEFAULT_MODEL} if not said), an .onnx file, or a checkpoint folder; "
            "with --endpoint, a network of the server.",
        ),
    ] = None,
    device: Device = DeviceName.auto,
    threads: Threads = None,
    threshold: Threshold = None,
    overlap: Annotated[int, typer.Option(min=1, help="Windows that see each frame: more is slower and better.")] = 1,
    fill: Annotated[int, typer.Option(min=0, help="Interpolate gaps of up to this many frames.")] = track.FILL,
    fields: Annotated[bool, typer.Option("--fields", help="Of interlaced video, a point for each field.")] = False,
    stream: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--stream",
            metavar="N",
            help="Picture or sound to take of a file with several: its number as ffprobe has it, or v:1, a:0.",
        ),
    ] = None,
    no_video: Annotated[bool, typer.Option("--no-video", help="Write the CSV only.")] = False,
    style: Annotated[StyleName, typer.Option(help="How the ball is drawn.")] = StyleName.comet,
    trail: Annotated[float, typer.Option(min=0, max=10, help="Seconds of path behind the ball.")] = 0.5,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--name", help="What the results of the one source are called, without .csv."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    live: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--live",
            metavar="SOURCE",
            help="Print each point as it comes: camera:0, rtsp://, udp://, srt://, - for a pipe.",
        ),
    ] = None,
    endpoint: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--endpoint", metavar="URL", help="Track on this server; --device and --threads are its own."),
    ] = None,
    api_key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--api-key", envvar="RALLYTRACE_API_KEY", help="For the endpoint."),
    ] = None,
    fingerprint: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--fingerprint", metavar="SHA256", help="The endpoint's certificate must be exactly this one."),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Accept any certificate of the endpoint.")] = False,
    codec: Annotated[
        CodecName, typer.Option(help="Frames to the endpoint: delta is small and exact, for most cameras.")
    ] = CodecName.delta,
) -> None:
    """Track the ball: writes <name>.csv and <name>.tracked.mp4 for each video."""
    if (live is None) == (not sources):
        raise typer.BadParameter("expected videos, or --live SOURCE")
    if on not in (None, "local") and (live or endpoint):
        raise typer.BadParameter(f"--on {on} has no use for --live and --endpoint")
    found = [live] if live else _find(sources or [])
    if name is not None and len(found) != 1:
        raise InputError(f"--name {name!r} is for one source, but {len(found)} are given: leave it out")
    job = TrackJob(
        out=out,
        model=model,
        device=device.value,
        threads=threads,
        threshold=threshold,
        overlap=overlap,
        fill=fill,
        fields=fields,
        draw_video=not no_video,
        style=Style(kind=style.value, trail_s=trail),
        overwrite=overwrite,
        streams=tuple(stream or ()),
        name=name,
    )
    found = _without_results(found, job)
    _check_outputs(found, job, resume=on is not None)
    hooks: dict[str, Any] = {"on": on or "local", "resume": on is not None, "stop": _stop_on_ctrl_c(live is not None)}
    if live:
        hooks["live"] = True
        hooks["on_point"] = _print_point_json if as_json else _print_point
    with ExitStack() as stack:
        if endpoint is not None:
            client = stack.enter_context(_client(endpoint, api_key, fingerprint, insecure))
            job = dataclasses.replace(job, network=_served(client, model))
            hooks["open_tracker"] = client.open_tracker(
                model=model, threshold=threshold, overlap=overlap, codec=codec.value
            )
        _track_all(found, job, hooks, as_json=as_json, quiet=as_json or bool(live))


def _find(sources: list[str]) -> list[str]:
    """Each once; what a folder or a pattern leaves out is said."""
    found = [each for one in sources for each in storage.expand(one, lambda line: warn(line, "note"))]
    return list(dict.fromkeys(found))


def _without_results(sources: list[str], job: TrackJob) -> list[str]:
    """A shell's *.mp4 names the results of an earlier run too."""
    made = {
        _place(job.place(path.name)): source for source in sources for path in track.output_paths(source, "", job.name)
    }
    kept = []
    for source in sources:
        maker = made.get(_place(source), source)
        if maker == source:
            kept.append(source)
        else:
            warn(f"{source} is left out: it is the result of {maker}", "note")
    return kept


def _place(where: str) -> str:
    """One text for one place."""
    return where if "://" in where else os.path.abspath(where)


def _track_all(found: list[str], job: TrackJob, hooks: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    """A broken one does not cost the others their results. Raises InputError at the end."""
    with ExitStack() as bars:
        bar: Any = None

        def show(p: track.Progress) -> None:
            nonlocal bar
            if bar is None:
                bar = bars.enter_context(progress_bar(Path(p.source).name, quiet=quiet))
            bar(p.frames_done, p.frames_total, f"{p.frames_done / p.elapsed_s:.0f} fps")

        def say(result: Tracked) -> None:
            nonlocal bar
            bars.close()  # what is printed under a living bar would end on standard error
            bar = None
            if result.error is None:
                _say_tracked(result, as_json)
            elif len(found) > 1:
                complain(InputError(result.error), as_json)

        results = track_many(found, job, on_progress=show, on_result=say, **hooks)
    errors = [result.error for result in results if result.error is not None]
    if errors:
        several = f"{len(errors)} of {len(found)} videos could not be tracked (see above)"
        raise InputError(several if len(found) > 1 else errors[0])


def _client(url: str, api_key: str | None, fingerprint: str | None, insecure: bool) -> Any:
    try:
        from rallytrace.serve.client import Client
    except ImportError as error:
        if error.name not in ("httpx", "websockets"):
            raise
        raise MissingDependency(f"--endpoint needs {error.name}: pip install 'rallytrace[serve]'") from None
    return Client(
        url,
        api_key=api_key,
        fingerprint=fingerprint,
        insecure=insecure,
        on_notice=warn,
    )


def _served(client: Any, model: str | None) -> str:
    """The digest of the network that a server has under that name, or as its default."""
    for each in client.models():
        if each["name"] == model or (model is None and each["default"]):
            return str(each["version"])
    return ""  # whoever opens it says that there is none


def _print_point(point: BallPoint) -> None:
    where = f"{point.xy[0]:9.2f} {point.xy[1]:9.2f}" if point.xy else " " * 19
    print(f"{point.frame:8d} {point.pts_s:10.3f} {where} {point.score:.2f} {point.source.value}", flush=True)


def _print_point_json(point: BallPoint) -> None:
    x, y = point.xy or (None, None)
    print_json(
        {"frame": point.frame, "pts_s": point.pts_s, "x": x, "y": y, "score": point.score, "source": point.source}
    )


def _stop_on_ctrl_c(is_live: bool) -> threading.Event:
    """The first Ctrl-C asks for a clean end, the second one does not ask. So does the end of a live source's program,
    whose results are then whole."""
    stop = threading.Event()

    def ask(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    if is_live:
        on_request_to_end(ask)
    return stop


def _say_tracked(result: Tracked, as_json: bool) -> None:
    for line in result.notes:
        warn(f"{result.source}: {line}", "note")
    for problem in result.problems:
        warn(f"{result.source}: {problem}")
    if as_json:
        print_json({**dataclasses.asdict(result), "fps": result.frames / (result.elapsed_s or 1)})
        return
    if result.skipped:
        print(f"{result.source}: tracked already, left as it is")
    else:
        print(
            f"{result.source}: ball found in {result.found} of {result.frames} frames, {result.filled} more "
            f"interpolated ({result.frames / (result.elapsed_s or 1):.0f} frames/s)"
        )
    for path in (result.csv, result.video):
        if path:
            print(f"  {path}")


def _check_outputs(sources: list[str], job: TrackJob, *, resume: bool) -> None:
    """Before any work: no result is overwritten unasked, and no two sources share one."""
    owner: dict[str, str] = {}
    present = set() if job.overwrite or resume else job.present()
    for source in sources:
        for name in job.names(source):
            path = job.place(name)
            if path in owner:
                raise OutputError(
                    f"{owner[path]} and {source} would both be written to {path}: use two --out folders, "
                    "or --name with one at a time"
                )
            owner[path] = source
            if name in present:
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
    for path in (out, out.with_name(f"{out.stem}_ball.csv")):
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already: use --overwrite, or another name")
    options = RallyOptions(sport=sport.value, wh=parse_wh(size), fps=rate, seconds=seconds, seed=seed, repeats=repeats)
    labels = make_clip(out, options)
    visible = sum(label.xy is not None for label in labels)
    if as_json:
        print_json({"video": out, "frames": len(labels), "visible": visible})
    else:
        print(f"{out}: {len(labels)} frames, ball visible in {visible}")
