"""The workspace in a real browser against a real server: the right frame, the right pixel, and nothing lost."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="pip install playwright")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Playwright
from playwright.sync_api import Error as PlaywrightError

from rallytrace.label import open_book, schema
from tests.label.pages import ARGS, CHROMIUM, NO_CHROMIUM, WHY_NOT, click_on, open_task, saved, shown, unsaved
from tests.label.workshop import BAR_PX, BITS, PASSWORD, WH, Client, Workshop, ball_xy, coded_clip, until

FRAMES = 40
SHIFT = "settb=1/90000,setpts='PTS+0.011*mod(N,3)/TB+0.05*floor(N/7)/TB'"
CLIPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "film.mp4": ("24000/1001", ("-bf", "0")),
    "bframes.mp4": ("30000/1001", ("-bf", "3", "-g", "12")),
    "variable.mp4": ("30000/1001", ("-vf", SHIFT, "-fps_mode", "vfr", "-enc_time_base", "1:90000", "-bf", "2")),
    "offset.mp4": ("25", ("-output_ts_offset", "5.5", "-bf", "3")),
}
pytestmark = pytest.mark.skipif(NO_CHROMIUM, reason=WHY_NOT)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("clips")
    clips = [coded_clip(folder / name, FRAMES, rate, *how) for name, (rate, how) in CLIPS.items()]
    made = Workshop(tmp_path_factory.mktemp("workshop") / "project", clips)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def running(workshop: Workshop) -> None:
    """A test that fails with the server killed must not take the next ones with it."""
    if not workshop.is_running:
        workshop.start()


@pytest.fixture(scope="module")
def admin(workshop: Workshop) -> Client:
    made = workshop.client("/api/setup", token=workshop.setup_token, name="Ada", password=PASSWORD)
    until(lambda: all(v["state"] == "ready" for v in made.get("/api/videos")), "the videos are imported")
    return made


@pytest.fixture
def context(browser: Browser, admin: Client) -> Iterator[BrowserContext]:
    """A browser in which Ada is logged in."""
    opened = browser.new_context(viewport={"width": 1366, "height": 768})
    opened.add_cookies(admin.cookies)  # type: ignore[arg-type]
    yield opened
    opened.close()


@pytest.fixture
def task(admin: Client) -> int:
    """A task of Ada's own: the first clip, no label yet."""
    return make_task(admin, "film.mp4")


def make_task(admin: Client, clip: str, assignee: int | None = None) -> int:
    video = next(v["id"] for v in admin.get("/api/videos") if v["name"] == clip)
    job = admin.post("/api/jobs", name=uuid.uuid4().hex, kind="label", video_ids=[video], sequence_length=0)
    (made,) = admin.get(f"/api/tasks?job={job['id']}")
    admin.post(f"/api/tasks/{made['id']}/assign", user=assignee or admin.user["id"])
    return int(made["id"])


READ_CODE = """([w, h, bits, bar]) => {
  const canvas = document.querySelector("#picture"), ctx = canvas.getContext("2d");
  const ratio = canvas.width / canvas.clientWidth;
  const scale = Math.min(canvas.clientWidth / w, canvas.clientHeight / h) * ratio;
  let code = 0;
  for (let bit = 0; bit < bits; bit++) {
    const x = canvas.width / 2 + (16 + bit * 60 + bar / 2 - w / 2) * scale;
    const y = canvas.height / 2 + (8 + bar / 2 - h / 2) * scale;
    code = code * 2 + (ctx.getImageData(Math.round(x), Math.round(y), 1, 1).data[0] > 120 ? 1 : 0);
  }
  return [code, Number(canvas.dataset.frame)];
}"""


def read_code(page: Page) -> list[int]:
    """The number in the picture, and the number that the page takes it for."""
    found: list[int] = page.evaluate(READ_CODE, [*WH, BITS, BAR_PX])
    return found


