"""label: the labelling workspace in the browser, and the care of its book."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from rallytrace.cli.common import Json, Tls, app, notes, print_json
from rallytrace.errors import InputError

Project = Annotated[Path, typer.Argument(help="The project's folder.")]
Database = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="postgresql://user@host/name of the label book, if it is not in the folder."),
]


class _ServeByDefault(TyperGroup):
    """`rallytrace label PROJECT` is `rallytrace label serve PROJECT`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


label_app = typer.Typer(
    cls=_ServeByDefault,
    no_args_is_help=True,
    help="Label the ball in the browser, alone or as a team.\n\n"
    "`rallytrace label PROJECT` is short for `rallytrace label serve PROJECT` and takes the same options.",
)
app.add_typer(label_app, name="label")


@label_app.command("serve")
def serve_command(
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
    database: Database = None,
    cert: Annotated[Optional[Path], typer.Option(help="TLS certificate chain, PEM.")] = None,  # noqa: UP045
    key: Annotated[Optional[Path], typer.Option(help="Its private key, PEM.")] = None,  # noqa: UP045
    tls: Annotated[Optional[Tls], typer.Option(help="Make a certificate at the first start.")] = None,  # noqa: UP045
    public_url: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--public-url", metavar="URL", help="https://name under which a proxy shows this server."),
    ] = None,
    proxy: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--proxy", metavar="ADDRESS", help="A proxy, or its network, whose X-Forwarded-For is believed."),
    ] = None,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Serve other machines without TLS: passwords can be read.")
    ] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address only.")] = False,
) -> None:
    """Serve a project to browsers, until Ctrl-C."""
    from rallytrace.label import ServerOptions, run_workspace

    options = ServerOptions(
        host=host,
        port=port,
        cert=cert,
        key=key,
        tls_self_signed=tls is not None,
        public_url=public_url,
        proxies=tuple(proxy or ()),
        insecure_http=insecure_http,
        open_browser=not no_browser,
    )

    def say(line: str) -> None:
        notes.print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)

    run_workspace(project, options, add=add or [], weights=weights, database=database, on_warning=say)


@label_app.command("backup")
def backup_command(
    project: Project,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The file to write; by default one with the time in its name, in the project's backups/."),
    ] = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Copy the label book, whole and of one moment, also while it is served."""
    from rallytrace.label.backup import back_up, new_place
    from rallytrace.label.book import book_url

    url = book_url(book_of(project, database))
    made = back_up(url, out or new_place(url, project / "backups"))
    if as_json:
        print_json({"backup": made, "bytes": made.stat().st_size})
    else:
        print(f"the label book is in {made}, {made.stat().st_size / 1e6:.1f} MB")


@label_app.command("passwd")
def passwd_command(
    project: Project,
    name: Annotated[str, typer.Argument(help="Who gets a new password.")],
    admin: Annotated[bool, typer.Option("--admin", help="Make them an active admin, too.")] = False,
    database: Database = None,
) -> None:
    """Give a member a new password, also the only admin; asks for it, or reads a line of standard input."""
    from rallytrace.label import open_book
    from rallytrace.label.team import reset_password

    with open_book(book_of(project, database), migrate=False) as book:
        if sys.stdin.isatty():
            password = typer.prompt("New password", hide_input=True, confirmation_prompt=True)
        else:
            password = sys.stdin.readline().rstrip("\r\n")
        user = reset_password(book, name, password, admin=admin)
    out = "" if user.active else ", but is locked out: --admin lets them in"
    print(f"{user.name}, {user.role}, has a new password{out}; sessions and API tokens have ended")


def book_of(project: Path, database: str | None) -> Path | str:
    """Where the label book of a project is. Raises InputError where there is none."""
    path = project / "book.sqlite"
    if database is None and not path.is_file():
        raise InputError(f"{project}: no label project there, expected a folder with {path.name}, or --database")
    return database or path
