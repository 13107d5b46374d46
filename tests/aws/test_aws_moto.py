"""`rallytrace aws` against moto's HTTP server, and botocore's Stubber for the calls that moto does not have."""

from __future__ import annotations

import json
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from click.testing import Result
from typer.testing import CliRunner

from rallytrace.aws import requests, service
from rallytrace.aws.requests import Request
from rallytrace.cli import app
from rallytrace.errors import EndpointError, InputError
from rallytrace.runtime import bundled
from tests.aws.test_aws_requests import IMAGE, ROLE, WORKTEAM
from tests.storage.servers import Server, moto

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with moto() as running:
        running.client().create_bucket(Bucket="bkt")
        yield running


@pytest.fixture(autouse=True)
def aws(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {**server.env, "AWS_SECRET_ACCESS_KEY": SECRET, "XDG_CACHE_HOME": str(tmp_path / "c")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RALLYTRACE_AWS_ROLE", ROLE)
    monkeypatch.setenv("RALLYTRACE_AWS_IMAGE", IMAGE)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(service, "POLL_S", 0.1)
    service.connect.cache_clear()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["aws", *words], env={"COLUMNS": "200"})


def ok(*words: str) -> Result:
    done = run(*words)
    assert done.exception is None, (done.exception, done.output)
    return done


def client(name: str) -> Any:
    return boto3.client(name, region_name="us-east-1")


def write_log(group: str, stream: str, *lines: str) -> None:
    logs = client("logs")
    for make, name in ((logs.create_log_group, {}), (logs.create_log_stream, {"logStreamName": stream})):
        try:
            make(logGroupName=group, **name)
        except logs.exceptions.ResourceAlreadyExistsException:
            continue
    now = int(time.time() * 1000)
    events = [{"timestamp": now + n, "message": line} for n, line in enumerate(lines)]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def test_training_is_made_followed_and_listed() -> None:
    group = "/aws/sagemaker/TrainingJobs"
    write_log(group, "rallytrace-one/algo-1-1", "step 50  heatmap 1.5\n", f"\x1b[2J key {SECRET}")
    write_log(group, "rallytrace-one/algo-2-1", "ready")
    write_log(group, "rallytrace-other/algo-1-1", "not mine")
    words = ["--data", "s3://bkt/features", "--out", "s3://bkt/runs", "--name", "rallytrace-one", "--count", "2"]
    done = ok("train", *words, "--set", "steps=100", "--set", "model=rallynet", "--yes")
    assert "create_training_job: rallytrace-one" in done.stderr
    assert "2 x ml.g4dn.xlarge, 100 GB, for 24 h at most" in done.stderr
    assert "cost: about 1.47 USD per hour (us-east-1, noted" in done.stderr
    assert "[algo-1-1] step 50  heatmap 1.5\n" in done.stderr
    assert "[algo-1-1] [2J key ***\n" in done.stderr
    assert "[algo-2-1] ready" in done.stderr
    assert "not mine" not in done.stderr
    assert SECRET not in done.output
    assert "rallytrace-one: Completed" in done.stderr
    made = client("sagemaker").describe_training_job(TrainingJobName="rallytrace-one")
    assert made["HyperParameters"]["steps"] == "100"
    assert made["EnableManagedSpotTraining"] is True
    assert [channel["ChannelName"] for channel in made["InputDataConfig"]] == ["data"]
    listed = [json.loads(line) for line in ok_status()]
    assert ("TrainingJob", "rallytrace-one", "Completed") in [(e["kind"], e["name"], e["status"]) for e in listed]
    with pytest.raises(InputError, match="is Completed already"):
        raise run("delete", "rallytrace-one").exception  # type: ignore[misc]


def ok_status() -> list[str]:
    """moto has no labelling jobs: their list is the last, and fails there."""
    done = run("status", "--json")
    assert isinstance(done.exception, EndpointError | None)
    return [line for line in done.stdout.splitlines() if line.startswith("{")]


def test_processing_jobs() -> None:
    ok("prepare", "s3://bkt/labels", "--videos", "s3://bkt/raw", "--out", "s3://bkt/f", "--name", "p1", "--yes")
    made = client("sagemaker").describe_processing_job(ProcessingJobName="p1")
    words = ["process", "prepare", "/opt/ml/processing/input/source", "--out", "/opt/ml/processing/output/out"]
    assert made["AppSpecification"]["ContainerArguments"] == [*words, "--videos", "/opt/ml/processing/input/videos"]
    ok("track", "s3://bkt/raw", "--out", "s3://bkt/t", "--name", "t1", "--count", "3", "--model", "fast", "--yes")
    made = client("sagemaker").describe_processing_job(ProcessingJobName="t1")
    assert made["AppSpecification"]["ContainerArguments"][-2:] == ["--model", "fast"]
    assert json.loads(ok("status", "t1", "--json").stdout)["kind"] == "ProcessingJob"


def test_nothing_is_made_unless_somebody_agrees() -> None:
    words = ["train", "--data", "s3://bkt/features", "--out", "s3://bkt/runs", "--name", "never"]
    done = run(*words)
    assert isinstance(done.exception, InputError)
    assert "nothing was sent" in str(done.exception)
    dry = ok(*words, "--dry-run")
    assert json.loads(dry.stdout)["parameters"]["TrainingJobName"] == "never"
    assert service.describe("TrainingJob", "never", "us-east-1") is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--data", "s3://bkt/f", "--set", "stepz=1"], "unknown option stepz"),
        (["train", "--data", "s3://bkt/f", "--set", "batch=x"], "batch='x': expected int"),
        (["prepare", "s3://bkt/f", "--options", "--siz 3"], "No such option: --siz"),
        (["track", "s3://bkt/f", "--options", "--overlap 0"], "--overlap 0"),
    ],
)
def test_what_the_job_would_refuse_is_refused_here(words: list[str], said: str) -> None:
    done = run(*words, "--out", "s3://bkt/o", "--dry-run")
    assert isinstance(done.exception, InputError), done.output
    assert said in str(done.exception)


