"""The command line: one function per verb, each a thin call of a public Python function."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from rallytrace import __version__
from rallytrace.cli.common import app, complain, end_cleanly, ended_by, on_request_to_end, print_any_name
from rallytrace.errors import MissingDependency, RallytraceError
from rallytrace.files import drop_all_partials

__all__ = ["app", "main"]

EXTRAS = {  # of pyproject.toml: what a command may miss
    "aws": ("boto3", "botocore"),
    "train": ("torch", "onnx", "onnxscript", "tensorboard"),
    "label": ("sqlalchemy", "alembic", "argon2"),
    "serve": ("fastapi", "starlette", "uvicorn", "prometheus_client", "websockets", "httpx", "cryptography"),
}


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


def _interrupted() -> str:
    from rallytrace.storage import left_for_next_run

    kept = left_for_next_run()
    if not kept:
        return "interrupted: nothing half-written is left"
    return f"interrupted: no half-written result is left; the same command goes on with {', '.join(kept)}"


def main() -> NoReturn:
    """Run the command line. Errors are one line on standard error; the exit code is 1, 2 for usage, 130 for Ctrl-C, and
    143 for SIGTERM."""
    as_json = "--json" in sys.argv
    print_any_name()
    on_request_to_end(end_cleanly)
    try:
        app()
    except SystemExit as done:
        if done.code == 130:  # what Typer makes of Ctrl-C
            drop_all_partials()
            print(_interrupted(), file=sys.stderr)
            done.code = 128 + ended_by[0] if ended_by else 130
        raise
    except RallytraceError as error:
        complain(error, as_json)
        sys.exit(1)
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        extra = next((extra for extra, names in EXTRAS.items() if name in names), None)
        if extra is None:
            raise
        complain(MissingDependency(f"this command needs {name}: pip install 'rallytrace[{extra}]'"), as_json)
        sys.exit(1)
    sys.exit(0)
