"""The endpoint on a Ray cluster: replicas of `serve`'s application behind Ray Serve, as many as the load needs."""

from __future__ import annotations

import signal
import socket
import threading
from dataclasses import replace
from importlib import import_module
from typing import Any

from fastapi import FastAPI

from rallytrace.scale.cluster import CLIENT, connected, import_ray, run_on
from rallytrace.serve.app import ServeOptions, create_app, tls_files

NAME = "rallytrace"
STREAMS_PER_CPU = 4  # at 30 frames/s: the default network takes a fifth of a core for each


class Endpoint:
    """One replica. Ray asks for its application, and whether it is well."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options

    def __serve_build_asgi_app__(self) -> FastAPI:
        self._app = create_app(self._options)
        return self._app

    def check_health(self) -> None:
        """Raises what kept the networks from being loaded, or Hung: then Ray starts another replica."""
        services = self._app.state.services
        if services.error is not None:
            raise services.error
        if services.engine.is_ready:
            services.engine.batcher.check_well()


def deploy(options: ServeOptions, *, most: int | None = None) -> str:
    """Start, or replace, the endpoint on the cluster that this process is connected to; its address once it answers.

    most: replicas, of one CPU each; None lets them take every CPU. Keys and certificates are read on the machine that
    a replica or proxy runs on. Raises InputError, and RuntimeError where no replica becomes well.
    """
    from ray import serve

    if options.port == 0:  # Ray would take one and not say which
        with socket.create_server((options.host, 0)) as free:
            options = replace(options, port=free.getsockname()[1])
    cpus = int(import_ray().cluster_resources().get("CPU", 1))
    files = tls_files(options)
    tls = {"ssl_certfile": str(files[0]), "ssl_keyfile": str(files[1])} if files else {}
    serve.start(http_options={"host": options.host, "port": options.port, **tls})
    replica: Any = serve.deployment(
        serve.ingress()(Endpoint),
        name=NAME,
        max_ongoing_requests=options.max_sessions + options.max_requests,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": most or max(1, cpus - 1),
            "target_ongoing_requests": STREAMS_PER_CPU,
        },
        ray_actor_options={"num_cpus": 1},
        graceful_shutdown_timeout_s=options.drain_s,
        health_check_period_s=2,
    )
    serve.run(replica.bind(options), name=NAME, route_prefix="/")
    return f"http{'s' if options.cert or options.tls_self_signed else ''}://{options.host}:{options.port}"


def serve_on_ray(options: ServeOptions, on: str) -> None:
    """Serve until SIGTERM or Ctrl-C; on ray:// it is left running. Raises what `deploy` and `connected` do."""
    if on.startswith(CLIENT):
        print(f"deployed at {run_on(on, deploy, options)} on the cluster's nodes", flush=True)
        return
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with connected(on):
        serve: Any = import_module("ray.serve")
        try:
            print(f"listening on {deploy(options)}", flush=True)
            ended.wait()
        finally:
            serve.shutdown()
