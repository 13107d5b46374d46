"""Requests are sent, jobs are followed and found again. Errors of AWS become one line without credentials."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rallytrace import storage
from rallytrace.aws import requests
from rallytrace.aws.redact import clean
from rallytrace.aws.requests import Json, Request
from rallytrace.errors import EndpointError, InputError, MissingDependency
from rallytrace.serve.hosting import MAX_BODY

KINDS = {  # what the service calls them: boto3's name, the list in its answers, where their logs are
    "TrainingJob": ("training_job", "TrainingJobSummaries", "/aws/sagemaker/TrainingJobs"),
    "ProcessingJob": ("processing_job", "ProcessingJobSummaries", "/aws/sagemaker/ProcessingJobs"),
    "Endpoint": ("endpoint", "Endpoints", "/aws/sagemaker/Endpoints/"),
    "LabelingJob": ("labeling_job", "LabelingJobSummaryList", "/aws/sagemaker/LabelingJobs"),
}
ENDED = ("Completed", "Stopped", "InService")
WRONG = ("Failed", "OutOfService", "UpdateRollbackFailed")
MISSING = ("ValidationException", "ResourceNotFound", "ResourceNotFoundException")
POLL_S = 5.0


@dataclass(frozen=True, slots=True)
class Found:
    """A job or an endpoint that exists."""

    kind: str
    name: str
    status: str
    details: Json

    @property
    def reason(self) -> str:
        """Why it failed, as the container said it."""
        return clean(str(self.details.get("ExitMessage") or self.details.get("FailureReason") or ""))


@cache
def connect(service: str, region: str | None = None) -> Any:
    """A boto3 client with the credentials of the platform. Raises EndpointError, MissingDependency."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise MissingDependency(f"aws needs {error.name}: pip install 'rallytrace[aws]'") from None
    with aws_errors(service):
        config = Config(retries={"mode": "standard"}, user_agent_extra="rallytrace")
        return boto3.client(service, region_name=region, config=config)


@contextmanager
def aws_errors(what: str) -> Iterator[None]:
    """Raises EndpointError for what AWS or botocore complains of."""
    from botocore import exceptions as wrong

    try:
        yield
    except (wrong.BotoCoreError, wrong.ClientError) as error:
        hints = {
            wrong.NoCredentialsError: "see `aws configure`",
            wrong.NoRegionError: "give --region, or set AWS_REGION",
        }
        hint = hints.get(type(error), "")
        raise EndpointError(clean(f"{what}: {error}{': ' if hint else ''}{hint}")) from error


def send(plan: Sequence[Request], region: str | None) -> list[Json]:
    """One after the other; each may refer to the policy that the one before made. Raises EndpointError."""
    answers: list[Json] = []
    for request in plan:
        parameters = request.parameters
        if parameters.get("AlarmActions") == [requests.LAST_POLICY]:
            parameters = {**parameters, "AlarmActions": [answers[-1]["PolicyARN"]]}
        done = f" (made before: {', '.join(r.operation for r in plan[: len(answers)])})" if answers else ""
        with aws_errors(f"{request.operation}{done}"):
            answers.append(getattr(connect(request.service, region), request.operation)(**parameters))
    return answers


def find(name: str, region: str | None) -> Found:
    """The job or endpoint of that name. Raises EndpointError, InputError where there is none."""
    for kind in KINDS:
        if (found := describe(kind, name, region)) is not None:
            return found
    raise InputError(f"no job and no endpoint is called {name!r} in this region: see `rallytrace aws status`")


def describe(kind: str, name: str, region: str | None) -> Found | None:
    """None where there is none of that kind. Raises EndpointError."""
    from botocore.exceptions import ClientError

    client = connect("sagemaker", region)
    with aws_errors(f"describe {name}"):
        try:
            details = getattr(client, f"describe_{KINDS[kind][0]}")(**{f"{kind}Name": name})
        except ClientError as error:
            if error.response["Error"]["Code"] in MISSING:
                return None
            raise
    return Found(kind, name, details[f"{kind}Status"], details)


def listed(kind: str, part: str, region: str | None) -> list[Found]:
    """The newest, with `part` in their names. Raises EndpointError."""
    word, key, _ = KINDS[kind]
    with aws_errors(f"list_{word}s"):
        query: Json = {"NameContains": part, "SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": 20}
        answer = getattr(connect("sagemaker", region), f"list_{word}s")(**query)
    return [Found(kind, each[f"{kind}Name"], each[f"{kind}Status"], each) for each in answer[key]]


