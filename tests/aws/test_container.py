"""SageMaker's contracts, run for real: docker/entrypoint.sh as a process on a tree of its own."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import tarfile
import time
from pathlib import Path

import pytest

from rallytrace.aws import archive, container, settings
from rallytrace.aws.redact import clean
from rallytrace.errors import InputError
from tests.aws.contract import WAIT_S, Host, read_until
from tests.often import in_the_long_run

torch = pytest.importorskip("torch")
SMALL = {  # every value a text, some JSON-encoded, as the service and its SDK have them
    "steps": "6",
    "batch": "2",
    "widths": "[4, 8, 8, 8]",
    "crop_wh": "96x96",
    "log_every": "1",
    "save_every": "1",
    "val_every": "6",
    "workers": "0",
    "threads": "1",
    "loss": '"focal"',
    "sagemaker_program": "train.py",
}


VIDEOS, OUT = "/opt/ml/processing/input/videos", "/opt/ml/processing/output/out"


def made(host: Host) -> set[str]:
    return {path.name for path in (host.base / "processing" / "output" / "out").iterdir()}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def at_step(number: int) -> object:
    return lambda line: bool(found := re.match(r"step (\d+)", line)) and int(found[1]) >= number


@pytest.fixture(scope="module")
def trained(rallies: Path, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A processing job's features, and the training job that took them."""
    folder = tmp_path_factory.mktemp("trained")
    prepared = Host(folder / "prepare").processing({"source": rallies})
    code, _, err = prepared.run("process", "prepare", "/opt/ml/processing/input/source", "--out", OUT)
    assert code == 0, err
    assert "manifest.json" in made(prepared)
    features = prepared.base / "processing" / "output" / "out"
    host = Host(folder / "ml").training({"features": features}, {**SMALL, "steps": "2", "val_every": "2"})
    code, out, err = host.run("train")
    assert code == 0, err
    assert re.search(r"^step 2  .*val_f1_4at288 [0-9.]+", out, re.MULTILINE)  # what a metric definition looks for
    return host


def test_a_training_job_leaves_a_network_that_endpoints_take(trained: Host) -> None:
    from rallytrace.runtime import load_network

    assert trained.failure is None
    network = load_network(trained.base / "model" / "ball.onnx")
    assert network.spec.widths == (4, 8, 8, 8)
    assert network.device == "cpu"
    described = json.loads((trained.base / "model" / "checkpoint" / "model.json").read_text())
    assert described["provenance"]["job"] == "a-job"
    assert len(described["provenance"]["data"][0]["sha256"]) == 64  # of the feature set that it learned from
    assert (trained.base / "output" / "data" / "metrics.jsonl").is_file()
    assert not list((trained.base / "checkpoints").rglob("*cache*"))  # it is copied to S3 all the time


def test_sigterm_in_mid_training_and_another_instance_goes_on(rallies: Path, tmp_path: Path) -> None:
    """Two channels decide the split; a spot interruption leaves nothing but the folder of checkpoints."""
    for split, clip in (("train", "a"), ("validation", "b")):
        folder = tmp_path / split
        folder.mkdir()
        for path in rallies.glob(f"{clip}*"):
            shutil.copy(path, folder)
    channels = {"train": tmp_path / "train", "validation": tmp_path / "validation"}
    asked = {**SMALL, "steps": "40", "val_every": "40"}
    first = Host(tmp_path / "first").training(channels, asked)
    process = first.start("train")
    read_until(process, at_step(3))  # type: ignore[arg-type]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 143, err
    assert first.failure is None
    assert not list((first.base / "model").iterdir())
    done = first.logged()[-1]
    assert 3 <= done < 40

    second = Host(tmp_path / "second").training(channels, asked)
    shutil.copytree(first.base / "checkpoints", second.base / "checkpoints", dirs_exist_ok=True)
    code, out, err = second.run("train")
    assert code == 0, err
    assert int(re.findall(r"^step (\d+)", out, re.MULTILINE)[0]) in (done, done + 1)  # nothing is done twice
    assert second.logged() == list(range(1, 41))
    assert (second.base / "model" / "ball.onnx").is_file()


