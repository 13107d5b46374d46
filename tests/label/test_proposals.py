"""The model in the loop: runs that can be stopped and seen, and queues that put doubt first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rallytrace import RallyOptions, load_network, make_clip, video
from rallytrace.label.book import LabelBook, NotFound, WrongState
from rallytrace.label.events import Label
from rallytrace.label.proposals import Proposal, Proposer, uncertain
from rallytrace.tracker import Tracker

from .sites import Site, wait_for


@pytest.fixture(scope="module")
def rally(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rally") / "rally.mp4"
    make_clip(path, RallyOptions(wh=(512, 288), seconds=1.0, seed=4))
    return path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def label(frame: int, xy: tuple[float, float] | None, source: str = "manual") -> Label:
    x, y = xy or (None, None)
    return Label(frame, "ball:1", 1 if xy else 0, x, y, "", None, None, source, None, 1, 1)


def proposed(frame: int, xy: tuple[float, float] | None, score: float = 0.9) -> Proposal:
    return Proposal(frame, *(xy or (None, None)), score)


def by_frame(*items: Any) -> dict[int, Any]:
    return {item.frame: item for item in items}


COURSE = {n: (100.0 + 8 * n, 300.0 - 20 * n + n * n) for n in range(20)}  # a throw, at 1280 px


def test_unlabelled_frames_come_in_their_order() -> None:
    assert uncertain("unlabelled", range(3, 8), by_frame(label(4, None), label(6, (1, 1))), {}) == [3, 5, 7]


def test_scores_near_to_undecided_come_first_and_people_decide() -> None:
    made = by_frame(*(proposed(n, (1, 1), s) for n, s in enumerate((0.99, 0.45, 0.03, 0.7, 0.52))))
    said = by_frame(label(4, (1, 1)), label(1, (1, 1), "model:accurate"))
    assert uncertain("score", range(5), said, made) == [1, 3, 2, 0]


def test_jumps_are_found_and_the_far_one_comes_first() -> None:
    places = COURSE | {6: (700.0, 300.0), 15: (100.0, 20.0)}
    found = uncertain("jump", range(20), {}, by_frame(*(proposed(n, xy) for n, xy in places.items())))
    assert set(found) == {6, 7, 15, 16}
    assert found[:2] == [6, 7]
    assert uncertain("jump", range(20), {}, by_frame(*(proposed(n, xy) for n, xy in COURSE.items()))) == []


def test_what_leaves_its_parabola_is_found() -> None:
    places = by_frame(*(proposed(n, xy) for n, xy in COURSE.items()))
    assert uncertain("residual", range(20), {}, places) == []
    x, y = COURSE[9]
    assert uncertain("residual", range(20), by_frame(label(9, (x + 9, y + 9))), places)[0] == 9
    assert uncertain("residual", range(20), by_frame(label(9, (x + 2, y + 2))), places) == []
    assert uncertain("residual", range(20), by_frame(label(9, (x + 2, y + 2))), places, width_px=320)[0] == 9


def test_disagreement_with_the_model_and_with_others() -> None:
    said = by_frame(label(0, (10, 10)), label(1, (10, 10)), label(2, None), label(3, (10, 10)), label(4, None))
    other = by_frame(label(0, (12, 12)), label(1, (10, 40)), label(2, (5, 5)), label(3, (10, 15)), label(4, None))
    model = by_frame(*(proposed(n, (each.x, each.y) if each.x else None) for n, each in other.items()))
    assert uncertain("disagreement", range(9), said, {}, [other]) == [2, 1, 3]
    assert uncertain("model", range(9), said, model) == [2, 1, 3]
    assert uncertain("disagreement", range(9), said, {}, []) == []


def test_a_run_proposes_what_the_tracker_says(site: Site, rally: Path) -> None:
    (found,) = site.imported(rally)
    proposer = site.workspace.proposer
    run_id = proposer.start(found["id"], "accurate")
    assert proposer.start(found["id"], "accurate") == run_id  # asked for twice, run once
    done = wait_for(lambda: (run := proposer.run(run_id)).state not in ("queued", "running") and run)
    assert (done.state, done.progress, done.error) == ("done", 1.0, "")
    with video.read(rally) as reader:
        tracker = Tracker(load_network(), reader.info.wh)
        reader.give(wh=tracker.transform.content_wh, colour=tracker.colour)
        points = [point for frame in reader for point in tracker.push(frame)] + tracker.flush()
    stored = proposer.proposals(run_id, 0, 10_000)
    assert [each.frame for each in stored] == list(range(found["n"]))
    assert [(each.x, each.y) for each in stored] == [point.xy or (None, None) for point in points]
    assert [each.score for each in stored] == pytest.approx([point.score for point in points])
    assert any(each.x is not None for each in stored)
    assert [each.frame for each in proposer.proposals(run_id, 5, 8)] == [5, 6, 7]
    again = proposer.start(found["id"], "accurate")
    wait_for(lambda: proposer.run(again).state == "done" and len(proposer.runs()) == 1)
    assert proposer.latest(found["id"]) == proposer.run(again)
    proposer.cancel(again)
    assert proposer.runs() == []
    assert proposer.latest(found["id"]) is None


def test_own_weights_of_the_project_can_be_chosen_and_nothing_else(site: Site, rally: Path) -> None:
    (found,) = site.imported(rally)
    weights = site.workspace.folder / "weights"
    weights.mkdir()
    (weights / "mine.onnx").write_bytes(b"no network")
    proposer = site.workspace.proposer
    assert {"accurate", "mine.onnx"} <= set(proposer.models())
    for model in ("", "../book.sqlite", "/etc/passwd", str(weights / "mine.onnx")):
        with pytest.raises(NotFound, match="expected one of"):
            proposer.start(found["id"], model)
    with pytest.raises(NotFound):
        proposer.start(99, "accurate")
    run_id = proposer.start(found["id"], "mine.onnx")
    failed = wait_for(lambda: (run := proposer.run(run_id)).state == "failed" and run)
    assert "mine.onnx" in failed.error


def test_a_runs_best_is_called_as_the_run(site: Site, rally: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from rallytrace.checkpoint import save_checkpoint
    from rallytrace.models import build, get_spec

    (found,) = site.imported(rally)
    spec = get_spec("tracknet_v2", size_wh=(64, 32))
    save_checkpoint(tmp_path / "tennis-2/best", spec, build(spec).state_dict(), {})
    proposer = site.workspace.proposer
    assert proposer.take(tmp_path / "tennis-2/best") == "tennis-2"
    wait_for(lambda: proposer.latest(found["id"]))
    assert "tennis-2" in proposer.models()


def test_a_run_can_be_cancelled(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    make_clip(path, RallyOptions(wh=(512, 288), seconds=8.0, seed=5))
    (found,) = site.imported(path)
    proposer = site.workspace.proposer
    first, second = (proposer.start(found["id"], model) for model in ("accurate", "window3"))
    wait_for(lambda: proposer.run(first).state == "running")
    proposer.cancel(second)
    proposer.cancel(first)
    third = proposer.start(found["id"], "accurate")
    wait_for(lambda: proposer.run(third).state == "running")
    assert [run.state for run in proposer.runs()] == ["cancelled", "cancelled", "running"]


def test_what_a_killed_server_left_is_told(site: Site, rally: Path) -> None:
    (found,) = site.imported(rally)
    book: LabelBook = site.book
    proposer = site.workspace.proposer
    proposer.close()
    ids = [proposer.start(found["id"], model) for model in ("accurate", "window3")]
    proposer._set(ids[0], state="running", progress=0.4)
    again = Proposer(book, site.workspace.library, site.workspace.folder)
    assert (again.run(ids[0]).state, again.run(ids[0]).error) == ("failed", "the server was stopped: start it again")
    wait_for(lambda: again.run(ids[1]).state == "done")  # what had not begun is still wanted
    again.close()


def test_a_video_that_is_not_ready_is_refused(site: Site) -> None:
    video_id = site.book.add_video("a.mp4", "/nowhere/a.mp4").id
    with pytest.raises(WrongState, match="importing"):
        site.workspace.proposer.start(video_id, "accurate")
