"""aws: the steps of the pipeline as SageMaker jobs and endpoints."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional, get_type_hints

import typer

from rallytrace import storage
from rallytrace.aws import archive, labelling, requests, service
from rallytrace.aws.requests import INPUT, OUTPUT, Machines, Request, name_of
from rallytrace.cli.common import Json, Overwrite, app, load_verb, notes, print_json, progress_bar, warn
from rallytrace.cli.labels import MissingOption
from rallytrace.errors import InputError, OutputError
from rallytrace.files import AtomicFile

aws_app = typer.Typer(no_args_is_help=True, help="The steps of the pipeline on AWS: label, prepare, train, deploy...")
app.add_typer(aws_app, name="aws")

Texts = Optional[list[str]]  # noqa: UP045 - Typer reads it
Text = Optional[str]  # noqa: UP045
Region = Annotated[Text, typer.Option("--region", envvar=["AWS_REGION", "AWS_DEFAULT_REGION"], help="Of AWS.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the requests as JSON lines; send nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before something is made that costs money.")]
Out = Annotated[str, typer.Option("--out", help="s3:// folder of the results.")]
Options = Annotated[str, typer.Option("--options", help="Of the command itself, in one text: '--size 512x288'.")]
Price = Annotated[Optional[float], typer.Option("--price", min=0, help="USD per instance and hour, if you know it.")]  # noqa: UP045


@dataclasses.dataclass(frozen=True)
class Ask:
    """How a verb treats its requests."""

    region: Region = None
    dry_run: DryRun = False
    yes: Yes = False
    as_json: Json = False

    def agreed(self, plan: Sequence[Request], *about: str) -> bool:
        """Whether to send `plan`: checked, shown with what it costs, and asked about. Raises InputError."""
        for request in plan:
            request.check()
            if self.dry_run:
                print_json(dataclasses.asdict(request))
        if self.dry_run:
            return False
        shown = "".join(f"\n  {line}" for line in [*map(_summary, plan), *about])
        notes.print(f"This asks AWS for{shown}", highlight=False, markup=False, soft_wrap=True)
        if not self.yes and not (sys.stdin.isatty() and typer.confirm("Go on?")):
            raise InputError("nothing was sent: say yes, or give --yes")
        return True

    def tell(self, kind: str, name: str, *, wait: bool) -> None:
        """Follow it until it ends, or say how it is."""
        found = service.follow(kind, name, self.region, _log) if wait else service.describe(kind, name, self.region)
        if found is not None:
            _say(found, self.as_json)


@dataclasses.dataclass(frozen=True)
class On:
    """Where a verb's work is done."""

    role: Annotated[str, typer.Option(envvar="RALLYTRACE_AWS_ROLE", help="ARN of the role that it acts as.")]
    image: Annotated[str, typer.Option(envvar="RALLYTRACE_AWS_IMAGE", help="Our image in your registry.")]
    name: Annotated[Text, typer.Option(help="Of the job; with the time in it if not said.")] = None
    instance: Annotated[Text, typer.Option(help="Its type, such as ml.m5.xlarge.")] = None
    count: Annotated[int, typer.Option(min=1, max=100, help="Instances.")] = 1
    hours: Annotated[float, typer.Option(min=0.1, max=216, help="The longest that a job may take.")] = 24.0
    volume_gb: Annotated[int, typer.Option(min=1, help="Disk of each instance.")] = 100
    price: Price = None
    wait: Annotated[bool, typer.Option(help="Follow state and log until it ends.")] = True

    def machines(self, instance: str) -> Machines:
        return Machines(self.role, self.image, self.instance or instance, self.count, self.hours, self.volume_gb)

    def named(self, ask: Ask, kind: str, verb: str) -> str:
        """A name for a job. Where one of the given name failed, it is tried again with a number behind the name."""
        first = name = name_of(verb, self.name)
        if self.name and not ask.dry_run:
            for number in itertools.count(2):
                found = service.describe(kind, name, ask.region)
                if found is None or found.status not in ("Failed", "Stopped"):
                    break
                name = f"{first}-{number}"
        return name

    def job(self, ask: Ask, kind: str, request: Request, machines: Machines) -> None:
        """Agree on one job, make it and follow it; one of that name that runs, or is done, is followed only."""
        name = request.parameters[f"{kind}Name"]
        if self.name and not ask.dry_run and service.describe(kind, name, ask.region):
            warn(f"{name} is there already and is followed", "note")
            ask.tell(kind, name, wait=self.wait)
            return
        where = f"{machines.count} x {machines.instance}, {machines.volume_gb} GB, for {machines.hours:g} h at most"
        if ask.agreed([request], where, f"cost: {machines.cost(self.price)}"):
            service.send([request], ask.region)
            ask.tell(kind, name, wait=self.wait)