@in_the_long_run
def test_two_hosts_train_together_and_resume_from_the_first_ones_checkpoint(rallies: Path, tmp_path: Path) -> None:
    names = ("127.0.0.1", "127.0.0.2")
    asked = {**SMALL, "steps": "10", "val_every": "10"}

    def hosts(where: str) -> list[Host]:
        environment = {"MASTER_PORT": free_port()}
        made = [Host(tmp_path / where / name, name, names[::-1], environment=environment) for name in names]
        return [host.training({"data": rallies}, asked) for host in made]

    pair = hosts("first")
    running = [host.start("train") for host in pair]
    read_until(running[0], at_step(3))  # type: ignore[arg-type]
    for process in running:
        process.send_signal(signal.SIGTERM)
    for process in running:
        _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 143, err
    assert [host.failure for host in pair] == [None, None]
    assert not (pair[1].base / "checkpoints" / "metrics.jsonl").exists()  # only the first one writes

    again = hosts("second")
    shutil.copytree(pair[0].base / "checkpoints", again[0].base / "checkpoints", dirs_exist_ok=True)
    running = [host.start("train") for host in again]
    for process in running:
        _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, err
    assert again[0].logged() == list(range(1, 11))
    assert (again[0].base / "model" / "ball.onnx").is_file()
    assert not list((again[1].base / "model").iterdir())


