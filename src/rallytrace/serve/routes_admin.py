"""What operators and clients ask before they send work: health, models, metrics; and the browser page."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BeforeValidator

from rallytrace.serve.app import Services
from rallytrace.serve.engine import Engine, Model
from rallytrace.serve.security import ApiError

router = APIRouter()
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "object", "properties": {"code": {"type": "string"}, "message": {"type": "string"}}}
    },
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "content": {"application/json": {"schema": _ERROR}}}
    for status, what in (
        (400, "What was sent cannot be used"),
        (401, "No valid API key"),
        (403, "The key does not allow this"),
        (404, "No such model or job"),
        (406, "None of the types in Accept is offered"),
        (408, "The body came in too slowly"),
        (409, "Not done yet, or not possible as things are"),
        (413, "The body is too large"),
        (415, "A content type that is not known"),
        (429, "Too much work or too many requests: see Retry-After"),
        (503, "Not ready yet, about to stop or not well: see Retry-After"),
    )
}


def _digits(value: object) -> object:
    """Raises ValueError for a number that is not written in digits alone, such as 1.0 or 1_0."""
    if isinstance(value, str) and not re.fullmatch("[0-9]{1,9}", value):
        raise ValueError("expected digits alone")
    return value


Whole = Annotated[int, BeforeValidator(_digits)]  # a whole number of the address
STATIC = Path(__file__).parent / "static"


def services_of(request: Request) -> Services:
    """What the routes share."""
    services: Services = request.app.state.services
    return services


def admit(request: Request, scope: str) -> Services:
    """Raises ApiError where the caller may not."""
    services = services_of(request)
    key = services.gate.identify(request.headers)
    request.state.key_id = key.id  # for the log, of a refusal too
    services.gate.allow(key, scope)
    return services


@router.get("/ping", response_class=Response, responses=ERRORS)
async def ping(request: Request) -> Response:
    """SageMaker's health check: 200 once warm, 503 before, when the server stops, and when a network hangs."""
    services = services_of(request)
    well = services.engine.is_ready and not services.engine.is_hung and not services.draining
    return Response(status_code=200 if well else 503)


@router.get("/health", responses=ERRORS)
async def health(request: Request) -> dict[str, Any]:
    """200 once the networks are warm; 503 before, when the server stops, and when a network hangs."""
    services = services_of(request)
    services.refuse_when_draining()
    services.engine.batcher.check_well()
    return {"status": "ok", "queued": services.engine.batcher.queued, "sessions": len(services.sessions)}


@router.get("/metrics", response_class=PlainTextResponse, responses=ERRORS)
async def metrics(request: Request) -> Response:
    """Prometheus."""
    services = admit(request, "metrics")
    return Response(generate_latest(services.engine.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/models", responses=ERRORS)
async def models(request: Request) -> dict[str, Any]:
    """The networks that are served; the first is the default."""
    services = admit(request, "track")
    return {"models": [_describe(services.engine, model) for model in services.engine.models]}


@router.post("/v1/models/{name}/reload", responses=ERRORS)
async def reload(request: Request, name: str) -> dict[str, Any]:
    """Load a model's file anew, if it changed; 409 where it cannot be loaded."""
    services = admit(request, "admin")
    services.engine.model(name)
    await asyncio.to_thread(services.engine.reload, name)
    if name in services.engine.problems:
        raise ApiError(409, "not_loaded", f"the version before stays: {services.engine.problems[name]}")
    return _describe(services.engine, services.engine.model(name))


def _describe(engine: Engine, model: Model) -> dict[str, Any]:
    spec = model.spec
    return {
        "name": model.name,
        "version": model.version,
        "default": model is engine.model(),
        "device": model.network.device,
        "frames": spec.frames,
        "outputs": spec.outputs,
        "colour": spec.colour,
        "background": spec.background,
        "size_wh": list(spec.size_wh),
        "multiple": spec.multiple,
        "stride": spec.stride,
        "threshold": spec.threshold,
        "problem": engine.problems.get(model.name),
    }


def mount_page(app: FastAPI) -> None:
    """The browser page at /, where it is built."""
    if (STATIC / "index.html").is_file():
        app.mount("/", StaticFiles(directory=STATIC, html=True), name="page")
