"""serve and keys: the endpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from rallytrace.cli.common import Device, DeviceName, Json, Threads, Tls, app, print_json
from rallytrace.errors import InputError

keys_app = typer.Typer(no_args_is_help=True, help="API keys of an endpoint: add, list, revoke.")
app.add_typer(keys_app, name="keys")

Strings = Optional[list[str]]  # noqa: UP045 - Typer reads it
File = Optional[Path]  # noqa: UP045


@app.command("serve")
def serve_command(
    weights: Annotated[
        Strings, typer.Option("--weights", help="A bundled network, an .onnx file or NAME=FILE; may be repeated.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    device: Device = DeviceName.auto,
    threads: Threads = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Networks that run at the same time.")] = 1,
    tls: Annotated[Optional[Tls], typer.Option(help="Make a certificate at the first start.")] = None,  # noqa: UP045
    cert: Annotated[File, typer.Option(help="Certificate chain, PEM.")] = None,
    key: Annotated[File, typer.Option(help="Its private key, PEM.")] = None,
    keys: Annotated[File, typer.Option(help="File of API keys; see `rallytrace keys`.")] = None,
    no_keys: Annotated[bool, typer.Option("--no-keys", help="Something else checks who calls.")] = False,
    public_url: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--public-url", metavar="URL", help="https://name under which a proxy shows this server."),
    ] = None,
    proxy: Annotated[
        Strings,
        typer.Option("--proxy", metavar="ADDRESS", help="A proxy, or its network, whose X-Forwarded-For is believed."),
    ] = None,
    allow_fetch: Annotated[Strings, typer.Option(help="s3://, gs:// or az:// prefix that requests may name.")] = None,
    spool: Annotated[File, typer.Option(help="Folder in which uploaded videos wait.")] = None,
    max_body_mb: Annotated[int, typer.Option(min=1, help="Largest body of /invocations.")] = 64,
    max_video_mb: Annotated[int, typer.Option(min=1, help="Largest body of /v1/track.")] = 2048,
    max_sessions: Annotated[int, typer.Option(min=1, help="Streams at the same time.")] = 64,
    on: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--on", metavar="WHERE", help="local, ray or ray://host:10001: replicas, as many as are needed."),
    ] = None,
    drain: Annotated[float, typer.Option(min=0, help="Seconds to finish in, when told to stop.")] = 25.0,
    hang: Annotated[float, typer.Option(min=0.1, help="Seconds after which a network that runs is given up.")] = 60.0,
    sagemaker: Annotated[bool, typer.Option("--sagemaker", help="Host, port and weights as SageMaker wants.")] = False,
    sagemaker_limits: Annotated[
        bool, typer.Option("--sagemaker-limits", help="Bodies of 6,291,456 bytes and 60 s, as managed endpoints.")
    ] = False,
) -> None:
    """Serve networks as a real-time HTTP(S) endpoint."""
    from rallytrace.serve import ServeOptions, hosting

    given: dict[str, Any] = {
        "weights": tuple(weights or ()),
        "host": host,
        "port": port,
        "device": device.value,
        "threads": threads,
        "workers": workers,
        "tls_self_signed": tls is not None,
        "cert": cert,
        "key": key,
        "keys": keys,
        "no_keys": no_keys,
        "public_url": public_url,
        "proxies": tuple(proxy or ()),
        "allow_fetch": tuple(allow_fetch or ()),
        "spool": spool,
        "max_body": max_body_mb << 20,
        "max_video": max_video_mb << 20,
        "max_sessions": max_sessions,
        "drain_s": drain,
        "hang_s": hang,
    }
    if sagemaker:
        given |= hosting.sagemaker_options(os.environ)
    if sagemaker_limits:
        given |= {"max_body": hosting.MAX_BODY, "request_timeout_s": hosting.TIMEOUT_S}
    if on not in (None, "local"):
        from rallytrace.scale.serving import serve_on_ray

        serve_on_ray(ServeOptions(**given), on)
    else:
        hosting.serve_for_good(ServeOptions(**given))


KeysFile = Annotated[Path, typer.Option("--keys", help="The file that `serve --keys` reads.")]
DEFAULT_KEYS = Path("rallytrace-keys.json")


@keys_app.command("add")
def add_key(
    keys: KeysFile = DEFAULT_KEYS,
    scopes: Annotated[str, typer.Option(help="Of track, stream, metrics, admin; with commas.")] = "track,stream",
    rate: Annotated[float, typer.Option(min=0, help="Requests per second; 0 for no limit.")] = 50.0,
    note: Annotated[str, typer.Option(help="Whose key it is.")] = "",
    as_json: Json = False,
) -> None:
    """Make a key and print it: this is the only time that it can be read."""
    from rallytrace.serve.security import KeyFile

    secret = KeyFile(keys).add([scope.strip() for scope in scopes.split(",")], rate=rate, note=note)
    if as_json:
        print_json({"key": secret, "keys": keys})
    else:
        print(secret)


@keys_app.command("list")
def list_keys(keys: KeysFile = DEFAULT_KEYS, as_json: Json = False) -> None:
    """The keys in a file, without their secrets."""
    from rallytrace.serve.security import KeyFile

    if not keys.is_file():
        raise InputError(f"{keys} does not exist: make it with `rallytrace keys add`")
    for key in KeyFile(keys).keys:
        if as_json:
            print_json({"id": key.id, "scopes": key.scopes, "rate": key.rate, "created": key.created, "note": key.note})
        else:
            print(f"{key.id}  {','.join(key.scopes):24} {key.rate:g}/s  {key.created}  {key.note}")


@keys_app.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(help="The key's id: the 8 digits behind rt_.")], keys: KeysFile = DEFAULT_KEYS
) -> None:
    """Remove a key; a running server refuses it from then on."""
    from rallytrace.serve.security import KeyFile

    KeyFile(keys).revoke(name)
    print(f"{name} is revoked")
