"""The whole job on a real rally, through the pages alone: set up, invite, label, review, export; then train."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rallytrace.labels import read_labels
from rallytrace.types import BallLabel
from tests.label.pages import NO_CHROMIUM, WHY_NOT, click_on, saved, shown
from tests.label.workshop import PASSWORD, Workshop

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DATA = Path(os.environ.get("RALLYTRACE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "badminton"
CLIPS = {"b00013": "train", "a00039": "val"}  # two venues, 81 and 91 frames
WH = (1280, 720)
LABELLED = 60  # frames of each
pytestmark = [
    pytest.mark.skipif(NO_CHROMIUM, reason=WHY_NOT),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no folder {DATA}: RALLYTRACE_DATA names the one that holds it"),
]


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path / "project")
    yield made
    made.stop()


@pytest.fixture
def sit_down(browser: Browser) -> Iterator[Callable[[], Page]]:
    """A page in a browser of its own."""
    contexts = []

    def begin() -> Page:
        contexts.append(browser.new_context(viewport={"width": 1366, "height": 768}))
        return contexts[-1].new_page()

    yield begin
    for context in contexts:
        context.close()


def enter(page: Page, address: str, name: str) -> None:
    """Name and password on the first page that a newcomer sees."""
    page.goto(address)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=f"Good to see you, {name}").wait_for()


def go(page: Page, place: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=place).click()


def add_videos(admin: Page) -> None:
    go(admin, "Videos")
    admin.get_by_label("Video files").set_input_files([DATA / f"{name}.mp4" for name in CLIPS])
    for name in CLIPS:
        tile = admin.get_by_role("article").filter(has_text=name)
        tile.get_by_label("Model").select_option("fast", timeout=60_000)
        tile.get_by_role("button", name="Pre-label").click()
    for name in CLIPS:
        tile = admin.get_by_role("article").filter(has_text=name)
        tile.get_by_role("button", name="Propose again").wait_for(timeout=120_000)


def make_job(admin: Page) -> None:
    go(admin, "Jobs")
    admin.get_by_role("button", name="New job").click()
    admin.get_by_label("Name").fill("Rallies")
    admin.get_by_label("Frames per task").fill("0")
    admin.get_by_role("button", name="Make the job").click()
    admin.get_by_role("link", name="Rallies").wait_for()


def invited(admin: Page, role: str) -> str:
    """The link that the page shows."""
    go(admin, "Jobs")  # and back: then no older link stands there
    go(admin, "Team")
    admin.get_by_label("Role of the new member").select_option(role)
    admin.get_by_role("button", name="Make a link").click()
    return admin.get_by_label("Invitation link").input_value()


def label(page: Page) -> str:
    """One task, by a person who knows the truth and looks at what the network proposes; the clip's name."""
    page.get_by_role("button", name="Next task").click()
    shown(page, 0)
    name = next(name for name in CLIPS if page.get_by_text(f"{name}.mp4").count())
    truth = read_labels(DATA / f"{name}_ball.csv")
    made = page.request.get(page.url.replace("#/task", "api/tasks") + "/proposals").json()
    proposed = {each["frame"]: each for each in made["proposals"]}
    for frame in range(LABELLED):
        shown(page, frame)
        if is_right(proposed[frame], truth[frame]):
            page.keyboard.press("Enter")
        elif (xy := truth[frame].xy) is None:
            page.keyboard.press("n")
        else:
            click_on(page, xy, WH)
    shown(page, LABELLED)
    saved(page)
    page.get_by_role("button", name="Submit the task").click()
    page.get_by_role("button", name="Submit anyway").click()
    page.get_by_role("heading", name="Handed in").wait_for()
    return name


def is_right(proposal: dict[str, Any], truth: BallLabel) -> bool:
    if truth.xy is None or proposal["x"] is None:
        return truth.xy is None and proposal["x"] is None
    return math.dist(truth.xy, (proposal["x"], proposal["y"])) <= 3


def approve(page: Page) -> None:
    page.get_by_role("heading", name="To review").wait_for()
    page.get_by_role("link").filter(has_text="submitted").first.click()
    shown(page, LABELLED)  # what has no label yet is shown first
    page.get_by_role("button", name="Approve").click()
    page.get_by_role("heading", name="Good to see you").wait_for()


def export(admin: Page, folder: Path) -> None:
    """The job's labels, unpacked; frames that nobody labelled must be left out in so many words."""
    go(admin, "Jobs")
    admin.get_by_role("link", name="Rallies").click()
    admin.get_by_text("2 approved").wait_for()
    admin.get_by_role("button", name="Export").click()
    admin.get_by_text("frames are unlabelled").wait_for()
    with admin.expect_download() as download:
        admin.get_by_role("button", name="Leave unlabelled frames out").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(folder)


def run(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "rallytrace", *map(str, arguments)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(600)
def test_from_the_first_start_to_a_trained_network(
    workshop: Workshop, sit_down: Callable[[], Page], tmp_path: Path
) -> None:
    admin = sit_down()
    enter(admin, f"{workshop.url}/#/setup/{workshop.setup_token}", "Ada")
    add_videos(admin)
    make_job(admin)
    people = {name: sit_down() for name in ("Bob", "Cy", "Rea")}
    for name, page in people.items():
        enter(page, invited(admin, "reviewer" if name == "Rea" else "annotator"), name)
    assert {label(people["Bob"]), label(people["Cy"])} == set(CLIPS)
    for _ in CLIPS:
        approve(people["Rea"])
    data = tmp_path / "badminton"
    export(admin, data)

    sources = ""
    for name in CLIPS:
        truth, found = read_labels(DATA / f"{name}_ball.csv"), read_labels(data / f"{name}_ball.csv")
        assert set(found) == set(range(LABELLED))
        for frame, ball in found.items():
            assert (ball.xy is None) == ((xy := truth[frame].xy) is None)
            assert ball.xy is None or xy is None or math.dist(ball.xy, xy) <= 3
        sources += (data / f"{name}_ball.csv").read_text()
        shutil.copy(DATA / f"{name}.mp4", data)
    assert sources.count(",accepted") > 20
    assert sources.count(",manual") > 5

    (data / "index.csv").write_text("\n".join(["clip,match,split", *(f"{n},{n},{s}" for n, s in CLIPS.items()), ""]))
    options = (
        "--steps",
        "4",
        "--batch",
        "2",
        "--val-every",
        "4",
        "--save-every",
        "4",
        "--log-every",
        "1",
        "--workers",
        "0",
    )
    run("train", "--data", data, "--out", tmp_path / "run", *options)
    report = json.loads(run("eval", "--weights", tmp_path / "run" / "best", "--data", data, "--json"))
    assert report["settings"]["clips"] == ["a00039"]
    assert sum(report["total"]["tolerances"]["4@288"][k] for k in ("tp", "fp1", "fp2", "tn", "fn")) == LABELLED