def verb(function: Callable[..., None]) -> None:
    """Registers a command: the fields of parameters that are Ask or On become options of its own."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if hint in (Ask, On)}
    fields = {name: dataclasses.fields(group) for name, group in groups.items()}

    def command(**given: Any) -> None:
        made = {name: group(**{f.name: given.pop(f.name) for f in fields[name]}) for name, group in groups.items()}
        function(**given, **made)

    own = [each for each in inspect.signature(function).parameters.values() if each.name not in groups]
    parameters = [each.replace(annotation=hints[each.name], kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    for name, group in groups.items():
        types = get_type_hints(group, include_extras=True)
        for f in fields[name]:
            default = inspect.Parameter.empty if f.default is dataclasses.MISSING else f.default
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(f.name, kind, default=default, annotation=types[f.name]))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__doc__ = function.__doc__
    aws_app.command(function.__name__)(command)


def _summary(request: Request) -> str:
    names = [value for key, value in request.parameters.items() if key.endswith(("Name", "Names", "ResourceId"))]
    return f"{request.operation}: {', '.join(map(str, names))}"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _say(found: service.Found, as_json: bool) -> None:
    model = found.details.get("ModelArtifacts", {}).get("S3ModelArtifacts", "")
    if as_json:
        about = {"kind": found.kind, "name": found.name, "status": found.status, "reason": found.reason}
        print_json({**about, "model": model})
    else:
        print(f"{found.kind:14} {found.status:12} {found.name}  {found.reason or model}".rstrip())


@verb
def label(
    ask: Ask,
    videos: Annotated[list[str], typer.Argument(help="Videos, folders of them, or s3:// URLs.")],
    out: Out,
    role: Annotated[str, typer.Option(envvar="RALLYTRACE_AWS_ROLE", help="ARN of the role that it acts as.")],
    workteam: Annotated[str, typer.Option(help="ARN of the people who label.")],
    arn: Annotated[Texts, typer.Option(help="Worker UI, function before and after: thrice or never.")] = None,
    name: Annotated[Text, typer.Option(help="Of the job; with the time in it if not said.")] = None,
) -> None:
    """Extract all frames, upload them, and make a Ground Truth video keypoint labelling job."""
    if not ask.region:
        raise InputError("give --region, or set AWS_REGION: the labelling functions go by region")
    job, sources = name_of("label", name), [each for video in videos for each in storage.expand(video)]
    whose: dict[str, Any] = {"role": role, "workteam": workteam, "region": ask.region, "arns": arn or ()}
    sets = labelling.estimate(sources)
    plan = requests.labelling(job, labelling.manifests(sets, out), out, **whose)
    frames = f"about {sum(each.length for each in sets)} frames of {len(sets)} videos, uploaded to {out}"
    cost = "cost: by frame, and for the people; see https://aws.amazon.com/sagemaker/groundtruth/pricing/"
    if not ask.agreed(plan, frames, cost):
        return
    with progress_bar("frames", quiet=ask.as_json) as bar:
        sets = labelling.upload(sources, out, lambda source, done: bar(done, None, f"{Path(source).name} {done}"))
    plan = requests.labelling(job, labelling.write(sets, out), out, **whose)
    service.send(plan, ask.region)
    for request in plan:
        ask.tell("LabelingJob", request.parameters["LabelingJobName"], wait=False)


@verb
def prepare(
    ask: Ask,
    on: On,
    source: Annotated[str, typer.Argument(help="s3:// folder of labelled clips, or a Ground Truth output.manifest.")],
    out: Out,
    videos: Annotated[Text, typer.Option(help="s3:// folder of the labels' videos.")] = None,
    missing: MissingOption = None,
    options: Options = "",
) -> None:
    """`rallytrace prepare` as a processing job: a feature set."""
    inputs = {} if source.endswith(".manifest") else {"source": source}
    words = ["prepare", f"{INPUT}/source" if inputs else requests.check_s3(source, "source"), "--out", OUTPUT]
    if videos:
        inputs["videos"] = videos
        words += ["--videos", f"{INPUT}/videos"]
    words += ["--missing", missing.value] if missing else []
    machines = dataclasses.replace(on.machines("ml.m5.xlarge"), count=1)
    request = requests.processing(
        on.named(ask, "ProcessingJob", "prepare"), _words(words, options), inputs, out, machines
    )
    on.job(ask, "ProcessingJob", request, machines)


@verb
def track(
    ask: Ask,
    on: On,
    videos: Annotated[str, typer.Argument(help="s3:// folder of videos.")],
    out: Out,
    model: Annotated[Text, typer.Option(help="A bundled network, or s3:// of a model.tar.gz.")] = None,
    options: Options = "",
) -> None:
    """`rallytrace track` as a processing job; several instances share the videos out."""
    inputs, words = {"videos": videos}, ["track", f"{INPUT}/videos", "--out", OUTPUT]
    if model and storage.is_url(model):
        inputs["model"], model = model, f"{INPUT}/model"
    words += ["--model", model] if model else []
    machines, name = on.machines("ml.c5.2xlarge"), on.named(ask, "ProcessingJob", "track")
    request = requests.processing(name, _words(words, options), inputs, out, machines, shared="videos")
    on.job(ask, "ProcessingJob", request, machines)


def _words(words: list[str], options: str) -> list[str]:
    """The command line of a job, tried on this machine's own first. Raises InputError."""
    words += shlex.split(options)
    try:
        load_verb(words[0]).make_context(words[0], words[1:])
    except Exception as error:
        raise InputError(f"--options {options!r}: {getattr(error, 'message', error)}") from error
    return words