@in_the_long_run
def test_one_host_with_two_processes_and_a_network_to_begin_with(trained: Host, rallies: Path, tmp_path: Path) -> None:
    """The first job's model.tar.gz is the second one's channel `init`; torchrun starts the processes."""
    (tmp_path / "init").mkdir()
    with tarfile.open(tmp_path / "init" / "model.tar.gz", "w:gz") as tar:
        tar.add(trained.base / "model" / "checkpoint", "checkpoint")
    asked = {**SMALL, "steps": "2", "val_every": "2", "processes": "2", "lr": "1e-7"}
    environment = {"MASTER_PORT": free_port()}
    two = Host(tmp_path / "two", environment=environment).training({"data": rallies, "init": tmp_path / "init"}, asked)
    code, out, err = two.run("train")
    assert code == 0, err
    assert out.count("step 2  heatmap") == 1
    before, after = (torch.load(host.base / "model" / "checkpoint" / "weights.pt") for host in (trained, two))
    name = next(name for name, value in before.items() if value.dim() == 4)
    assert torch.allclose(before[name], after[name], atol=1e-5)  # it began from there: the rate is next to nothing


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"epochs": "10"}, "unknown option epochs: expected some of"),
        ({"batch": "three"}, "batch='three': expected int"),
        ({"precision": "int4"}, "precision='int4': expected auto or fp32 or bf16 or fp16"),
        ({"model": "resnet"}, "unknown network 'resnet'"),
        ({"lr": "nan"}, "lr='nan': expected float"),
    ],
)
def test_a_wrong_hyperparameter_is_one_clear_error(asked: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        settings.train_job(asked)


def test_hyperparameters_become_options_and_a_network() -> None:
    """Each value a text, as the service hands them over, JSON-encoded or not."""
    texts = {"steps": "9", "lr": '"0.01"', "loss": "wbce", "size": "256x160", "frames": "3", "background": "false"}
    texts |= {"crop-wh": "none", "scale": "[0.5, 2]", "threads": "3", "model": "rallynet", "_tuning": "x"}
    job = settings.train_job(texts)
    assert (job.options.steps, job.options.lr, job.options.loss) == (9, 0.01, "wbce")
    assert (job.spec.size_wh, job.spec.frames, job.spec.outputs, job.spec.background) == ((256, 160), 3, 3, False)
    assert (job.options.augmentation.crop_wh, job.options.augmentation.scale) == (None, (0.5, 2.0))
    assert (job.threads, job.processes, job.options.save_every) == (3, 0, 50)
    assert settings.train_job({"log_every": "20"}).options.save_every == 20  # they have to go together


def test_a_failure_is_one_line_in_its_file(tmp_path: Path) -> None:
    host = Host(tmp_path / "ml").training({}, {"epochs" + "x" * 2000: "10"})
    code, _, err = host.run("train")
    assert code == 1
    assert str(host.failure).startswith("unknown option epochsxxx")
    assert "\n" not in str(host.failure)
    assert len(str(host.failure).encode()) == 1024
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_failures_are_told_without_credentials(tmp_path: Path) -> None:
    """An error that nobody foresaw: the whole story in the log, the reason in the file, no secret in either."""
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    host = Host(tmp_path / "ml", environment={"AWS_SECRET_ACCESS_KEY": secret})
    host.training({}, {"model": secret})
    code, out, err = host.run("train")
    assert code == 1
    assert str(host.failure).startswith("unknown network '***'")
    assert secret not in out + err + (host.failure or "")
    url = "s3.amazonaws.com/a?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F2026&X-Amz-Signature=0f3e&x=1"
    assert clean(url, {}) == "s3.amazonaws.com/a?X-Amz-Credential=***&X-Amz-Signature=***&x=1"
    assert clean("key AKIAIOSFODNN7EXAMPLE", {}) == "key ***"


def test_a_job_without_data_says_so(tmp_path: Path) -> None:
    host = Host(tmp_path / "ml").training({}, {})
    (host.base / "input" / "config" / "hyperparameters.json").write_text("[]")
    assert host.run("train")[0] == 1
    assert "expected a JSON object" in str(host.failure)
    host = Host(tmp_path / "other").training({}, SMALL)
    assert host.run("train")[0] == 1
    assert "no channel with clips" in str(host.failure)


def test_batch_tracking_with_the_network_of_a_training_job(rallies: Path, tmp_path: Path) -> None:
    """Two instances, each with its share, one of them with none; the network comes as model.tar.gz."""
    from rallytrace.runtime import bundled

    (tmp_path / "model").mkdir()
    archive.pack(bundled()["window3"], tmp_path / "model" / "model.tar.gz")
    names = ("algo-1", "algo-2")
    for name in names:
        host = Host(tmp_path / name, name, names).processing({"videos": rallies, "model": tmp_path / "model"})
        if name == "algo-2":
            shutil.rmtree(host.base / "processing" / "input" / "videos")
        words = ["track", VIDEOS, "--out", OUT, "--model", "/opt/ml/processing/input/model", "--no-video"]
        code, out, err = host.run("process", *words)
        assert code == 0, err
        assert made(host) == ({"a.csv", "a.track.json", "b.csv", "b.track.json"} if name == "algo-1" else set())
    assert out.startswith("nothing to do")


def test_prepare_is_for_one_instance(tmp_path: Path) -> None:
    two = Host(tmp_path / "two", "a", ("a", "b")).processing({})
    assert two.run("process", "prepare", "/opt/ml/processing/input/source", "--out", OUT)[0] == 1
    assert "prepare runs on one instance" in (two.base / "output" / "message").read_text()


def test_a_broken_video_costs_only_itself(rallies: Path, tmp_path: Path) -> None:
    host = Host(tmp_path / "ml").processing({"videos": rallies})
    (host.base / "processing" / "input" / "videos" / "b.mp4").write_bytes(b"no video")
    code, _, err = host.run("process", "track", VIDEOS, "--out", OUT, "--model", "window3")
    assert code == 1
    assert "1 of 2 videos could not be tracked" in (host.base / "output" / "message").read_text()
    assert made(host) == {"a.csv", "a.track.json", "a.tracked.mp4"}
    assert "b.mp4" in err


def test_sigterm_leaves_no_half_written_result(tmp_path: Path) -> None:
    from rallytrace import RallyOptions, make_clip

    (tmp_path / "videos").mkdir()
    make_clip(tmp_path / "videos" / "long.mp4", RallyOptions(wh=(512, 288), seconds=20.0, seed=1))
    host = Host(tmp_path / "ml").processing({"videos": tmp_path / "videos"})
    process = host.start("process", "track", VIDEOS, "--out", OUT, "--overlap", "5")
    deadline = time.monotonic() + WAIT_S
    while not made(host) and time.monotonic() < deadline:  # hidden files of a result in the making
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 143, err
    assert made(host) == set()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("label",), "process 'label': expected prepare or track"),
        (("track", VIDEOS, "--overlaps", "5"), "No such option"),
        (("track", "s3://", "--out", OUT), "no URL of a store"),
    ],
)
def test_wrong_words_are_told_in_the_message(words: tuple[str, ...], said: str, tmp_path: Path, rallies: Path) -> None:
    host = Host(tmp_path / "ml").processing({"videos": rallies})
    assert host.run("process", *words)[0] != 0
    assert said in (host.base / "output" / "message").read_text()


def test_the_parts_of_the_contract_that_are_only_read(tmp_path: Path) -> None:
    tree = container.Tree(tmp_path)
    (tmp_path / "config").mkdir()
    assert tree.hosts("config") == (["algo-1"], 0, "")
    (tmp_path / "config" / "resourceconfig.json").write_text('{"current_host": "c", "hosts": ["b", "a"]}')
    with pytest.raises(InputError, match="'c' is not one of hosts"):
        tree.hosts("config")
    assert tree.local("/opt/ml/model") == tmp_path / "model"
    assert tree.local("s3://bucket/opt/ml/") == Path("s3://bucket/opt/ml/")
