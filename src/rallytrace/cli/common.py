"""What the verbs share: the app, common options, progress, JSON lines, errors."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib import import_module
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from rallytrace.errors import InputError
from rallytrace.storage import as_typed

VERBS = {  # verb -> the module that holds it, and its line in `rallytrace --help`
    "track": ("video", "Track the ball: writes <name>.csv and <name>.tracked.mp4 for each video."),
    "synth": ("video", "Make a synthetic rally: an .mp4 and its exact labels, <name>_ball.csv."),
    "add": (
        "store",
        "Store videos, labels and whatever else; after an interruption the same command sends the rest only.",
    ),
    "label": ("label", "Label the ball in the browser, alone or as a team."),
    "labels": ("labels", "Label files: convert between formats, count, check."),
    "prepare": (
        "features",
        "Make a feature set: each frame once as JPEG, the labels, checksums; `train` and `eval` take it as --data.",
    ),
    "train": ("learn", "Train a network; run the same command again to resume after an interruption."),
    "eval": ("learn", "Score a network on labelled clips with the field's metrics."),
    "export": ("learn", "Write a checkpoint as an .onnx file, which runs without torch."),
    "models": ("models", "Networks: what is bundled, and a registry of one's own."),
    "serve": ("serve", "Serve networks as a real-time HTTP(S) endpoint."),
    "keys": ("serve", "API keys of an endpoint: add, list, revoke."),
    "run": (
        "pipeline",
        "Run the steps of a pipeline that are not up to date: add, label, prepare, train, register, track.",
    ),
    "aws": ("aws", "The steps of the pipeline on AWS: label, prepare, train, deploy..."),
}


class Verbs(TyperGroup):
    """The verbs, each loaded when it is called: its line of help needs neither videos nor networks nor servers."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        loaded = self.commands
        self.commands = {verb: loaded.get(verb) or TyperCommand(verb, help=line) for verb, (_, line) in VERBS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in VERBS:
            self.commands[args[0]] = load_verb(args[0])
        return super().resolve_command(ctx, args)


def load_verb(verb: str) -> Any:
    """Its command. The module that holds it registers it with `app`."""
    import_module(f"rallytrace.cli.{VERBS[verb][0]}")
    return typer.main.get_group(app).commands[verb]


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Sports broadcast video to ball trajectories. `rallytrace COMMAND --help` explains each command.",
)
notes = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON lines on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
Model = Annotated[str, typer.Option("--model", help="A bundled network, an .onnx file, or a checkpoint folder.")]
Threshold = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--threshold", min=0.01, max=0.99, help="Height of a peak that is a ball; on a path 0.6 of it."),
]
Threads = Annotated[Optional[int], typer.Option("--threads", min=1, help="CPU threads of the network; default all.")]  # noqa: UP045
On = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--on", metavar="WHERE", help="local, ray, or ray://host:10001; what is complete is not done again."),
]


class DeviceName(StrEnum):
    """Choices of --device."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    openvino = "openvino"


Device = Annotated[DeviceName, typer.Option("--device", help="Where the network runs.")]


class Tls(StrEnum):
    """Choices of --tls."""

    self_signed = "self-signed"


def parse_wh(text: str) -> tuple[int, int]:
    """'1280x720' -> (1280, 720). Raises InputError."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.lower())
    if not found:
        raise InputError(f"--size {text!r}: expected width x height in pixels, such as 1280x720")
    return int(found[1]), int(found[2])


def print_json(values: dict[str, Any]) -> None:
    """One JSON line on standard output."""
    print(json.dumps(values, default=str), flush=True)


def warn(text: str, word: str = "warning") -> None:
    """One line on standard error. `text` may hold any name: nothing in it is taken for markup."""
    notes.print(Text.assemble((f"{word}:", "yellow"), f" {text}"), soft_wrap=True)


def print_any_name() -> None:
    """From now on a character that a console or a pipe cannot show is printed as its number, and never an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


ended_by: list[int] = []  # signals, but for Ctrl-C


def end_cleanly(number: int, _: object) -> None:
    """A handler: the program ends as at Ctrl-C, so that what is half-written goes away. A second signal changes
    nothing: it would stop the cleaning up."""
    signal.signal(number, signal.SIG_IGN)
    ended_by.append(number)
    raise KeyboardInterrupt


def on_request_to_end(handler: Callable[[int, Any], None]) -> None:
    """For a stop by a supervisor and for a terminal that is closed, unless `nohup` says that this is no reason."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # there is no SIGHUP on Windows
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


@contextmanager
def progress_bar(label: str, *, quiet: bool) -> Iterator[Any]:
    """Yields bar(done, total, note). On standard error, so that standard output stays clean for pipes."""
    columns = (SpinnerColumn(), _text("{task.description}"), BarColumn(), _text("{task.fields[note]}"))
    with Progress(*columns, TimeRemainingColumn(), console=notes, transient=True, disable=quiet) as progress:
        task = progress.add_task(label, total=None, note="")

        def update(done: int, total: int | None, note: str) -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield update


def _text(form: str) -> TextColumn:
    return TextColumn(form, markup=False)


def complain(error: Exception, as_json: bool) -> None:
    """One line on standard error, and with --json one on standard output."""
    message = " ".join(as_typed(str(error)).split())
    if as_json:
        print_json({"error": message})
    print(f"error: {message}", file=sys.stderr)