@verb
def train(
    ask: Ask,
    on: On,
    data: Annotated[list[str], typer.Option(help="s3:// of a data set or feature set, or CHANNEL=s3://...")],
    out: Out,
    settings: Annotated[Texts, typer.Option("--set", help="NAME=VALUE of the training: model, steps, lr, ...")] = None,
    spot: Annotated[bool, typer.Option(help="Spare capacity, which costs less and is taken back at times.")] = True,
) -> None:
    """`rallytrace train` as a training job, on spot instances unless --no-spot."""
    named = [each.rpartition("=") if not each.startswith("s3:") else ("", "", each) for each in data]
    channels = {channel or f"data{n or ''}": url for n, (channel, _, url) in enumerate(named)}
    chosen = {key: value for key, _, value in (each.partition("=") for each in settings or [])}
    _try_settings(chosen)
    machines = on.machines("ml.g4dn.xlarge")
    request = requests.training(on.named(ask, "TrainingJob", "train"), channels, out, machines, chosen, spot=spot)
    on.job(ask, "TrainingJob", request, machines)


def _try_settings(chosen: dict[str, str]) -> None:
    """A wrong name is told here rather than in ten minutes, where torch is at hand."""
    from rallytrace.aws.settings import train_job

    try:
        train_job(chosen)
    except ImportError:
        warn("torch is not installed here, so that the job itself will check --set", "note")


