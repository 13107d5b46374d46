"""The command line: one function per verb, each a thin call of a public Python function."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from rallytrace import __version__
from rallytrace.cli import aws, features, label, labels, learn, models, pipeline, serve, store, video
from rallytrace.cli.common import app, complain
from rallytrace.errors import MissingDependency, RallytraceError

__all__ = [
    "app",
    "aws",
    "features",
    "label",
    "labels",
    "learn",
    "main",
    "models",
    "pipeline",
    "serve",
    "store",
    "video",
]

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
