"""label: the labelling workspace in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from rallytrace.cli.common import app, notes


@app.command("label")
def label_command(
    project: Annotated[Path, typer.Argument(help="The project's folder; made where it is missing.")],
    add: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--add", help="A video, or a folder of them; those of a URL are copied into the project."),
    ] = None,
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A network (.onnx, or a run's best) to propose labels anew for all videos of the project."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8421,
    database: Annotated[Optional[str], typer.Option(help="postgresql://user@host/name, for the label book.")] = None,  # noqa: UP045
    cert: Annotated[Optional[Path], typer.Option(help="TLS certificate chain, PEM.")] = None,  # noqa: UP045
    key: Annotated[Optional[Path], typer.Option(help="Its private key, PEM.")] = None,  # noqa: UP045
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Serve other machines without TLS: passwords can be read.")
    ] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address only.")] = False,
) -> None:
    """Label the ball in the browser, alone or as a team."""
    from rallytrace.label import ServerOptions, run_workspace

    options = ServerOptions(
        host=host, port=port, cert=cert, key=key, insecure_http=insecure_http, open_browser=not no_browser
    )

    def say(line: str) -> None:
        notes.print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)

    run_workspace(project, options, add=add or [], weights=weights, database=database, on_warning=say)