@pytest.mark.parametrize("clip", CLIPS)
def test_the_picture_shown_is_the_frame_labelled(
    clip: str, context: BrowserContext, workshop: Workshop, admin: Client
) -> None:
    page = open_task(context, workshop, make_task(admin, clip))
    seen = [read_code(page)]

    def press(key: str, frame: int) -> None:
        page.keyboard.press(key)
        shown(page, frame)
        seen.append(read_code(page))

    for frame in range(1, 15):
        press("d", frame)
    press("PageDown", 24)
    press("End", FRAMES - 1)
    for frame in range(FRAMES - 2, FRAMES - 8, -1):
        press("a", frame)
    press("Home", 0)
    strip = page.locator(".strip").bounding_box()
    assert strip
    page.mouse.click(strip["x"] + strip["width"] * 20.5 / FRAMES, strip["y"] + 5)
    shown(page, 20)
    seen.append(read_code(page))
    assert [code for code, _ in seen] == [frame for _, frame in seen]
    assert {frame for _, frame in seen} >= {0, 7, 24, 39, 33, 20}


CENTROID = """([w, h]) => {
  const canvas = document.querySelector("#picture"), box = canvas.getBoundingClientRect();
  const { width, height } = canvas, data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const floor = Number(canvas.dataset.floor ?? 0);
  let sum = 0, sx = 0, sy = 0;
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const bright = Math.max(0, data[4 * (y * width + x)] - 120);
    if (y < floor) continue;
    sum += bright; sx += bright * (x + 0.5); sy += bright * (y + 0.5);
  }
  return [box.left + sx / sum * box.width / width, box.top + sy / sum * box.height / height];
}"""


@pytest.mark.parametrize("wheel", [0, -400, -900, -1500])
def test_a_click_on_the_ball_is_the_balls_pixel_at_any_zoom(
    wheel: int, context: BrowserContext, workshop: Workshop, admin: Client, task: int
) -> None:
    page = open_task(context, workshop, task)
    page.evaluate("document.querySelector('#picture').dataset.floor = 130")  # below the bars of the code
    for frame in range(3):
        shown(page, frame)
        x, y = page.evaluate(CENTROID, list(WH))
        if wheel and frame == 0:
            page.mouse.move(x, y)
            page.mouse.wheel(0, wheel)
            page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            page.evaluate("document.querySelector('#picture').dataset.floor = 0")
            x, y = page.evaluate(CENTROID, list(WH))
        page.mouse.click(x, y)
        shown(page, frame + 1)
    saved(page)
    labels = admin.labels(task)
    assert set(labels) == {0, 1, 2}
    for frame, label in labels.items():
        assert abs(label["x"] - ball_xy(frame)[0]) <= 0.5
        assert abs(label["y"] - ball_xy(frame)[1]) <= 0.5
        assert (label["visibility"], label["source"]) == (1, "manual")


def test_a_killed_server_loses_nothing(context: BrowserContext, workshop: Workshop, admin: Client, task: int) -> None:
    page = open_task(context, workshop, task)
    for frame in range(12):
        shown(page, frame)
        if frame == 5:
            workshop.kill()
        click_on(page, (50 + frame, 200))
    shown(page, 12)
    assert unsaved(page) > 0
    workshop.start()
    saved(page)
    assert {f: label["x"] for f, label in admin.labels(task).items()} == pytest.approx(
        {frame: 50 + frame for frame in range(12)}, abs=0.5
    )


def test_a_killed_browser_loses_nothing(
    playwright: Playwright, workshop: Workshop, admin: Client, task: int, tmp_path: Path
) -> None:
    def launch() -> BrowserContext:
        return playwright.chromium.launch_persistent_context(tmp_path / "profile", executable_path=CHROMIUM, args=ARGS)

    context = launch()
    context.add_cookies(admin.cookies)  # type: ignore[arg-type]
    page = open_task(context, workshop, task)
    workshop.kill()
    for frame in range(6):
        shown(page, frame)
        page.keyboard.press("n")
    shown(page, 6)
    assert unsaved(page) == 6
    kill_browser(tmp_path / "profile")
    with contextlib.suppress(PlaywrightError):  # it may be known already that the browser is dead
        context.close()
    workshop.start()
    context = launch()
    page = context.new_page()
    page.goto(workshop.url)
    page.wait_for_selector(".saved, input[name=password]")
    if page.locator("input[name=password]").count():  # the cookie was not on disk yet: the labels were
        log_in(page)
    saved(page)
    until(lambda: len(admin.labels(task)) == 6, "the labels of the killed browser are at the server")
    context.close()