def follow(kind: str, name: str, region: str | None, say: Callable[[str], None], *, poll_s: float = POLL_S) -> Found:
    """Tell states and log lines until the job has ended or the endpoint answers. Raises EndpointError if it failed."""
    seen: dict[str, str] = {}
    status = ""
    while True:
        found = describe(kind, name, region)
        if found is None:
            raise EndpointError(f"{name}: there is no such {kind} any more")
        for line in new_lines(kind, name, region, seen):
            say(line)
        if found.status != status:
            status = found.status
            say(f"{name}: {status}")
        made = found.details.get("ModelArtifacts") or found.details.get("LabelingJobOutput")
        if status in WRONG or (status == "Stopped" and not made):
            what = "failed" if status == "Failed" else f"ended as {status}"
            raise EndpointError(f"{name} {what}: {found.reason or 'no reason is given, see its log'}")
        if status in ENDED:
            return found
        time.sleep(poll_s)


def new_lines(kind: str, name: str, region: str | None, seen: dict[str, str]) -> Iterator[str]:
    """Log lines since the last call; `seen` keeps the place in each stream. None before the first is written."""
    client, group, streams = connect("logs", region), KINDS[kind][2], {}
    if group.endswith("/"):
        group += name
    else:
        streams["logStreamNamePrefix"] = f"{name}/"
    with aws_errors(f"log of {name}"):
        try:
            found = client.describe_log_streams(logGroupName=group, **streams)["logStreams"]
        except client.exceptions.ResourceNotFoundException:
            return
        for stream in (each["logStreamName"] for each in found):
            where = {"logGroupName": group, "logStreamName": stream, "startFromHead": True}
            while True:
                page = client.get_log_events(**where, **({"nextToken": seen[stream]} if stream in seen else {}))
                yield from (f"[{stream.rpartition('/')[2]}] {plain(event['message'])}" for event in page["events"])
                if page["nextForwardToken"] == seen.get(stream):
                    break
                seen[stream] = page["nextForwardToken"]


def plain(text: str) -> str:
    """A line of a log that does nothing to a terminal and shows no credentials."""
    return clean(re.sub(r"[^\x20-\x7e\xa0-\U0010ffff\t]", "", text.rstrip()))


def removal(found: Found, region: str | None) -> list[Request]:
    """What ends it: a job is stopped; an endpoint goes with its configuration, models and scaling. Raises
    EndpointError."""
    word = KINDS[found.kind][0]
    if found.kind != "Endpoint":
        return [Request("sagemaker", f"stop_{word}", {f"{found.kind}Name": found.name})]
    config = found.details["EndpointConfigName"]
    client, scaling = connect("sagemaker", region), connect("application-autoscaling", region)
    with aws_errors(found.name):
        variants = client.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
        query = {"ServiceNamespace": "sagemaker", "ResourceIds": [f"endpoint/{found.name}/variant/all"]}
        scaled = bool(scaling.describe_scalable_targets(**query)["ScalableTargets"])
    first = [requests.request(each, name=found.name) for each in ("deregister_scalable_target", "delete_alarms")]
    return [
        *(first if scaled else []),
        Request("sagemaker", "delete_endpoint", {"EndpointName": found.name}),
        Request("sagemaker", "delete_endpoint_config", {"EndpointConfigName": config}),
        *(Request("sagemaker", "delete_model", {"ModelName": each["ModelName"]}) for each in variants),
    ]


def invoke(name: str, video: Path, region: str | None) -> bytes:
    """A short video tracked at once, as CSV. Raises InputError, EndpointError."""
    if not video.is_file() or video.stat().st_size > MAX_BODY:
        raise InputError(f"{video}: expected a file of up to {MAX_BODY} bytes; longer ones go by --via")
    with aws_errors(f"endpoint {name}"):
        answer = connect("sagemaker-runtime", region).invoke_endpoint(
            EndpointName=name, Body=video.read_bytes(), ContentType="video/mp4", Accept="text/csv"
        )
        return bytes(answer["Body"].read())


def invoke_later(name: str, url: str, region: str | None, timeout_s: float) -> bytes:
    """A video of the store tracked by an asynchronous endpoint, as CSV. Raises EndpointError."""
    with aws_errors(f"endpoint {name}"):
        answer = connect("sagemaker-runtime", region).invoke_endpoint_async(
            EndpointName=name, InputLocation=url, ContentType="video/mp4", Accept="text/csv"
        )
    ends = [str(answer.get(key, "")).rpartition("/") for key in ("OutputLocation", "FailureLocation")]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for failed, (folder, _, key) in enumerate(ends):
            if folder and storage.open_store(folder).head(key) is not None:
                data = storage.open_store(folder).get(key)
                if failed:
                    raise EndpointError(f"{name} could not track {url}: {plain(data.decode(errors='replace'))[:300]}")
                return data
        time.sleep(POLL_S)
    raise EndpointError(f"{name} has not answered for {timeout_s:.0f} s; it would be at {answer.get('OutputLocation')}")
