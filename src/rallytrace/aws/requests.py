"""What is asked of AWS, as plain values: shown, checked against botocore's service model, and then sent.

The calls themselves are in requests.toml.
"""

from __future__ import annotations

import dataclasses
import re
import string
import time
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from rallytrace.errors import InputError

Json = dict[str, Any]
INPUT, OUTPUT = "/opt/ml/processing/input", "/opt/ml/processing/output/out"
LAST_POLICY = "<PolicyARN>"  # stands for what the request before answered


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One call: boto3's name of the service and of its method."""

    service: str
    operation: str
    parameters: Json

    def check(self) -> None:
        """Against the service's own description of the call; nothing is sent. Raises InputError."""
        from botocore import validate, xform_name

        model = _model(self.service)
        name = next(name for name in model.operation_names if xform_name(name) == self.operation)
        report = validate.ParamValidator().validate(self.parameters, model.operation_model(name).input_shape)
        if report.has_errors():
            raise InputError(f"{name}: {' '.join(report.generate_report().split())}")


@dataclasses.dataclass(frozen=True, slots=True)
class Machines:
    """Where a job or an endpoint runs. hours: the longest that a job may take."""

    role: str
    image: str
    instance: str
    count: int = 1
    hours: float = 24.0
    volume_gb: int = 50

    def values(self) -> Json:
        return {**dataclasses.asdict(self), "seconds": round(self.hours * 3600)}

    def cost(self, price: float | None = None) -> str:
        """In words. price: USD per instance and hour, where the table is not to be used."""
        table = constants()["prices"]
        each = table["usd_per_hour"].get(self.instance) if price is None else price
        if each is None:
            return f"unknown: there is no price of {self.instance} here; see {table['source']}, or give --price"
        origin = "as given" if price is not None else f"us-east-1, noted {table['date']}; see {table['source']}"
        return f"about {each * self.count:.2f} USD per hour ({origin}). Prices change; storage and transfer are extra"


@cache
def _model(service: str) -> Any:
    from botocore import session

    return session.get_session().get_service_model(service)


@cache
def constants() -> Json:
    """requests.toml."""
    return tomllib.loads((resources.files(__package__) / "requests.toml").read_text())


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """`template` with each $name replaced; what becomes None goes with its key."""
    if isinstance(template, dict):
        return {key: made for key, value in template.items() if (made := fill(value, values)) is not None}
    if isinstance(template, list):
        return [fill(each, values) for each in template]
    if not isinstance(template, str):
        return template
    return values[template[1:]] if re.fullmatch(r"\$\w+", template) else string.Template(template).substitute(values)


def request(template: str, **values: Any) -> Request:
    """The call of that name in requests.toml."""
    found = constants()[template]
    return Request(found["service"], found.get("operation", template), fill(found["parameters"], values))


def _part(template: str, **values: Any) -> Any:
    return fill(constants()[template]["parameters"], values)


def name_of(kind: str, name: str | None) -> str:
    """A name that the service takes; a new one with the time in it where none is given. Raises InputError."""
    name = name or f"rallytrace-{kind}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    if not re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,44}", name):
        raise InputError(f"name {name[:80]!r}: expected up to 45 letters, digits and hyphens between them")
    return name


def check_s3(url: str, what: str) -> str:
    """Without a slash at its end. Raises InputError for anything but s3://bucket/..."""
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", url):
        raise InputError(f"{what} {url[:120]!r}: expected s3://bucket/folder, the only store that SageMaker reads")
    return url.rstrip("/")


def training(
    name: str, channels: Mapping[str, str], out: str, machines: Machines, settings: Mapping[str, str], *, spot: bool
) -> Request:
    """A training job. Spot instances cost less and are taken back at times: the run then waits for another, for up to
    `machines.hours` more, and goes on from its checkpoint. Raises InputError."""
    urls = {channel: check_s3(url, f"channel {channel}") + "/" for channel, url in channels.items()}
    inputs = [_part("training_input", name=channel, url=url) for channel, url in urls.items()]
    values = machines.values()
    wait = 2 * values["seconds"] if spot else None
    more = {"name": name, "out": check_s3(out, "--out"), "settings": dict(settings), "spot": spot, "wait": wait}
    return request("create_training_job", inputs=inputs, **more, **values)


def processing(
    name: str, words: Sequence[str], inputs: Mapping[str, str], out: str, machines: Machines, *, shared: str = ""
) -> Request:
    """A processing job that runs `rallytrace WORDS`. inputs: what of the store lies in INPUT/<name>; the one called
    `shared` is shared out to the instances, file by file. What is in OUTPUT is stored in `out`. Raises InputError."""
    kind = {True: "ShardedByS3Key", False: "FullyReplicated"}
    listed = [
        _part("processing_input", name=key, url=check_s3(url, key), distribution=kind[key == shared])
        for key, url in inputs.items()
    ]
    more = {"words": ["process", *words], "inputs": listed, "out": check_s3(out, "--out")}
    return request("create_processing_job", name=name, **more, **machines.values())


def endpoint(name: str, version: str, model: str, machines: Machines, *, spool: str, new: bool) -> list[Request]:
    """Model, configuration and endpoint; `new` False puts the new version in the place of the present one. spool: the
    folder in the store for the answers of asynchronous inference, "" for an endpoint that answers at once."""
    values = {**machines.values(), "name": name, "version": version, "model": check_s3(model, "--model")}
    values["async"] = _part("async", spool=check_s3(spool, "--async")) if spool else None
    values["environment"] = _part("async_environment") if spool else {}
    last = "create_endpoint" if new else "update_endpoint"
    return [request(each, **values) for each in ("create_model", "create_endpoint_config", last)]


def autoscaling(name: str, least: int, most: int, *, spool: bool) -> list[Request]:
    """Between `least` and `most` instances, by load; only asynchronous inference can sleep, with none. The endpoint
    must be in service. Raises InputError."""
    if not (0 if spool else 1) <= least <= most:
        raise InputError(
            f"from {least} to {most} instances: expected at least 1, or 0 with --async, and not more than --max"
        )
    wake = ["wake", "put_metric_alarm"] if least == 0 else []
    load = "scale_by_backlog" if spool else "scale_by_requests"
    return [request(each, name=name, least=least, most=most) for each in ("register_scalable_target", load, *wake)]


def labelling(
    name: str, manifests: Sequence[str], out: str, *, role: str, workteam: str, region: str, arns: Sequence[str] = ()
) -> list[Request]:
    """One Ground Truth job per input manifest. arns: of the worker UI and of the functions before and after, where they
    are not to be AWS's own of that region. Raises InputError."""
    known = constants()["labelling"]
    if not arns and region not in known["accounts"]:
        raise InputError(f"AWS documents no labelling functions for region {region!r}: give --arn three times")
    if len(arns) not in (0, 3):
        raise InputError(f"--arn was given {len(arns)} times: expected worker UI, pre-annotation and consolidation")
    names = ("ui", "before", "after")
    values = {key: fill(known[key], {"region": region, "account": known["accounts"].get(region)}) for key in names}
    values |= {
        **dict(zip(names, arns, strict=False)),
        "role": role,
        "workteam": workteam,
        "out": check_s3(out, "--out"),
    }
    last = len(manifests) > 1
    return [
        request("create_labeling_job", name=f"{name}-{n}" if last else name, manifest=manifest, **values)
        for n, manifest in enumerate(manifests, 1)
    ]