def test_an_endpoint_lives_scales_answers_and_goes(tmp_path: Path, server: Server) -> None:
    words = ["ball", "--model", str(bundled()["window3"]), "--out", "s3://bkt/models"]
    done = ok("deploy", *words, "--async", "s3://bkt/async", "--min", "0", "--max", "3", "--yes")
    assert "1 to 3 x ml.c5.xlarge, until `rallytrace aws delete ball`" in done.stderr
    assert "cost: about 0.20 USD per hour" in done.stderr
    assert "at most about 0.61 USD per hour" in done.stderr
    sagemaker = client("sagemaker")
    config = sagemaker.describe_endpoint(EndpointName="ball")["EndpointConfigName"]
    model = sagemaker.describe_model(ModelName=config)["PrimaryContainer"]
    assert model["Environment"] == {"SAGEMAKER_MODEL_SERVER_TIMEOUT": "3600", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "1024"}
    key = model["ModelDataUrl"].removeprefix("s3://bkt/")
    server.client().download_file("bkt", key, str(tmp_path / "model.tar.gz"))
    with tarfile.open(tmp_path / "model.tar.gz") as tar:
        assert tar.getnames() == ["ball.onnx"]
    scaling = client("application-autoscaling")
    target = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"][0]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (0, 3)
    policies = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    wake = next(policy for policy in policies if policy["PolicyName"] == "ball-wake")
    alarm = client("cloudwatch").describe_alarms(AlarmNames=["ball-wake"])["MetricAlarms"][0]
    assert alarm["AlarmActions"] == [wake["PolicyARN"]]

    again = run("deploy", *words, "--yes")  # moto cannot update: the error says what was made before it
    assert isinstance(again.exception, EndpointError)
    assert str(again.exception).startswith("update_endpoint (made before: create_model, create_endpoint_config)")

    dry = ok("delete", "ball", "--dry-run").stdout.splitlines()
    assert [json.loads(line)["operation"] for line in dry] == [
        "deregister_scalable_target",
        "delete_alarms",
        "delete_endpoint",
        "delete_endpoint_config",
        "delete_model",
    ]
    assert sagemaker.list_endpoints()["Endpoints"]
    assert "deleted" in ok("delete", "ball", "--yes").stdout
    assert not sagemaker.list_endpoints()["Endpoints"]
    assert not scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert not client("cloudwatch").describe_alarms(AlarmNames=["ball-wake"])["MetricAlarms"]


def tell_moto(server: Server, what: str, *results: dict[str, Any]) -> None:
    """What moto is to answer instead of a container."""
    url = f"{server.url}/moto-api/static/sagemaker/{what}"
    request = urllib.request.Request(url, json.dumps({"results": results}).encode(), method="POST")
    urllib.request.urlopen(request).close()


