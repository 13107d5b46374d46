"""`python -m rallytrace.aws.container train | process WHAT | serve`: our images' entry point on SageMaker.

It reads the files of the container contracts under /opt/ml (or SAGEMAKER_BASE_DIR), runs what a laptop would run, and
ends with the exit code and the failure file that the service looks for. Sources:
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
https://docs.aws.amazon.com/sagemaker/latest/dg/build-your-own-processing-container.html
https://docs.aws.amazon.com/sagemaker/latest/dg/byoc-metadata.html
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rallytrace import __version__
from rallytrace.aws import archive, settings
from rallytrace.aws.redact import clean
from rallytrace.errors import InputError, RallytraceError
from rallytrace.features import describe_data, is_features, load_data
from rallytrace.files import make_folder, write_text
from rallytrace.labels.clips import INDEX
from rallytrace.types import Clip

ROOT = "/opt/ml"
SAID = 1024  # bytes of the failure that the service keeps
SPLIT_OF = {"train": "train", "val": "val", "validation": "val", "test": "test"}
INIT = "init"  # the channel of a network to begin with
PORT = 29500


class Stopped(BaseException):
    """SIGTERM came: a stop was asked for, the time is up, or a spot instance is taken back."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tree:
    """The folder that the service shares with the container, and who of several hosts this one is."""

    base: Path

    def json(self, name: str) -> dict[str, Any]:
        """Of a file that may be missing. Raises InputError."""
        path = self.base / name
        try:
            found = json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise InputError(f"{path}: expected a JSON object")
        return found

    def local(self, path: str) -> Path:
        """Where a path of the contract, /opt/ml/..., is on this machine."""
        return self.base / Path(path).relative_to(ROOT) if path.startswith(f"{ROOT}/") else Path(path)

    def hosts(self, config: str) -> tuple[list[str], int, str]:
        """All hosts in one order on each of them, this one's place, and the network interface between them."""
        found = self.json(f"{config}/resourceconfig.json")
        hosts = sorted(map(str, found.get("hosts") or [found.get("current_host", "algo-1")]))
        current = str(found.get("current_host", hosts[0]))
        if current not in hosts:
            raise InputError(f"resourceconfig.json: current_host {current!r} is not one of hosts {hosts}")
        return hosts, hosts.index(current), str(found.get("network_interface_name") or "")


def train(tree: Tree) -> None:
    """A training job: channels in, /opt/ml/model/ball.onnx out, the run itself in /opt/ml/checkpoints.

    After an interruption the service fills /opt/ml/checkpoints again, and the run goes on from there.
    """
    import torch

    from rallytrace.train import train as run_training

    job = settings.train_job({name: str(t) for name, t in tree.json("input/config/hyperparameters.json").items()})
    hosts, place, interface = tree.hosts("input/config")
    hosts = hosts if len(hosts) > 1 else ["127.0.0.1"]
    gpus = torch.cuda.device_count() if job.options.device != "cpu" else 0
    processes = job.processes or max(1, gpus)
    if processes > 1 and "LOCAL_RANK" not in os.environ:
        _exec_torchrun(hosts, place, processes, interface)
    _set_world(hosts, place, interface)
    torch.set_num_threads(job.threads or max(1, (os.cpu_count() or 1) // processes))
    run = tree.base / "checkpoints"
    make_folder(run)
    _agree_on_checkpoint(run)
    data = tree.base / "input" / "data"
    clips, init = load_channels(data), data / INIT
    chief = int(os.environ["RANK"]) == 0
    begin = archive.model_in(init) if init.is_dir() else None
    if begin is not None and begin.suffix == ".onnx":
        raise InputError(f"channel {INIT}: {begin.name} runs but cannot be trained on: give a checkpoint folder")
    try:
        run_training(
            clips,
            job.spec,
            run,
            job.options,
            init=begin,
            cache=tree.base / "cache",
            provenance={
                "command": "SageMaker training job",
                "job": os.environ.get("TRAINING_JOB_NAME", ""),
                "code": f"rallytrace {__version__}",
                "data": [describe_data(folder) for channel in _channels(data) for folder in _folders(channel)],
            },
            on_step=lambda step, values: say(f"step {step}", **values),
        )
    finally:  # the best so far is the job's result, also when its time is up
        if chief and (run / "best" / "model.json").exists():
            _publish(run, tree.base)


def say(what: str, **values: float) -> None:
    """A line of the log, in the form that the training job's metric definitions look for."""
    print("  ".join([what, *(f"{name} {value:.6g}" for name, value in values.items())]), flush=True)


def _exec_torchrun(hosts: list[str], place: int, processes: int, interface: str) -> NoReturn:
    """Become torchrun, which starts this entry point again in each of the host's processes."""
    _set_interface(interface)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(hosts)), "--node-rank", str(place)]
    command += ["--nproc-per-node", str(processes), "--master-addr", hosts[0]]
    command += ["--master-port", os.environ.get("MASTER_PORT", str(PORT)), "-m", __spec__.name, "train"]
    os.execv(sys.executable, command)


