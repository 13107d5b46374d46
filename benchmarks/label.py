"""How fast is the labelling workspace, in headless Chromium against its own server on the same machine?

    python benchmarks/label.py [--wh 1920x1080] [--steps 600]

Prints the time from key press to painted frame, how many labels a minute a scripted annotator makes who knows where the
ball is but needs 0.6 s to aim, how many frames a minute he reviews with 15 % of the proposals wrong, how long a
10,000-frame video takes to open, and how fast videos are imported. Needs playwright and chromium (RALLYTRACE_CHROMIUM).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from playwright.sync_api import BrowserContext, Page, Playwright, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.clips import ffmpeg
from tests.label.workshop import PASSWORD, Client, Workshop, until

from rallytrace import RallyOptions, make_clip
from rallytrace.label import open_book, schema

AIM_S = 0.6  # to find the ball and to put the pointer on it
NOTICE_S = 0.3  # to see that something is wrong, or that it is not
LABELS = 60
IMPORT_S = 20
WRONG = 0.15
XY = tuple[float, float]

# Presses D every `every` ms. A time: from the press until after the rendering of the frame that it asked for.
STEPS = """([steps, every]) => new Promise(done => {
  const picture = document.querySelector("#picture"), times = [], channel = new MessageChannel();
  let pressed = 0, waiting = false;
  channel.port1.onmessage = () => { times.push(performance.now() - pressed); waiting = false; };
  new MutationObserver(() => channel.port2.postMessage(0)).observe(picture, { attributeFilter: ["data-frame"] });
  let n = 0, late = 0;
  const timer = setInterval(() => {
    if (waiting) { late++; return; }
    if (n++ === steps) { clearInterval(timer); done([times, late]); return; }
    pressed = performance.now(); waiting = true;
    for (const type of ["keydown", "keyup"]) window.dispatchEvent(new KeyboardEvent(type, { key: "d", code: "KeyD" }));
  }, every);
})"""


def frame_of(page: Page) -> int:
    return int(page.locator("#picture").get_attribute("data-frame") or -1)


def click_on(page: Page, xy: XY, wh: XY) -> None:
    box = page.locator("#picture").bounding_box()
    assert box
    scale = min(box["width"] / wh[0], box["height"] / wh[1])
    x, y = (
        box[side] / 2 + (at + 0.5 - size / 2) * scale
        for side, at, size in zip(("width", "height"), xy, wh, strict=True)
    )
    page.mouse.click(box["x"] + x, box["y"] + y)


def open_task(context: BrowserContext, workshop: Workshop, task: int) -> tuple[Page, float]:
    """The page with its first frame painted, and the seconds that took."""
    page = context.new_page()
    page.goto(workshop.url)
    page.get_by_role("button", name="Next task").wait_for()
    began = time.perf_counter()
    page.evaluate(f"location.hash = '#/task/{task}'")
    page.wait_for_selector("#picture[data-frame]")
    return page, time.perf_counter() - began


def make_task(admin: Client, video: int) -> int:
    job = admin.post("/api/jobs", name=f"video {video}", kind="label", video_ids=[video], sequence_length=0)
    (task,) = admin.get(f"/api/tasks?job={job['id']}")
    admin.post(f"/api/tasks/{task['id']}/assign", user=admin.user["id"])
    return int(task["id"])


def next_frame(page: Page, steps: int) -> None:
    times, late = page.evaluate(STEPS, [steps, 100])
    p50, p95 = np.percentile(times, [50, 95])
    figures = f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, max {max(times):.0f} ms, {late} beats missed"
    print(f"next frame, {steps} steps at 10 a second: {figures}")


def manual(page: Page, truth: Mapping[int, XY], wh: XY) -> None:
    """Clicks and advances; N where there is no ball."""
    page.keyboard.press("Home")
    page.wait_for_selector('#picture[data-frame="0"]')
    began = time.perf_counter()
    for frame in range(LABELS):
        page.wait_for_selector(f'#picture[data-frame="{frame}"]')
        time.sleep(AIM_S)
        if frame in truth:
            click_on(page, truth[frame], wh)
        else:
            page.keyboard.press("n")
    page.wait_for_selector('.saved[data-unsaved="0"]')
    print(f"labels by click and advance, {AIM_S} s to aim: {60 * LABELS / (time.perf_counter() - began):.0f} a minute")


def propose(workshop: Workshop, video: int, truth: Mapping[int, XY], n_frames: int) -> set[int]:
    """Proposals that are all equally sure; the frames of those that are wrong, by 30 to 200 px."""
    random = np.random.default_rng(5)
    wrong = {frame for frame in truth if random.random() < WRONG}
    rows = []
    for frame in range(n_frames):
        x, y = truth.get(frame, (None, None))
        if frame in wrong and x is not None and y is not None:
            angle, far = random.uniform(0, 2 * np.pi), random.uniform(30, 200)
            x, y = x + far * np.cos(angle), y + far * np.sin(angle)
        rows.append({"frame": frame, "x": x, "y": y, "score": 0.9})
    run = {"video_id": video, "model": "scripted", "state": "done", "progress": 1.0, "error": "", "created": 0.0}
    with open_book(workshop.project / "book.sqlite") as book, book.write() as connection:
        made = connection.execute(schema.proposal_run.insert().values(run)).inserted_primary_key
        assert made
        connection.execute(schema.proposal.insert(), [{"run_id": made[0], **row} for row in rows])
    return wrong


def review(page: Page, truth: Mapping[int, XY], wrong: set[int], wh: XY, n_frames: int) -> None:
    """Watches; corrects where it stops or where he sees a wrong one pass, accepts where it stopped without need."""
    stopped, over = page.get_by_text("Enter accepts, click corrects"), page.get_by_text("Reviewed to the end")
    began = time.perf_counter()
    open_errors, by_hand, needless = set(wrong), 0, 0
    page.keyboard.press("r")
    while not over.count():
        frame = frame_of(page)
        if stopped.count():
            time.sleep(NOTICE_S)
            frame = frame_of(page)
            if frame in open_errors:
                time.sleep(AIM_S)
                click_on(page, truth[frame], wh)
                open_errors.discard(frame)
            elif near := [e for e in open_errors if abs(e - frame) <= 6 and e < frame + 4]:
                page.keyboard.press("d" if min(near) > frame else "a")
                time.sleep(0.1)
            else:
                page.keyboard.press("Enter")
                needless += 1
            time.sleep(0.15)  # the play goes on, or it has stepped
        elif any(frame - 3 <= e <= frame for e in open_errors):
            time.sleep(NOTICE_S)
            if not stopped.count():
                page.keyboard.press("r")
                by_hand += 1
        time.sleep(0.01)
    spent = time.perf_counter() - began
    page.wait_for_selector('.saved[data-unsaved="0"]')
    print(
        f"review with {len(wrong)} of {n_frames} proposals wrong: {60 * n_frames / spent:.0f} frames a minute; "
        f"{by_hand} stops by hand, {needless} needless ones, {len(open_errors)} errors missed"
    )


def make_videos(folder: Path, wh: tuple[int, int], steps: int) -> dict[int, XY | None]:
    """rally.mp4, as long as `steps` at 30 a second, and long.mp4 with 10,000 small frames; the ball of the rally."""
    rally = make_clip(folder / "rally.mp4", RallyOptions(wh=wh, seconds=(steps + 5) / 30, seed=6))
    source = ("-f", "lavfi", "-i", "testsrc2=size=320x180:rate=50:duration=200")
    ffmpeg(*source, "-preset", "ultrafast", folder / "long.mp4")
    return {label.frame: label.xy for label in rally}


def take_in(admin: Client, folder: Path) -> None:
    """How fast broadcast video is read through, once it is on the server."""
    make_clip(folder / "broadcast.mp4", RallyOptions(wh=(1280, 720), seconds=IMPORT_S, seed=7))
    video = admin.upload(folder / "broadcast.mp4")["id"]
    began = time.perf_counter()
    until(lambda: admin.get(f"/api/videos/{video}")["state"] == "ready", "the video is imported", 600)
    print(f"import of {IMPORT_S} s at 720p: {IMPORT_S / (time.perf_counter() - began):.1f} times real time")


def measure(playwright: Playwright, workshop: Workshop, balls: Mapping[int, XY | None], wh: XY, steps: int) -> None:
    began = time.perf_counter()
    admin = workshop.client("/api/setup", token=workshop.setup_token, name="Ada", password=PASSWORD)
    until(lambda: all(v["state"] == "ready" for v in admin.get("/api/videos")), "the videos are imported", 600)
    print(f"import of {len(balls)} large and 10,000 small frames: {time.perf_counter() - began:.1f} s")
    take_in(admin, workshop.project.parent)
    ids = {v["name"]: v["id"] for v in admin.get("/api/videos")}
    truth = {frame: xy for frame, xy in balls.items() if xy is not None}
    chromium = os.environ.get("RALLYTRACE_CHROMIUM", "/usr/bin/chromium")
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    context.add_cookies(admin.cookies)  # type: ignore[arg-type]
    page, opened = open_task(context, workshop, make_task(admin, ids["long.mp4"]))
    print(f"a 10,000-frame video, from the list to its first frame: {opened:.2f} s")
    page.close()
    page, _ = open_task(context, workshop, make_task(admin, ids["rally.mp4"]))
    next_frame(page, steps)
    manual(page, truth, wh)
    page.close()
    wrong = propose(workshop, ids["rally.mp4"], truth, len(balls))
    page, _ = open_task(context, workshop, make_task(admin, ids["rally.mp4"]))
    review(page, truth, wrong, wh, len(balls))
    browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wh", default="1920x1080")
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    width, height = map(int, options.wh.split("x"))
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        balls = make_videos(folder, (width, height), options.steps)
        workshop = Workshop(folder / "project", [folder / "rally.mp4", folder / "long.mp4"])
        try:
            measure(playwright, workshop, balls, (width, height), options.steps)
        finally:
            workshop.stop()


if __name__ == "__main__":
    main()
