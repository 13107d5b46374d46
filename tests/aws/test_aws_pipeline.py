"""`rallytrace run` with on = "aws" against moto: jobs are made, followed and found again; none of them runs there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from rallytrace import RallyOptions, make_clip, registry
from rallytrace.aws import archive
from rallytrace.runtime import bundled
from rallytrace.storage import open_store
from tests.aws.test_aws_requests import IMAGE, ROLE
from tests.storage.servers import Server, moto

CONFIG = """
name = "club_one"
work = "s3://bkt/club"
on = "aws"
[add]
videos = ["raw/*.mp4"]
[label]
source = "raw"
[prepare]
val = 0.5
size = "256x144"
[train]
steps = 400
val-every = 200
[register]
stage = "staging"
min-f1 = 0
[deploy]
[track]
videos = ["raw/*.mp4"]
fill = 3
[aws]
yes = true
region = "us-east-1"
hours = 2
[aws.train]
instance = "ml.g4dn.xlarge"
no-spot = true
[aws.track]
count = 2
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with moto() as running:
        httpx.post(f"{running.url}/moto-api/reset")  # what other tests of this process have made
        running.client().create_bucket(Bucket="bkt")
        own = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "AWS_MAX_ATTEMPTS": "1", "COLUMNS": "200"}
        roles = {"RALLYTRACE_AWS_ROLE": ROLE, "RALLYTRACE_AWS_IMAGE": IMAGE}
        for name, value in {**running.env, **own, **roles}.items():
            monkeypatch.setenv(name, value)
        yield running


def run(config: Path, *words: str) -> tuple[dict[str, str], str]:
    """The last state of each step, and what was said at the end."""
    command = [sys.executable, "-m", "rallytrace", "run", str(config), "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return {event["step"]: event["state"] for event in events if "step" in event}, done.stderr


def jobs(kind: str) -> list[dict[str, Any]]:
    client = boto3.client("sagemaker", region_name="us-east-1")
    answer = getattr(client, f"list_{kind}_jobs")()[f"{kind.capitalize()}JobSummaries"]
    names = sorted(each[f"{kind.capitalize()}JobName"] for each in answer)
    return [getattr(client, f"describe_{kind}_job")(**{f"{kind.capitalize()}JobName": name}) for name in names]


def test_the_steps_are_jobs_which_a_second_run_follows(server: Server, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    make_clip(tmp_path / "raw" / "one.mp4", RallyOptions(seconds=0.2, wh=(256, 144)))
    config = tmp_path / "pipeline.toml"
    config.write_text(CONFIG.replace("yes = true", ""))
    states, said = run(config)
    assert states == {"add": "done", "label": "done", "prepare": "running"}
    assert re.search("step prepare: .*nothing was sent: say yes, or give --yes", said)
    assert jobs("processing") == []

    config.write_text(CONFIG)
    open_store("s3://bkt/club/features").put("manifest.json", b"{}")  # what the job would leave
    first, said = run(config)
    up_to_date = {"add": "up to date", "label": "up to date"}
    assert first == {**up_to_date, "prepare": "done", "train": "done"}, said
    assert "nothing matches 's3://bkt/club/runs/club-one-train-" in said  # moto has trained nothing
    (prepared,), (trained,) = jobs("processing"), jobs("training")
    words = prepared["AppSpecification"]["ContainerArguments"]
    assert words[:3] == ["process", "prepare", "/opt/ml/processing/input/source"]
    assert words[-4:] == ["--val", "0.5", "--size", "256x144"]
    inputs = {each["InputName"]: each["S3Input"]["S3Uri"] for each in prepared["ProcessingInputs"]}
    assert inputs == {"source": "s3://bkt/club/labels", "videos": "s3://bkt/club/videos"}
    for url, name in (("s3://bkt/club/labels", "one_ball.csv"), ("s3://bkt/club/videos", "one.mp4")):
        assert open_store(url).get(name) == (tmp_path / "raw" / name).read_bytes()
    assert (trained["HyperParameters"], trained["EnableManagedSpotTraining"]) == (
        {"steps": "400", "val-every": "200"},
        False,
    )
    assert trained["StoppingCondition"]["MaxRuntimeInSeconds"] == 7200

    name = trained["TrainingJobName"]  # what its container would leave
    made = archive.pack(bundled()["window3"], tmp_path / archive.NAME)
    open_store(f"s3://bkt/club/runs/{name}/output").put(archive.NAME, made)
    open_store("s3://bkt/club/pipeline").delete("train.json")  # as if it had been cut while the job ran
    second, said = run(config)
    assert said == ""
    assert {step for step, state in second.items() if state == "up to date"} == {"add", "label", "prepare"}
    assert len(jobs("training")) == 1
    log = (tmp_path / "pipeline-logs" / "train.log").read_text()
    assert log.count("create_training_job") == 1
    assert f"{name} is there already and is followed" in log
    version = registry.find("s3://bkt/club/models", "club_one@staging")
    assert registry.fetch("s3://bkt/club/models", version.name).read_bytes() == bundled()["window3"].read_bytes()
    (tracking,) = [each for each in jobs("processing") if "-track-" in each["ProcessingJobName"]]
    inputs = {each["InputName"]: each["S3Input"]["S3Uri"] for each in tracking["ProcessingInputs"]}
    assert inputs == {"videos": "s3://bkt/club/raw", "model": f"s3://bkt/club/runs/{name}/output/model.tar.gz"}
    assert "2 x ml.c5.2xlarge" in (tmp_path / "pipeline-logs" / "track.log").read_text()
    assert tracking["AppSpecification"]["ContainerArguments"][-2:] == ["--fill", "3"]
    endpoint = boto3.client("sagemaker", region_name="us-east-1").describe_endpoint(EndpointName="club-one")
    assert endpoint["EndpointStatus"] == "InService"
    assert set(run(config)[0].values()) == {"up to date"}
