"""models: what is bundled, and a registry of one's own."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Optional

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from rallytrace import registry, storage
from rallytrace.aws import archive
from rallytrace.cli.common import Json, app, notes, print_json
from rallytrace.errors import InputError
from rallytrace.evaluate.gate import MIN_F1, TOLERANCE, promote_if_better
from rallytrace.features import load_data
from rallytrace.registry import ModelVersion
from rallytrace.runtime import DEFAULT_MODEL, bundled
from rallytrace.runtime.onnx import OnnxNetwork
from rallytrace.types import Clip

models = typer.Typer(invoke_without_command=True, help="Networks: what is bundled, and a registry of one's own.")
app.add_typer(models, name="models")

Registry = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--registry", envvar="RALLYTRACE_REGISTRY", help="Folder or URL of registered networks."),
]
Data = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--data", help="Labelled clips or a feature set: their val split decides whether it is promoted."),
]
MinF1 = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--min-f1", min=0, max=1, help=f"The least F1 {TOLERANCE} on --data; {MIN_F1:g} if not said."),
]
Which = Annotated[str, typer.Argument(metavar="NAME[@STAGE|@VERSION]", help="The newest version if only a name.")]


@models.callback()
def models_command(context: typer.Context, where: Registry = None, as_json: Json = False) -> None:
    """List the bundled networks, and those of --registry."""
    if context.invoked_subcommand:
        return
    for name, path in bundled().items():
        about = path.with_suffix(".md").read_text().splitlines()[2]
        size = path.stat().st_size / 2**20
        if as_json:
            print_json({"name": name, "path": path, "mib": round(size, 2), "about": about})
        else:
            print(f"{name}{' (default)' if name == DEFAULT_MODEL else ''}  {size:.1f} MiB  {about}\n  {path}")
    if where:
        _say(registry.versions(where), as_json)


@models.command("register")
def register_command(
    onnx: Annotated[
        str, typer.Argument(help="An .onnx file, or model.tar.gz of a SageMaker job; path or URL; a bundled one.")
    ],
    name: Annotated[str, typer.Option("--name", help="What it is for, such as tennis.")],
    where: Registry = None,
    stage: Annotated[Optional[str], typer.Option(help="Give it this stage, such as production.")] = None,  # noqa: UP045
    data: Data = None,
    min_f1: MinF1 = None,
    as_json: Json = False,
) -> None:
    """Keep a network as a version of NAME, with its figures and what it was made of."""
    path = bundled().get(onnx) or storage.fetch(onnx)
    if not path.is_file():
        raise InputError(f"{onnx} does not exist: expected an .onnx file of `rallytrace export`")
    if path.name == archive.NAME:
        path = archive.model_in(path.parent)
    origin = OnnxNetwork(path, device="cpu").origin
    metrics = {key: value for key, value in origin.pop("val", {}).items() if isinstance(value, float)}
    version = registry.register(_asked(where), name, path, metrics=metrics, lineage=origin)
    if stage:
        version = _promote(_asked(where), f"{name}@{version.version}", stage, data, min_f1)
    _say([version], as_json)


@models.command("promote")
def promote_command(
    which: Which,
    stage: Annotated[str, typer.Argument(help="Such as staging or production.")],
    where: Registry = None,
    data: Data = None,
    min_f1: MinF1 = None,
    as_json: Json = False,
) -> None:
    """Make a version the one that NAME@STAGE means from now on; the one before keeps its version.

    With --data only if it is good enough there, and no worse than the one that has the stage now.
    """
    _say([_promote(_asked(where), which, stage, data, min_f1)], as_json)


def _promote(where: str, which: str, stage: str, data: list[str] | None, min_f1: float | None) -> ModelVersion:
    if not data:
        if min_f1 is not None:
            raise InputError(f"--min-f1 {min_f1:g} needs --data: labelled clips or a feature set to measure it on")
        return registry.promote(where, which, stage)

    def clips() -> list[Clip]:
        found = load_data(data)
        held_out = [clip for clip in found if clip.split == "val"]
        if not held_out:
            raise InputError(f"no clip of split 'val' in {data}: it has {sorted({clip.split for clip in found})}")
        return held_out

    def on_score(version: ModelVersion, f1: float) -> None:
        notes.print(f"{version.name}@{version.version}: F1 {TOLERANCE} {f1:.3f}", highlight=False, soft_wrap=True)

    return promote_if_better(where, which, stage, clips, MIN_F1 if min_f1 is None else min_f1, on_score)


@models.command("rollback")
def rollback_command(
    name: Annotated[str, typer.Argument(help="Of the network.")],
    stage: Annotated[str, typer.Argument(help="Such as staging or production.")],
    where: Registry = None,
    as_json: Json = False,
) -> None:
    """Take the last promotion back: NAME@STAGE means again the version that it meant before."""
    _say([registry.rollback(_asked(where), name, stage)], as_json)


@models.command("fetch")
def fetch_command(which: Which, where: Registry = None, as_json: Json = False) -> None:
    """Print the path of a checked local copy, for --model and --weights."""
    path = registry.fetch(_asked(where), which)
    print_json({"path": path}) if as_json else print(path)


def _asked(where: str | None) -> str:
    if not where:
        raise InputError("which registry? Use --registry FOLDER_OR_URL, or set RALLYTRACE_REGISTRY")
    return where


def _say(versions: list[ModelVersion], as_json: bool) -> None:
    if as_json:
        for version in versions:
            print_json(dataclasses.asdict(version))
        return
    table = Table("network", "version", "stages", "created", "F1 4@288", "data", "code", box=box.SIMPLE_HEAD)
    for v in versions:
        f1 = v.metrics.get("val_f1_4at288")
        data = ", ".join(_source(each) for each in v.lineage.get("data", []))
        row = (v.name, v.version, ", ".join(v.stages), v.created, "-" if f1 is None else f"{f1:.3f}", data)
        table.add_row(*row, str(v.lineage.get("code", "-")))
    Console().print(table)


def _source(each: Any) -> str:
    return f"{each['name']} {each['sha256'][:12]}" if isinstance(each, dict) else str(each)