def test_videos_go_to_endpoints_and_answers_come_back(tmp_path: Path, server: Server) -> None:
    """moto's answers are canned; that they become files, and too large videos an error, is ours."""
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"a video")
    tell_moto(server, "endpoint-results", {"Body": "Frame,Visibility\n0,1\n", "ContentType": "text/csv"})
    ok("invoke", "ball", str(clip), "--out", str(tmp_path / "clip.csv"))
    assert (tmp_path / "clip.csv").read_text().startswith("Frame,Visibility")
    again = run("invoke", "ball", str(clip), "--out", str(tmp_path / "clip.csv"))
    assert "exists already" in str(again.exception)
    with clip.open("wb") as file:
        file.truncate(6_291_457)
    large = run("invoke", "ball", str(clip), "--out", str(tmp_path / "large.csv"))
    assert "6291456 bytes" in str(large.exception)
    assert not (tmp_path / "large.csv").exists()


def test_long_videos_go_by_the_store(tmp_path: Path, server: Server) -> None:
    clip, out = tmp_path / "long.mp4", tmp_path / "long.csv"
    clip.write_bytes(b"a long video")
    answers = [{"data": "Frame,Visibility\n"}, {"is_failure": True, "data": f"no \x1b[2Jvideo {SECRET}"}]
    tell_moto(server, "async-endpoint-results", *answers)
    ok("invoke", "ball", str(clip), "--via", "s3://bkt/in/", "--out", str(out))
    assert out.read_text() == "Frame,Visibility\n"
    assert server.client().get_object(Bucket="bkt", Key="in/long.mp4")["Body"].read() == b"a long video"
    failed = run("invoke", "ball", "s3://bkt/in/other.mp4", "--out", str(tmp_path / "other.csv"))
    assert isinstance(failed.exception, EndpointError)
    assert str(failed.exception) == "ball could not track s3://bkt/in/other.mp4: no [2Jvideo ***"
    assert not (tmp_path / "other.csv").exists()


def test_frames_of_videos_become_a_labelling_job(rallies: Path, server: Server, tmp_path: Path) -> None:
    """Everything that the job reads is in the bucket, and what the job would be asked is what AWS takes."""
    from rallytrace import video
    from rallytrace.aws import labelling
    from rallytrace.labels import ground_truth
    from rallytrace.labels.sets import ReadOptions
    from rallytrace.labels.source import Source
    from tests.aws.shapes import problems

    words = ["label", str(rallies), "--out", "s3://bkt/label", "--workteam", WORKTEAM, "--name", "ball"]
    dry = ok(*words, "--dry-run")
    asked = Request(**json.loads(dry.stdout))
    assert problems(asked) == []
    s3 = server.client()
    assert "Contents" not in s3.list_objects_v2(Bucket="bkt", Prefix="label/")
    done = run(*words, "--yes")
    assert isinstance(done.exception, EndpointError)  # moto has no such call; all that comes before it is done
    assert "create_labeling_job" in str(done.exception)
    assert "about 90 frames of 2 videos" in done.stderr
    listed = {each["Key"]: each for each in s3.list_objects_v2(Bucket="bkt", Prefix="label/")["Contents"]}
    assert (
        asked.parameters["InputConfig"]["DataSource"]["S3DataSource"]["ManifestS3Uri"].removeprefix("s3://bkt/")
        in listed
    )
    assert asked.parameters["LabelCategoryConfigS3Uri"].removeprefix("s3://bkt/") in listed
    for key in listed:
        target = tmp_path / "bkt" / key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(s3.get_object(Bucket="bkt", Key=key)["Body"].read())
    source = Source(tmp_path / "bkt" / "label" / "input.manifest")
    names = ground_truth.pictures(source, ReadOptions(root=tmp_path))
    assert {clip: len(frames) for clip, frames in names.items()} == {"a": 45, "b": 45}
    picture = Path(names["a"][44]).read_bytes()  # from the copy, not from the bucket
    with video.read(rallies / "a.mp4", colour="rgb") as reader:
        last = list(reader)[-1].image
    assert abs(video.decode_jpeg(picture).astype(int) - last).mean() < 3  # the frame that it is called after

    before = {key: each["LastModified"] for key, each in listed.items() if "/frames/" in key}
    time.sleep(1.1)  # the store's clock counts seconds
    labelling.upload([str(rallies / "a.mp4")], "s3://bkt/label", lambda source, done: None)
    after = s3.list_objects_v2(Bucket="bkt", Prefix="label/frames/")["Contents"]
    assert {each["Key"]: each["LastModified"] for each in after} == before  # nothing is sent twice


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """A client that checks each request against the service model and answers as it is told."""
    made = client("sagemaker")
    monkeypatch.setattr(service, "connect", lambda name, region=None: made)
    with Stubber(made) as stub:
        yield stub
        stub.assert_no_pending_responses()