@verb
def deploy(
    ask: Ask,
    on: On,
    endpoint: Annotated[str, typer.Argument(help="Its name; an existing one gets the new network.")],
    model: Annotated[str, typer.Option(help="s3:// of a model.tar.gz; or an .onnx file, with --out.")],
    out: Annotated[Text, typer.Option("--out", help="s3:// folder to upload an .onnx file to.")] = None,
    spool: Annotated[Text, typer.Option("--async", help="s3:// folder of answers: asynchronous, long videos.")] = None,
    least: Annotated[int, typer.Option("--min", min=0, help="Instances at least; with --async it may be 0.")] = 1,
    most: Annotated[int, typer.Option("--max", min=0, help="Scale by load up to so many; 0 does not scale.")] = 0,
) -> None:
    """Make an endpoint of a network, or give an existing one a new network."""
    local, machines = None if storage.is_url(model) else Path(model), on.machines("ml.c5.xlarge")
    if local is not None and (out is None or not local.is_file()):
        raise InputError(f"--model {model}: expected s3:// of a model.tar.gz, or an .onnx file that exists and --out")
    version = f"{name_of('endpoint', endpoint)}-{time.strftime('%Y%m%d%H%M%S', time.gmtime())}"
    folder = f"{requests.check_s3(out or '', '--out')}/{version}" if local else ""
    url = f"{folder}/{archive.NAME}" if local else model
    new = ask.dry_run or service.describe("Endpoint", endpoint, ask.region) is None
    plan = requests.endpoint(endpoint, version, url, machines, spool=spool or "", new=new)
    scaling = requests.autoscaling(endpoint, least, most, spool=bool(spool)) if most else []
    top = dataclasses.replace(machines, count=max(on.count, most))
    where = f"{on.count} to {top.count} x {machines.instance}, until `rallytrace aws delete {endpoint}`"
    if not ask.agreed([*plan, *scaling], where, f"cost: {machines.cost(on.price)}", f"at most {top.cost(on.price)}"):
        return
    if local is not None:
        with tempfile.TemporaryDirectory() as made:
            storage.open_store(folder).put(archive.NAME, archive.pack(local, Path(made) / archive.NAME))
    service.send(plan, ask.region)
    ask.tell("Endpoint", endpoint, wait=on.wait or bool(scaling))
    service.send(scaling, ask.region)


@aws_app.command("invoke")
def invoke(
    endpoint: Annotated[str, typer.Argument(help="Its name.")],
    source: Annotated[str, typer.Argument(help="A video of up to 6 MB, a longer one with --via, or its s3:// URL.")],
    out: Annotated[Path, typer.Option("--out", help="The .csv to write.")],
    via: Annotated[Text, typer.Option(help="s3:// folder to upload to, for an asynchronous endpoint.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for an asynchronous answer.")] = 3900,
    region: Region = None,
    overwrite: Overwrite = False,
) -> None:
    """Track one video with an endpoint."""
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists already: use --overwrite, or another name")
    if via and not storage.is_url(source):
        storage.open_store(requests.check_s3(via, "--via")).put(Path(source).name, Path(source))
        source = f"{via.rstrip('/')}/{Path(source).name}"
    if storage.is_url(source):
        answer = service.invoke_later(endpoint, source, region, timeout)
    else:
        answer = service.invoke(endpoint, Path(source), region)
    with AtomicFile(out, "wb") as file:
        file.write(answer)
    print(out)


@aws_app.command("status")
def status(
    name: Annotated[Text, typer.Argument(help="Of a job or endpoint; if not said, all called rallytrace...")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="State and log until it ends.")] = False,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """How jobs and endpoints are."""
    if name is not None:
        found = service.find(name, region)
        _say(service.follow(found.kind, name, region, _log) if follow else found, as_json)
        return
    for kind in service.KINDS:
        for each in service.listed(kind, "rallytrace", region):
            _say(each, as_json)


@verb
def delete(
    ask: Ask, name: Annotated[str, typer.Argument(help="Of an endpoint, or of a job, which is stopped.")]
) -> None:
    """Delete an endpoint with all that belongs to it, or stop a job. What is in the store stays."""
    found = service.find(name, ask.region)
    if found.status in ("Completed", "Failed", "Stopped") and found.kind != "Endpoint":
        raise InputError(f"{name} is {found.status} already: nothing runs and nothing costs any more")
    plan = service.removal(found, ask.region)
    if ask.agreed(plan):
        service.send(plan, ask.region)
        print(f"{name}: {'deleted' if found.kind == 'Endpoint' else 'stopping'}")
