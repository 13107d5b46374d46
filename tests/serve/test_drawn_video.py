"""The drawn video over HTTP: the same as `track` writes, for clients in any language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import httpx
import numpy as np
import pytest

from rallytrace import Client, load_network, track_video, video
from rallytrace.errors import EndpointError, InputError
from rallytrace.serve.app import ServeOptions
from rallytrace.serve.jobs import Jobs
from tests.serve.conftest import Running, wait_until

MP4 = {"accept": "video/mp4"}


def _pictures(path: Path) -> list[np.ndarray]:
    with video.read(path, wh=(256, 144), colour="grey") as reader:
        return [frame.image for frame in reader]


@pytest.fixture(scope="module")
def expected(rally_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """The pictures of the video that `track` draws with window3."""
    drawn = track_video(rally_clip, tmp_path_factory.mktemp("drawn"), network=load_network("window3", threads=1)).video
    assert drawn is not None
    return _pictures(drawn)


def _check(answer: httpx.Response, tmp_path: Path, expected: list[np.ndarray]) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4"), answer.text[:300]
    (tmp_path / "drawn.mp4").write_bytes(answer.content)
    found = _pictures(tmp_path / "drawn.mp4")
    assert len(found) == len(expected)
    assert all((one == other).all() for one, other in zip(found, expected, strict=True))
    with av.open(str(tmp_path / "drawn.mp4")) as container:
        assert container.streams.video[0].codec.name == "h264"


def test_a_video_in_and_the_drawn_one_out(
    shared_server: Running, rally_clip: Path, tmp_path: Path, expected: list[np.ndarray]
) -> None:
    url = f"{shared_server.url}/v1/track?model=window3"
    _check(httpx.post(url, content=rally_clip.read_bytes(), headers=MP4, timeout=60), tmp_path, expected)
    jobs = shared_server.services.jobs
    wait_until(lambda: not list(jobs.folder.iterdir()), "the videos to be removed")


def test_a_job_names_its_video(
    shared_server: Running, rally_clip: Path, tmp_path: Path, expected: list[np.ndarray]
) -> None:
    with httpx.Client(base_url=shared_server.url, timeout=60) as api:
        begun = api.post("/v1/track?async=1&draw=1&model=window3", content=rally_clip.read_bytes())
        where = begun.headers["location"]
        assert api.get(f"{where}/video").json()["error"]["code"] == "not_ready"
        wait_until(lambda: api.get(where).json()["status"] == "done", "the job")
        link = api.get(where).json()["video"]
        assert link == f"{where}/video"
        _check(api.get(link), tmp_path, expected)
        _check(api.get(where, headers=MP4), tmp_path, expected)
        part = api.get(link, headers={"range": "bytes=4-7"})
        assert (part.status_code, part.content) == (206, b"ftyp")
        assert api.delete(where).status_code == 204
        assert api.get(link).status_code == 404
    assert not list(shared_server.services.jobs.folder.iterdir())


def test_a_job_that_draws_nothing_says_so(shared_server: Running, rally_clip: Path) -> None:
    with httpx.Client(base_url=shared_server.url, timeout=60) as api:
        where = api.post("/v1/track?async=1&model=window3", content=rally_clip.read_bytes()).headers["location"]
        wait_until(lambda: api.get(where).json()["status"] == "done", "the job")
        assert "video" not in api.get(where).json()
        answer = api.get(f"{where}/video")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_drawn")
        api.delete(where)


def test_points_and_the_address_of_the_video_at_once(shared_server: Running, rally_clip: Path) -> None:
    url = f"{shared_server.url}/v1/track?model=window3&draw=1"
    found = httpx.post(url, content=rally_clip.read_bytes(), timeout=60).json()
    assert found["points"]
    assert httpx.get(shared_server.url + found["video"]).headers["content-type"] == "video/mp4"
    httpx.delete(f"{shared_server.url}/v1/track/{found['id']}")


def test_a_drawn_video_has_a_bound_on_the_disk(serve: Callable[..., Running], rally_clip: Path) -> None:
    clip = rally_clip.read_bytes()
    server = serve(max_video=len(clip) + 1000)
    options: ServeOptions = server.services.options
    object.__setattr__(options, "max_video", 5000)  # of what is written from now on
    answer = httpx.post(f"{server.url}/v1/track", content=clip, headers=MP4, timeout=60)
    assert answer.status_code in (400, 507), answer.text
    jobs: Jobs = server.services.jobs
    wait_until(lambda: not list(jobs.folder.iterdir()), "what was half written to be removed")


def test_the_client_fetches_it(
    shared_server: Running, rally_clip: Path, tmp_path: Path, expected: list[np.ndarray]
) -> None:
    to = tmp_path / "deep" / "drawn.mp4"
    with Client(shared_server.url, deadline_s=5.0) as client:
        client.draw_video(rally_clip, to, model="window3")
        found = _pictures(to)
        assert all((one == other).all() for one, other in zip(found, expected, strict=True))
        (tmp_path / "none.mp4").write_bytes(b"no video")
        with pytest.raises(EndpointError, match="cannot track"):
            client.draw_video(tmp_path / "none.mp4", tmp_path / "x.mp4")
        with pytest.raises(EndpointError, match="no model"):
            client.draw_video(rally_clip, tmp_path / "x.mp4", model="nothing")
        with pytest.raises(InputError, match="does not exist"):
            client.draw_video(tmp_path / "gone.mp4", tmp_path / "x.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "none.mp4"]
    assert not shared_server.services.jobs._jobs