def kill_browser(profile: Path) -> None:
    """kill -9 of every process that was started with this profile."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"--user-data-dir={profile}" in words:
            os.kill(int(folder.name), signal.SIGKILL)


def log_in(page: Page, name: str = "Ada") -> None:
    field = page.get_by_label("Name")
    if field.is_editable():
        field.fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")


def test_the_end_of_a_session_keeps_page_and_queue(
    context: BrowserContext, workshop: Workshop, admin: Client, task: int
) -> None:
    page = open_task(context, workshop, task)
    page.keyboard.press("n")
    shown(page, 1)
    saved(page)
    context.clear_cookies()
    page.keyboard.press("n")
    page.get_by_role("dialog").wait_for()
    assert unsaved(page) == 1
    log_in(page)
    saved(page)
    assert page.get_by_role("dialog").count() == 0
    shown(page, 2)
    assert set(admin.labels(task)) == {0, 1}


def test_five_minutes_offline_lose_nothing(
    context: BrowserContext, workshop: Workshop, admin: Client, task: int
) -> None:
    context.clock.install()
    page = open_task(context, workshop, task)
    page.wait_for_load_state("networkidle")
    context.set_offline(True)
    for frame in range(10):
        shown(page, frame)
        if frame % 2:
            click_on(page, (100 + frame, 200))
        else:
            page.keyboard.press("n")
        shown(page, frame + 1)
        page.clock.run_for(30_000)  # with all that the page does meanwhile: it asks and sends in vain
    page.get_by_text("10 labels unsaved").wait_for()
    assert admin.labels(task) == {}
    page.keyboard.press("z")  # takes the last one back
    shown(page, 9)
    context.set_offline(False)
    saved(page)
    labels = admin.labels(task)
    assert {frame: label["x"] for frame, label in labels.items()} == {
        frame: pytest.approx(100 + frame, abs=0.5) if frame % 2 else None for frame in range(9)
    }


def test_a_reload_keeps_what_waits(context: BrowserContext, workshop: Workshop, admin: Client, task: int) -> None:
    page = open_task(context, workshop, task)
    page.route("**/events", lambda route: route.abort())
    for frame in range(3):
        shown(page, frame)
        page.keyboard.press("n")
    shown(page, 3)
    page.unroute_all()
    page.reload()
    shown(page, 3)  # what waits counts as labelled: the page opens at the first frame that is not
    saved(page)
    assert set(admin.labels(task)) == {0, 1, 2}


def test_an_answer_that_newer_labels_overtook_hides_none_of_them(
    context: BrowserContext, workshop: Workshop, admin: Client, task: int
) -> None:
    """The page asks for labels, then sends what waited; the answer, from before that, comes after all is saved."""
    page = open_task(context, workshop, task)
    page.route("**/events", lambda route: route.abort())
    for frame in range(3):
        shown(page, frame)
        page.keyboard.press("n")
    shown(page, 3)
    held: list[Any] = []
    page.route("**/labels?since=0", lambda route: held.append((route, route.fetch())))
    page.reload()
    until(lambda: page.locator(".saved").count() and held, "the page has asked")
    page.unroute("**/events")
    saved(page)
    assert set(admin.labels(task)) == {0, 1, 2}
    (route, answer), *_ = held
    assert answer.json()["labels"] == []
    route.fulfill(response=answer)
    shown(page, 3)


@pytest.fixture
def member(workshop: Workshop, admin: Client) -> Callable[..., Client]:
    """Invites somebody, who joins."""

    def join(role: str, name: str) -> Client:
        invite = admin.post("/api/invites", role=role)
        return workshop.client("/api/invites/accept", token=invite["token"], name=name, password=PASSWORD)

    return join


@pytest.mark.parametrize("who", ["two tabs", "two people"])
def test_a_conflict_is_shown_and_decided_never_overwritten(
    who: str,
    context: BrowserContext,
    browser: Browser,
    workshop: Workshop,
    admin: Client,
    member: Callable[..., Client],
) -> None:
    if who == "two tabs":
        second, other = make_task(admin, "film.mp4"), context
    else:
        bob = member("annotator", f"Bob {uuid.uuid4().hex[:4]}")
        second = make_task(admin, "film.mp4", bob.user["id"])
        other = browser.new_context()
        other.add_cookies(bob.cookies)  # type: ignore[arg-type]
    first_page, page = open_task(context, workshop, second), open_task(other, workshop, second)
    page.route("**/labels?since=*", lambda route: route.abort())  # so that it does not hear of the others' labels
    for frame in range(2):
        click_on(first_page, (100, 100 + frame))
        shown(first_page, frame + 1)
    saved(first_page)
    for frame in range(2):
        click_on(page, (300, 300 + frame))
        shown(page, frame + 1)
    page.get_by_role("button", name="2 conflicts").wait_for()
    assert [admin.labels(second)[f]["x"] for f in (0, 1)] == pytest.approx([100, 100], abs=0.5)
    page.reload()
    page.get_by_role("button", name="2 conflicts").click()
    frames = page.get_by_role("dialog")
    frames.get_by_role("region", name="Frame 0").get_by_role("button", name="Keep mine").click()
    until(lambda: page.locator(".conflict").count() == 1, "one question is left")
    frames.get_by_role("region", name="Frame 1").get_by_role("button", name="Keep theirs").click()
    until(lambda: page.locator(".conflict").count() == 0, "no question is left")
    saved(page)
    labels = admin.labels(second)
    assert [labels[f]["x"] for f in (0, 1)] == pytest.approx([300, 100], abs=0.5)


def test_all_by_keyboard(browser: Browser, workshop: Workshop, admin: Client, task: int) -> None:
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    page = context.new_page()
    page.goto(workshop.url)
    page.get_by_label("Name").wait_for()
    page.keyboard.type("Ada")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("link", name=re.compile("Tasks")).wait_for()
    page.goto(f"{workshop.url}/#/task/{task}")
    shown(page, 0)
    for key in ["k", *["Alt+ArrowRight"] * 3, *["Shift+ArrowUp"] * 3, "2", "h"]:
        page.keyboard.press(key)
    page.get_by_text("nudged").wait_for()
    page.keyboard.press("d")
    shown(page, 1)
    page.keyboard.press("Enter")  # the ghost
    shown(page, 2)
    page.keyboard.press("Shift+N")
    page.keyboard.press("PageDown")
    shown(page, 12)
    page.keyboard.press("Enter")
    shown(page, 13)
    page.keyboard.press("n")
    shown(page, 14)
    page.keyboard.press("z")
    shown(page, 13)
    saved(page)
    labels = admin.labels(task)
    assert (labels[0]["x"], labels[0]["y"]) == (319.5 + 24, 179.5 - 1.5)
    assert (labels[0]["visibility"], labels[0]["event"], labels[0]["source"]) == (2, "hit", "nudged")
    assert (labels[1]["x"], labels[1]["y"], labels[1]["source"]) == (343.5, 178.0, "accepted")
    assert [f for f, label in labels.items() if label["visibility"] == 0] == list(range(2, 13))
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keys").wait_for()
    context.close()


def test_a_drag_is_a_streak(context: BrowserContext, workshop: Workshop, admin: Client, task: int) -> None:
    page = open_task(context, workshop, task)
    box = page.locator("#picture").bounding_box()
    assert box
    scale = min(box["width"] / WH[0], box["height"] / WH[1])
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 30 * scale, y)
    page.mouse.down()
    page.mouse.move(x, y, steps=3)
    page.mouse.move(x + 30 * scale, y, steps=3)
    page.mouse.up()
    shown(page, 1)
    saved(page)
    label = admin.labels(task)[0]
    assert (label["x"], label["y"]) == pytest.approx((319.5, 179.5), abs=0.5)
    assert label["blur_l"] == pytest.approx(30, abs=0.5)
    assert label["blur_theta"] == pytest.approx(0, abs=0.02)


def propose(workshop: Workshop, video: int, scores: dict[int, float]) -> None:
    """What a model would have left in the book: the drawn ball, with these scores."""
    run = {"video_id": video, "model": "drawn", "state": "done", "progress": 1.0, "error": "", "created": 0.0}
    with open_book(workshop.project / "book.sqlite") as book, book.write() as connection:
        made = connection.execute(schema.proposal_run.insert().values(run)).inserted_primary_key
        assert made
        rows = [
            {"run_id": made[0], "frame": f, "x": ball_xy(f)[0], "y": ball_xy(f)[1], "score": s}
            for f, s in scores.items()
        ]
        connection.execute(schema.proposal.insert(), rows)


def test_review_accepts_what_is_right_and_stops_for_what_is_not(
    context: BrowserContext, workshop: Workshop, admin: Client
) -> None:
    task = make_task(admin, "bframes.mp4")
    video = admin.get(f"/api/tasks/{task}")["video"]["id"]
    propose(workshop, video, {f: 0.2 if f == 12 else 0.95 for f in range(FRAMES)})
    page = open_task(context, workshop, task)
    page.keyboard.press("r")
    page.get_by_text("Enter accepts, click corrects").wait_for()  # the doubtful one stops it
    shown(page, 12)
    click_on(page, (200, 300))
    page.get_by_text("Reviewed to the end").wait_for()
    saved(page)
    labels = admin.labels(task)
    assert set(labels) == set(range(FRAMES))
    assert {labels[f]["source"] for f in range(FRAMES) if f != 12} == {"accepted"}
    assert (labels[12]["source"], round(labels[12]["x"])) == ("manual", 200)
    assert labels[30]["x"] == pytest.approx(ball_xy(30)[0])


def test_proposals_are_accepted_all_at_once_above_a_score(
    context: BrowserContext, workshop: Workshop, admin: Client
) -> None:
    task = make_task(admin, "offset.mp4")
    video = admin.get(f"/api/tasks/{task}")["video"]["id"]
    propose(workshop, video, {f: f / FRAMES for f in range(FRAMES)})
    page = open_task(context, workshop, task)
    page.get_by_role("button", name="Accept 8 at once").click()  # 0.8 and more
    saved(page)
    until(lambda: len(admin.labels(task)) == 8, "eight are accepted")
    assert {label["source"] for label in admin.labels(task).values()} == {"model:drawn"}
    page.keyboard.press("End")
    page.keyboard.press("g")  # the queue begins with the first frame without a label
    shown(page, 0)


def test_a_range_of_proposals_is_accepted_and_what_was_set_is_remembered(
    context: BrowserContext, workshop: Workshop, admin: Client
) -> None:
    task = make_task(admin, "offset.mp4")
    video = admin.get(f"/api/tasks/{task}")["video"]["id"]
    propose(workshop, video, dict.fromkeys(range(FRAMES), 0.9))
    page = open_task(context, workshop, task)
    page.keyboard.press("d")
    shown(page, 1)
    page.keyboard.press("Shift+P")
    page.keyboard.press("PageDown")
    shown(page, 11)
    page.keyboard.press("Enter")
    saved(page)
    until(lambda: set(admin.labels(task)) == set(range(1, 12)), "the range is accepted, and nothing else")
    page.keyboard.press("x")
    page.get_by_label("Clicks snap to them").check()
    page.get_by_role("combobox", name="Uncertain").select_option("residual")
    page.reload()
    page.wait_for_selector("#picture[data-frame]")
    assert page.get_by_label("Clicks snap to them").is_checked()
    assert page.get_by_role("combobox", name="Uncertain").input_value() == "residual"
    assert page.get_by_role("button", name="Difference").get_attribute("aria-pressed") == "true"


def test_reviewers_let_the_network_go_first_and_annotators_do_not(
    browser: Browser, workshop: Workshop, admin: Client, member: Callable[..., Client]
) -> None:
    context = browser.new_context(viewport={"width": 820, "height": 1180})
    context.add_cookies(member("reviewer", "Rea").cookies)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(workshop.url)
    page.get_by_role("navigation").get_by_role("link", name="Videos").click()
    tile = page.get_by_role("article").filter(has_text="variable.mp4")
    tile.get_by_label("Model").select_option("fast")
    tile.get_by_role("button", name="Pre-label").click()
    tile.get_by_role("button", name="Propose again").wait_for(timeout=120_000)
    assert page.get_by_label("Video files").count() == 0  # adding videos is for admins
    context.clear_cookies()
    context.add_cookies(member("annotator", "Ann").cookies)  # type: ignore[arg-type]
    page.goto(f"{workshop.url}/#/videos")
    page.reload()
    page.get_by_role("heading", name="Good to see you, Ann").wait_for()
    assert page.get_by_role("link", name="Videos").count() == 0
    context.close()


def test_clicks_snap_to_the_proposal_near_them(context: BrowserContext, workshop: Workshop, admin: Client) -> None:
    task = make_task(admin, "offset.mp4")
    propose(workshop, admin.get(f"/api/tasks/{task}")["video"]["id"], dict.fromkeys(range(FRAMES), 0.9))
    page = open_task(context, workshop, task)
    balls = [ball_xy(frame) for frame in range(6)]
    clicks: list[tuple[float, list[Any]]] = [(3, []), (3, ["Control"]), (40, ["Control"])]
    for frame, (off, keys) in enumerate([*clicks, *clicks]):
        if frame == 3:
            page.keyboard.press("s")
        for key in keys:
            page.keyboard.down(key)
        click_on(page, (balls[frame][0] + off, balls[frame][1]))
        for key in keys:
            page.keyboard.up(key)
        shown(page, frame + 1)
    saved(page)
    labels = admin.labels(task)
    assert [labels[f]["source"] for f in range(6)] == ["manual", "accepted", "manual", "accepted", "manual", "manual"]
    assert (labels[1]["x"], labels[1]["y"], labels[1]["score"]) == pytest.approx((*balls[1], 0.9))
    assert labels[2]["x"] == pytest.approx(balls[2][0] + 40, abs=0.5)
    assert labels[4]["x"] == pytest.approx(balls[4][0] + 3, abs=0.5)


def test_fingers(browser: Browser, workshop: Workshop, admin: Client, task: int) -> None:
    context = browser.new_context(viewport={"width": 1024, "height": 768}, has_touch=True)
    context.add_cookies(admin.cookies)  # type: ignore[arg-type]
    page = open_task(context, workshop, task)
    box = page.locator("#picture").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.touchscreen.tap(x, y)
    shown(page, 1)
    fingers = context.new_cdp_session(page)

    def touch(kind: str, *spread: float) -> None:
        points = [{"x": x + side * s, "y": y, "id": i} for s in spread for i, side in enumerate((-1, 1))]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    before = read_code(page)
    touch("touchStart", 40)
    for spread in (60, 80, 120):
        touch("touchMove", spread)
    touch("touchEnd")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert read_code(page)[1] == before[1] == 1  # a pinch places nothing
    assert read_code(page)[0] != before[0]  # but the bars are no longer where they were
    saved(page)
    assert admin.labels(task)[0]["x"] == pytest.approx(319.5, abs=0.5)
    assert set(admin.labels(task)) == {0}
    context.close()


VIEWS = {  # and what is there once the view is complete
    "": ".tile",
    "videos": ".thumb",
    "jobs": "a.tile",
    "jobs/{job}": "td",
    "team": "td",
    "settings": "h1",
    "task/{task}": "#picture[data-frame]",
}


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_every_view_is_accessible(theme: Any, browser: Browser, workshop: Workshop, admin: Client, task: int) -> None:
    context = browser.new_context(viewport={"width": 1366, "height": 768}, color_scheme=theme)
    page = context.new_page()
    page.goto(workshop.url)
    page.get_by_label("Name").wait_for()
    accessible(page, "login")
    context.add_cookies(admin.cookies)  # type: ignore[arg-type]
    page.reload()
    job = admin.get(f"/api/tasks/{task}")["job"]
    for view, complete in VIEWS.items():
        page.goto(f"{workshop.url}/#/{view.format(job=job, task=task)}")
        page.wait_for_selector(complete)
        accessible(page, view)
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()
    accessible(page, "keys")
    context.close()


def accessible(page: Page, view: str) -> None:
    rules = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
    found = Axe().run(page, options=rules)
    assert found.violations_count == 0, f"{view}: {found.generate_report()}"


def test_no_request_leaves_the_server(context: BrowserContext, workshop: Workshop, task: int) -> None:
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{workshop.url}/#/task/{task}")
    shown(page, 0)
    assert asked
    assert {url.split("/")[2] for url in asked if not url.startswith(("blob:", "data:"))} == {
        f"127.0.0.1:{workshop.port}"
    }
