"""add: files into a folder or store."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated, Optional

import typer

from rallytrace.cli.common import Json, Overwrite, app, print_json, progress_bar


@app.command("add")
def add_command(
    sources: Annotated[list[str], typer.Argument(help="Files, or folders whose files keep their names in them.")],
    to: Annotated[str, typer.Option("--to", help="A folder, s3://bucket/folder, gs://, az://.")],
    endpoint_url: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--endpoint-url", help="Of an S3-compatible server, as AWS_ENDPOINT_URL for all commands."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Store videos, labels and whatever else; after an interruption the same command sends the rest only."""
    from rallytrace.storage import add

    if endpoint_url:
        os.environ["AWS_ENDPOINT_URL_S3"] = endpoint_url
    with progress_bar("add", quiet=as_json) as bar:
        report = add(
            sources,
            to,
            overwrite=overwrite,
            on_progress=lambda done, total, key: bar(done, total, f"{done / 1e6:.1f} of {total / 1e6:.1f} MB {key}"),
        )
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        print(
            f"{to}: {len(report.stored)} files stored ({report.bytes / 1e6:.1f} MB), {len(report.kept)} there already"
        )
