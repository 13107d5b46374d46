"""Each request against AWS's own description of the call, and what is said before it is sent."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from rallytrace.aws import requests
from rallytrace.aws.requests import Machines, Request
from rallytrace.errors import InputError
from tests.aws.shapes import problems

ROLE = "arn:aws:iam::123456789012:role/service-role/rallytrace"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/rallytrace:1"
WORKTEAM = "arn:aws:sagemaker:us-east-1:123456789012:workteam/private-crowd/ball"
ON = Machines(ROLE, IMAGE, "ml.m5.xlarge", 2, 12, 100)


def all_requests() -> list[Request]:
    """One of each kind."""
    people = {"role": ROLE, "workteam": WORKTEAM}
    return [
        requests.training("a-1", {"train": "s3://bkt/a", "val": "s3://bkt/b/"}, "s3://bkt", ON, {"lr": "1"}, spot=True),
        requests.training("a", {"data": "s3://bkt/a"}, "s3://bkt/o/", ON, {}, spot=False),
        requests.processing("p", ["track", "x"], {"videos": "s3://bkt/v"}, "s3://bkt/out", ON, shared="videos"),
        requests.processing("p", ["prepare", "s3://bkt/x.manifest"], {}, "s3://bkt/out", ON),
        *requests.endpoint("e", "e-1", "s3://bkt/m/model.tar.gz", ON, spool="s3://bkt/async", new=True),
        *requests.endpoint("e", "e-1", "s3://bkt/m/model.tar.gz", ON, spool="", new=False),
        *requests.autoscaling("e", 0, 4, spool=True),
        *requests.autoscaling("e", 1, 4, spool=False),
        requests.request("deregister_scalable_target", name="e"),
        requests.request("delete_alarms", name="e"),
        *requests.labelling("l", ["input.manifest"], "s3://bkt/l/", region="us-east-1", **people),
        *requests.labelling("l", ["a.manifest", "b.manifest"], "s3://bkt/l", region="eu-west-2", **people),
    ]


@pytest.mark.parametrize("request_", all_requests(), ids=lambda r: r.operation)
def test_the_service_would_take_it(request_: Request) -> None:
    assert problems(request_) == []
    assert json.loads(json.dumps(request_.parameters)) == request_.parameters
    assert "$" not in json.dumps(request_.parameters)  # nothing is left open


def test_the_check_would_notice() -> None:
    good = requests.training("a", {"data": "s3://bkt/a"}, "s3://bkt/o", ON, {}, spot=False)
    config = {**good.parameters["ResourceConfig"], "InstanceCount": "two"}
    two = dataclasses.replace(good, parameters={**good.parameters, "ResourceConfig": config})
    with pytest.raises(InputError, match=r"CreateTrainingJob: .*ResourceConfig\.InstanceCount"):
        two.check()
    nobody = dataclasses.replace(good, parameters={k: v for k, v in good.parameters.items() if k != "RoleArn"})
    with pytest.raises(InputError, match="RoleArn"):
        nobody.check()
    assert problems(dataclasses.replace(good, parameters={**good.parameters, "RoleArn": "me" * 20}))
    large = {**good.parameters["ResourceConfig"], "InstanceType": "ml.huge"}
    assert problems(dataclasses.replace(good, parameters={**good.parameters, "ResourceConfig": large}))


def test_spot_training_resumes_and_is_bounded() -> None:
    asked = requests.training("job", {"data": "s3://bkt/a"}, "s3://bkt/out/", ON, {"steps": "9"}, spot=True).parameters
    assert asked["CheckpointConfig"] == {"S3Uri": "s3://bkt/out/job/checkpoints", "LocalPath": "/opt/ml/checkpoints"}
    assert asked["EnableManagedSpotTraining"] is True
    assert asked["StoppingCondition"] == {"MaxRuntimeInSeconds": 43200, "MaxWaitTimeInSeconds": 86400}
    assert asked["HyperParameters"] == {"steps": "9"}
    whole = requests.training("job", {"data": "s3://bkt/a"}, "s3://bkt/out", ON, {}, spot=False).parameters
    assert whole["StoppingCondition"] == {"MaxRuntimeInSeconds": 43200}
    metric = asked["AlgorithmSpecification"]["MetricDefinitions"][0]
    line = "step 50  val_f1_4at288 0.8125  val_precision_4at288 0.9"  # as container.say prints it
    assert re.findall(metric["Regex"], line) == ["0.8125"]


def test_videos_are_shared_out_and_the_network_is_not() -> None:
    inputs = {"videos": "s3://bkt/v", "model": "s3://bkt/m/model.tar.gz"}
    asked = requests.processing("p", ["track"], inputs, "s3://bkt/o", ON, shared="videos").parameters
    how = {each["InputName"]: each["S3Input"]["S3DataDistributionType"] for each in asked["ProcessingInputs"]}
    assert how == {"videos": "ShardedByS3Key", "model": "FullyReplicated"}
    assert asked["AppSpecification"]["ContainerArguments"] == ["process", "track"]


def test_only_asynchronous_endpoints_sleep() -> None:
    asleep = requests.autoscaling("e", 0, 2, spool=True)
    assert [each.operation for each in asleep[2:]] == ["put_scaling_policy", "put_metric_alarm"]
    assert len(requests.autoscaling("e", 1, 2, spool=True)) == 2
    for least, most, spool in ((0, 2, False), (3, 2, False), (3, 2, True)):
        with pytest.raises(InputError, match=f"from {least} to {most} instances"):
            requests.autoscaling("e", least, most, spool=spool)


def test_labelling_arns_are_those_that_aws_documents() -> None:
    """botocore carries the API reference: every region and function that it names for video object tracking."""
    from botocore import session

    model = session.get_session().get_service_model("sagemaker")
    documented = model.shape_for("HumanTaskConfig").members["PreHumanTaskLambdaArn"].documentation
    documented += (
        model.shape_for("AnnotationConsolidationConfig").members["AnnotationConsolidationLambdaArn"].documentation
    )
    documented += model.shape_for("UiConfig").members["HumanTaskUiArn"].documentation
    found = re.findall(r"arn:aws:lambda:([\w-]+):(\d+):function:PRE-VideoObjectTracking", documented)
    assert dict(found) == requests.constants()["labelling"]["accounts"]
    for region in dict(found):
        task = requests.labelling("l", ["m"], "s3://bkt", role=ROLE, workteam=WORKTEAM, region=region)[0]
        human = task.parameters["HumanTaskConfig"]
        assert human["PreHumanTaskLambdaArn"] in documented
        assert human["AnnotationConsolidationConfig"]["AnnotationConsolidationLambdaArn"] in documented
        assert human["UiConfig"]["HumanTaskUiArn"].replace(region, "aws-region") in documented


def test_other_regions_need_arns() -> None:
    people = {"role": ROLE, "workteam": WORKTEAM, "region": "mars-north-1"}
    with pytest.raises(InputError, match="'mars-north-1': give --arn three times"):
        requests.labelling("l", ["m"], "s3://bkt", **people)
    with pytest.raises(InputError, match="given 1 times"):
        requests.labelling("l", ["m"], "s3://bkt", arns=["ui"], **people)
    human = requests.labelling("l", ["m"], "s3://bkt", arns=["u", "b", "a"], **people)[0].parameters["HumanTaskConfig"]
    assert (human["UiConfig"]["HumanTaskUiArn"], human["PreHumanTaskLambdaArn"]) == ("u", "b")


def test_what_it_costs_is_said_with_its_origin() -> None:
    assert ON.cost().startswith("about 0.46 USD per hour (us-east-1, noted 2026-")
    assert "https://aws.amazon.com/sagemaker/pricing/" in ON.cost()
    assert "Prices change" in ON.cost()
    assert ON.cost(1.5).startswith("about 3.00 USD per hour (as given)")
    strange = dataclasses.replace(ON, instance="ml.p9.huge")
    assert strange.cost().startswith("unknown: there is no price of ml.p9.huge here")
    assert strange.cost(0.0).startswith("about 0.00 USD")


@pytest.mark.parametrize("url", ["bucket/x", "https://bucket/x", "s3://", "s3://B/x", "gs://bucket/x", "s3://bkt x/"])
def test_only_s3_is_read_by_sagemaker(url: str) -> None:
    with pytest.raises(InputError, match="expected s3://bucket/folder"):
        requests.training("a", {"data": url}, "s3://bkt", ON, {}, spot=False)


@pytest.mark.parametrize("name", ["-a", "a-", "a_b", "a" * 46, "a b"])
def test_names_that_the_service_refuses(name: str) -> None:
    with pytest.raises(InputError, match="expected up to 45 letters"):
        requests.name_of("train", name)