def _set_world(hosts: list[str], place: int, interface: str) -> None:
    """One process per host, unless torchrun has said otherwise."""
    if "LOCAL_RANK" in os.environ:
        return
    os.environ |= {"RANK": str(place), "WORLD_SIZE": str(len(hosts)), "LOCAL_RANK": "0", "MASTER_ADDR": hosts[0]}
    os.environ.setdefault("MASTER_PORT", str(PORT))
    _set_interface(interface)


def _set_interface(interface: str) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if interface else ():
        os.environ.setdefault(name, interface)


def _agree_on_checkpoint(run: Path) -> None:
    """All processes resume where the first one stands: only it writes, and its host may be the only one that has it."""
    import torch

    from rallytrace.files import AtomicFile

    if int(os.environ["WORLD_SIZE"]) == 1:
        return
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    state, rank = run / "state.pt", int(os.environ["RANK"])
    box = [state.read_bytes() if rank == 0 and state.exists() else None]
    torch.distributed.broadcast_object_list(box, 0, group=torch.distributed.new_group(backend="gloo"))
    mine = state.read_bytes() if state.exists() else None
    if box[0] is not None and box[0] != mine:
        with AtomicFile(state, "wb") as file:
            file.write(box[0])
    elif box[0] is None:
        state.unlink(missing_ok=True)


def load_channels(data: Path) -> list[Clip]:
    """The clips of every channel: folders as `rallytrace train --data` takes them, or feature sets.

    Channels called train, val (or validation) and test decide the split of their clips, where there is more than one of
    them; any other channel's clips keep their own. Raises InputError.
    """
    channels = _channels(data)
    split = sum(channel.name in SPLIT_OF for channel in channels) > 1
    clips: list[Clip] = []
    for channel in channels:
        found = load_data(_folders(channel))
        if split and channel.name in SPLIT_OF:
            found = [dataclasses.replace(clip, split=SPLIT_OF[channel.name]) for clip in found]
        clips += found
    if not clips:
        raise InputError(
            f"no channel with clips in {data}: expected InputDataConfig to name at least one, such as data"
        )
    return clips


def _channels(data: Path) -> list[Path]:
    return sorted(path for path in data.iterdir() if path.is_dir() and path.name != INIT) if data.is_dir() else []


def _folders(channel: Path) -> list[Path]:
    """The channel itself, or the data sets in it, one folder each."""
    return [path for path in sorted(channel.iterdir()) if (path / INDEX).is_file() or is_features(path)] or [channel]


def _publish(run: Path, base: Path) -> None:
    """The best network for endpoints and for further training, and the course of the run."""
    from rallytrace.runtime.export import export

    export(run / "best", base / "model" / "ball.onnx")
    shutil.copytree(run / "best", base / "model" / "checkpoint", dirs_exist_ok=True)
    make_folder(base / "output" / "data")
    for name in ("metrics.jsonl", "options.json"):
        shutil.copy(run / name, base / "output" / "data")


