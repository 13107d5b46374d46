"""The client of the AWS sample (aws-samples/sagemaker-high-speed-ball-tracking-application, test/application.py),
on the wire: the same calls of boto3, the same JSON, the same reading of the answer."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rallytrace import RallyOptions, make_clip, read_labels, video
from rallytrace.serve import hosting
from rallytrace.types import Image
from tests.serve.conftest import Running

boto3 = pytest.importorskip("boto3")
HEIGHT, WIDTH = 288, 512


def client_of(server: Running, token: str | None = None) -> Any:
    from botocore.config import Config

    return boto3.client(
        "sagemaker-runtime",
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        aws_session_token=token,
        config=Config(retries={"max_attempts": 0}),
    )


def ask(client: Any, pictures: list[Image]) -> NDArray[np.float32]:
    """The heatmaps for three RGB pictures (288, 512, 3)."""
    unit = np.concatenate([np.moveaxis(picture, -1, 0) for picture in pictures])
    unit = unit.reshape((1, 9, HEIGHT, WIDTH)).astype("float32")
    unit /= 255
    answer = client.invoke_endpoint(
        EndpointName="ball", Body=json.dumps(unit.tolist()), ContentType="application/json", Accept="application/json"
    )
    return np.array(json.loads(answer["Body"].read())["predictions"], dtype="float32")


def largest_box_centre(mask: NDArray[np.bool_]) -> tuple[float, float] | None:
    """x + w / 2 and y + h / 2 of the largest box of an 8-connected region, as OpenCV's contours have them."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    boxes = []
    while left:
        region, seen = deque([left.pop()]), []
        while region:
            y, x = region.popleft()
            seen.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            region.extend(near)
        ys, xs = zip(*seen, strict=True)
        boxes.append((min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1))
    if not boxes:
        return None
    x, y, w, h = max(boxes, key=lambda box: box[2] * box[3])
    return x + w / 2, y + h / 2


def test_the_reference_client_finds_the_ball(shared_server: Running, tmp_path: Path) -> None:
    clip = tmp_path / "rally.mp4"
    make_clip(clip, RallyOptions(wh=(1280, 720), seconds=2.0, seed=5))
    labels = read_labels(clip.with_name("rally_ball.csv"))
    with video.read(clip, wh=(WIDTH, HEIGHT), colour="rgb") as reader:
        pictures = [frame.image for frame in reader]
    client, ratio = client_of(shared_server), 720 / HEIGHT
    misses, hits, false = [], 0, 0
    for count in range(2, len(pictures), 9):
        prediction = ask(client, pictures[count - 2 : count + 1])
        assert prediction.shape == (1, HEIGHT, WIDTH)
        centre, label = largest_box_centre(prediction[0] > 0.5), labels.get(count)
        truth = None if label is None else label.xy
        if centre is None or truth is None:
            false += centre is not None
            misses += [count] if truth is not None else []
            continue
        x, y = int(ratio * centre[0]), int(ratio * centre[1])
        near = np.hypot(x - truth[0], y - truth[1]) <= 10  # px of 1280x720: 4 px of 512x288
        hits += bool(near)
        false += not near
    assert hits >= 3, (hits, misses, false)
    assert false <= 1


@pytest.mark.parametrize("name", ["window3", "accurate", "ball-tracker"])
def test_an_endpoint_may_have_any_name(shared_server: Running, name: str) -> None:
    """Also that of a network that takes no such windows: another one answers."""
    body = json.dumps(np.zeros((1, 9, 32, 32)).tolist())
    answer = client_of(shared_server).invoke_endpoint(EndpointName=name, Body=body, ContentType="application/json")
    assert np.shape(json.loads(answer["Body"].read())["predictions"]) == (1, 32, 32)


def test_a_refusal_says_why_in_the_aws_clients_error(shared_server: Running) -> None:
    from botocore.exceptions import ClientError

    body = json.dumps(np.zeros((1, 4, 32, 32)).tolist())
    with pytest.raises(ClientError, match="windows of 4 channels") as refused:
        client_of(shared_server).invoke_endpoint(EndpointName="ball", Body=body, ContentType="application/json")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_key_travels_as_the_session_token(serve: Any, tmp_path: Path) -> None:
    from botocore.exceptions import ClientError

    from rallytrace.serve.security import KeyFile

    keys = KeyFile(tmp_path / "keys.json")
    server = serve(keys=keys.path)
    body = json.dumps(np.zeros((1, 9, 32, 32)).tolist())
    call = {"EndpointName": "ball", "Body": body, "ContentType": "application/json"}
    with pytest.raises(ClientError) as refused:
        client_of(server).invoke_endpoint(**call)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 401
    client_of(server, keys.add(["track"])).invoke_endpoint(**call)


def test_a_managed_endpoints_limit_can_be_kept(serve: Any) -> None:
    from botocore.exceptions import ClientError

    server = serve(max_body=hosting.MAX_BODY)
    with pytest.raises(ClientError) as refused:
        ask(client_of(server), [np.full((HEIGHT, WIDTH, 3), 77, np.uint8)] * 3)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413
