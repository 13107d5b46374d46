"""The endpoint as a process that runs for good, and what a hosting service says to it: SageMaker's container contract.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rallytrace.errors import InputError, ModelError

if TYPE_CHECKING:
    from rallytrace.serve import ServeOptions

log = logging.getLogger("rallytrace.serve")

PORT = 8080
MAX_BODY = 6_291_456  # bytes of a request that a real-time endpoint lets through
TIMEOUT_S = 60.0


def sagemaker_options(environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields of ServeOptions: port 8080 of all addresses, and the networks in /opt/ml/model (the bundled ones where
    it holds none). Callers are checked by the service in front; without its folder, by API keys as anywhere.

    Honours SAGEMAKER_BIND_TO_PORT, _BASE_DIR, _MODEL_SERVER_TIMEOUT, _MODEL_SERVER_WORKERS, _MAX_PAYLOAD_IN_MB and
    _DEFAULT_INVOCATIONS_ACCEPT. Raises InputError, ModelError.
    """
    folder = Path(environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")) / "model"
    options: dict[str, Any] = {
        "host": "0.0.0.0",
        "port": round(_number(environ, "SAGEMAKER_BIND_TO_PORT", PORT)),
        "no_keys": folder.is_dir(),
        "weights": tuple(str(path) for path in sorted(folder.glob("*.onnx"))),
        "request_timeout_s": _number(environ, "SAGEMAKER_MODEL_SERVER_TIMEOUT", TIMEOUT_S),
        "workers": round(_number(environ, "SAGEMAKER_MODEL_SERVER_WORKERS", 1)),
    }
    if folder.is_dir() and any(folder.iterdir()) and not options["weights"]:
        raise ModelError(f"{folder} holds no .onnx file: pack the output of `rallytrace export` as model.tar.gz")
    if "SAGEMAKER_MAX_PAYLOAD_IN_MB" in environ:
        options["max_body"] = round(_number(environ, "SAGEMAKER_MAX_PAYLOAD_IN_MB", 0)) << 20
    if accept := environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"):
        options["default_accept"] = accept
    return options


def serve_for_good(options: ServeOptions) -> None:
    """As `run_server`, for a process that does nothing else: where a network hangs, the process starts itself anew.

    A thread in a network cannot be ended, so the whole process is replaced; its number stays the same.
    """
    from rallytrace.serve.app import run_server
    from rallytrace.serve.engine import Hung

    try:
        run_server(options)
    except Hung as error:
        log.error("%s", error)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "")
    try:
        number = float(text or default)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6:
        raise InputError(f"{name}={text!r}: expected a positive number")
    return number
