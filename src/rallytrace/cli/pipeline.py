"""run: a whole pipeline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rallytrace import pipeline
from rallytrace.cli.common import Json, app, notes, print_json


@app.command("run")
def run_command(
    config: Annotated[Path, typer.Argument(help="A pipeline.toml; see the guide.")],
    on: Annotated[Optional[str], typer.Option("--on", help="Not the file's: local, ray, ray://..., aws.")] = None,  # noqa: UP045
    logs: Annotated[Optional[Path], typer.Option("--logs", help="Folder; default beside the file.")] = None,  # noqa: UP045
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands only.")] = False,
    as_json: Json = False,
) -> None:
    """Run the steps of a pipeline that are not up to date: add, label, prepare, train, register, track."""
    plan = pipeline.Pipeline.read(config, on)
    if dry_run:
        for step in plan.steps():
            for command in step.commands:
                print(f"rallytrace {' '.join(command)}")
        return
    states = {step.name: ("", "", 0.0) for step in plan.steps()}
    with Live(console=notes, auto_refresh=False) as live:

        def on_change(step: str, state: str, word: str) -> None:
            began = states[step][2] or time.monotonic()
            states[step] = state, word, began
            if as_json:
                print_json({"step": step, "state": state, "about": word})
            else:
                live.update(_table(states), refresh=True)

        pipeline.run(plan, logs or config.parent / "pipeline-logs", on_change)


def _table(states: dict[str, tuple[str, str, float]]) -> Table:
    table = Table("step", "state", "seconds", "", box=box.SIMPLE_HEAD)
    for step, (state, word, began) in states.items():
        spent = f"{time.monotonic() - began:.0f}" if state == "running" else ""
        table.add_row(step, state, spent, Text(word[:90]))
    return table