def test_labelling_jobs_updates_and_stops_are_sent_as_the_service_wants(stubbed: Stubber) -> None:
    people = {"role": ROLE, "workteam": WORKTEAM, "region": "us-east-1"}
    label = requests.labelling("ball", ["input.manifest"], "s3://bkt/l", **people)[0]
    arn = "arn:aws:sagemaker:us-east-1:123456789012:labeling-job/ball"
    stubbed.add_response("create_labeling_job", {"LabelingJobArn": arn}, label.parameters)
    update = requests.endpoint(
        "e", "v", "s3://bkt/m", requests.Machines(ROLE, IMAGE, "ml.m5.large"), spool="", new=False
    )[2]
    stubbed.add_response(
        "update_endpoint", {"EndpointArn": arn.replace("labeling-job/ball", "endpoint/e")}, update.parameters
    )
    stop = service.removal(service.Found("TrainingJob", "t", "InProgress", {}), None)
    stubbed.add_response("stop_training_job", {}, {"TrainingJobName": "t"})
    service.send([label, update, *stop], None)


def test_a_job_that_fails_is_followed_to_its_reason(stubbed: Stubber, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "new_lines", lambda *_: iter(()))
    common = {
        "ProcessingJobName": "p",
        "ProcessingJobArn": "arn:aws:sagemaker:us-east-1:123456789012:processing-job/p",
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
        },
        "AppSpecification": {"ImageUri": IMAGE},
        "CreationTime": 0,
    }
    for status in ("InProgress", "InProgress", "Stopping"):
        stubbed.add_response("describe_processing_job", {**common, "ProcessingJobStatus": status})
    said = f"1 of 2 videos could not be tracked, key {SECRET}"
    last = {**common, "ProcessingJobStatus": "Failed", "ExitMessage": said, "FailureReason": "AlgorithmError"}
    stubbed.add_response("describe_processing_job", last)
    lines: list[str] = []
    with pytest.raises(EndpointError, match=r"^p failed: 1 of 2 videos could not be tracked, key \*\*\*$"):
        service.follow("ProcessingJob", "p", None, lines.append, poll_s=0.01)
    assert lines == ["p: InProgress", "p: Stopping", "p: Failed"]


@pytest.mark.parametrize(
    ("kind", "details", "is_wrong"),
    [
        ("ProcessingJob", {"ProcessingJobStatus": "Stopped", "ExitMessage": "by hand"}, True),
        ("TrainingJob", {"TrainingJobStatus": "Stopped"}, True),
        ("TrainingJob", {"TrainingJobStatus": "Stopped", "ModelArtifacts": {"S3ModelArtifacts": "s3://b/m"}}, False),
        ("Endpoint", {"EndpointStatus": "OutOfService"}, True),
        ("Endpoint", {"EndpointStatus": "UpdateRollbackFailed"}, True),
        ("Endpoint", {"EndpointStatus": "InService"}, False),
    ],
)
def test_only_a_result_is_an_end(monkeypatch: pytest.MonkeyPatch, kind: str, details: Any, is_wrong: bool) -> None:
    found = service.Found(kind, "x", details[f"{kind}Status"], details)
    monkeypatch.setattr(service, "describe", lambda *_: found)
    monkeypatch.setattr(service, "new_lines", lambda *_: ())
    if is_wrong:
        with pytest.raises(EndpointError, match="x ended as"):
            service.follow(kind, "x", None, print)
    else:
        assert service.follow(kind, "x", None, print) is found


def test_errors_are_one_line_without_credentials(monkeypatch: pytest.MonkeyPatch, stubbed: Stubber) -> None:
    stubbed.add_client_error("describe_training_job", "AccessDeniedException", f"AKIAIOSFODNN7EXAMPLE {SECRET} may not")
    with pytest.raises(EndpointError, match=r"AccessDeniedException.*\*\*\* \*\*\* may not") as told:
        service.find("x", None)
    assert SECRET not in str(told.value)


def test_a_name_that_nothing_has(stubbed: Stubber) -> None:
    for kind, code in (("training_job", "ValidationException"), ("processing_job", "ValidationException")):
        stubbed.add_client_error(f"describe_{kind}", code, "Requested resource not found.")
    stubbed.add_client_error("describe_endpoint", "ValidationException", "Could not find endpoint")
    stubbed.add_client_error("describe_labeling_job", "ResourceNotFound", "no such job")
    with pytest.raises(InputError, match="no job and no endpoint is called 'ball'"):
        service.find("ball", None)


def test_no_region_and_no_server_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    assert "give --region" in str(run("status").exception)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert isinstance(run("status").exception, EndpointError)