def process(tree: Tree, words: Sequence[str]) -> None:
    """A processing job: `prepare ...` or `track ...`, the command line itself with paths of the contract in it.

    Several instances of `track` have each their own videos, as S3DataDistributionType ShardedByS3Key shares them out.
    """
    if not words or words[0] not in ("prepare", "track"):
        raise InputError(f"process {' '.join(words)[:80]!r}: expected prepare or track, and their options")
    if words[0] == "prepare" and len(tree.hosts("config")[0]) > 1:
        raise InputError("prepare runs on one instance: use a larger one, or `rallytrace prepare --on ray`")
    if words[0] == "track" and words[1:2] and not any(tree.local(words[1]).glob("*")) and _shared(words[1]):
        say("nothing to do: this instance has no share of the videos")
        return
    given = [_given(tree.local(word), word) for word in words]
    child = subprocess.Popen([sys.executable, "-m", "rallytrace", *given], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    last = ""
    try:
        for line in child.stderr:
            print(clean(line), end="", file=sys.stderr, flush=True)
            last = line.strip(" │\n") if any(map(str.isalnum, line)) else last  # the reason stands at the end
        code = child.wait()
    except Stopped:
        child.send_signal(signal.SIGINT)  # as Ctrl-C does: nothing half-written is left to be uploaded
        child.wait()
        raise
    if code:
        raise InputError(last.removeprefix("error: ") or f"rallytrace {words[0]} ended with {code}")


def _shared(word: str) -> bool:
    return word.startswith(f"{ROOT}/")


def _given(path: Path, word: str) -> str:
    """A path of the contract where it is on this machine; the network in a folder that holds model.tar.gz."""
    if _shared(word) and (path / archive.NAME).is_file():
        return str(archive.model_in(path))
    return str(path) if _shared(word) else word


def serve(_: Tree) -> None:
    """An endpoint, see `serve.hosting`."""
    from rallytrace.serve import ServeOptions, hosting

    options = hosting.sagemaker_options(os.environ)
    if options["request_timeout_s"] > hosting.TIMEOUT_S:  # asynchronous inference: videos of any length
        options["max_clip_frames"] = 500_000
    hosting.serve_for_good(ServeOptions(**options))


def main(words: Sequence[str]) -> int:
    """The exit code: 0, 1 with the reason in output/failure (output/message of a processing job), 143 when stopped."""
    tree = Tree(Path(os.environ.get("SAGEMAKER_BASE_DIR", ROOT)))
    role = words[0] if words else ""
    stopping: list[int] = []

    def stop(number: int, _: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stopping.append(number)
        raise Stopped

    if role in ("train", "process"):
        signal.signal(signal.SIGTERM, stop)
    try:
        if role == "train":
            train(tree)
        elif role == "process":
            process(tree, words[1:])
        elif role == "serve":
            serve(tree)
        else:
            raise InputError(f"{role!r}: expected train, process or serve")
    except Stopped:
        print("stopped by SIGTERM: what is finished is kept", file=sys.stderr, flush=True)
        return 143
    except BaseException as error:
        if stopping:  # what breaks because a stop was asked for, such as the link to another host, is no failure
            return 143
        _report(error, tree, role)
        return 1
    return 0


def _report(error: BaseException, tree: Tree, role: str) -> None:
    known = isinstance(error, RallytraceError | KeyboardInterrupt)
    line = clean(" ".join(f"{'' if known else type(error).__name__ + ': '}{error}".split()))
    print(f"error: {line}" if known else clean(traceback.format_exc()), file=sys.stderr, flush=True)
    if role in ("train", "process"):
        name = "failure" if role == "train" else "message"
        make_folder(tree.base / "output")
        write_text(tree.base / "output" / name, line.encode()[:SAID].decode(errors="ignore"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
