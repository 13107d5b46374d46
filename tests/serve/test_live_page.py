"""The page at / in a real browser: a video, the webcam, keys; and that it asks nobody but its own server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from rallytrace import RallyOptions, Trajectory, load_network, make_clip, track_video, video

from .endpoints import ServerProcess, brightest_onnx
from .test_track_endpoint import run

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs chromium")
WAIT_MS = 90_000


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brightest_onnx(tmp_path_factory.mktemp("weights") / "brightest.onnx")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "my rally.mp4"
    make_clip(path, RallyOptions(seconds=2, seed=3, wh=(512, 288), repeats=True))
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server"), "--weights", str(weights)) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *fake])
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, server: ServerProcess) -> Iterator[Page]:
    """Open, with the promise that nothing is asked of others and nothing fails."""
    context = browser.new_context(viewport={"width": 1000, "height": 900}, accept_downloads=True)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda r: None if r.url.startswith((server.url, "blob:", "data:")) else wrong.append(r.url))
    opened.goto(server.url)
    expect(opened.locator("#model")).to_have_value("brightest")
    yield opened
    context.close()
    assert wrong == []


def saved(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download(timeout=WAIT_MS) as download:
        page.get_by_role("button", name=button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_a_video(page: Page, clip: Path, weights: Path, tmp_path: Path) -> None:
    page.locator("#file").set_input_files(clip)
    expect(page.locator("#status")).to_contain_text("ball found in", timeout=WAIT_MS)
    here = track_video(clip, tmp_path / "here", network=load_network(weights, threads=1), draw_video=False)
    path = saved(page, "Download CSV", tmp_path)
    assert path.name == "my rally.csv"
    theirs, ours = Trajectory.from_csv(path), Trajectory.from_csv(here.csv)
    assert np.array_equal(theirs.frame, ours.frame)
    assert np.array_equal(theirs.source, ours.source)
    np.testing.assert_allclose(theirs.xy, ours.xy, atol=0.011)
    np.testing.assert_allclose(theirs.pts_s, ours.pts_s, atol=0.0011)

    # The mark is where the CSV says, at the very frame that is shown.
    point = next(p for p in ours if p.xy and p.frame > 20 and 30 < p.xy[0] < 480 and 30 < p.xy[1] < 250)
    page.evaluate(
        "t => { const v = document.getElementById('video'); v.pause(); v.currentTime = t; }", point.pts_s + 0.01
    )
    marked = """() => {
        const c = document.getElementById('overlay');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let x = 0, y = 0, n = 0;
        for (let i = 0; i < d.length; i += 4) {
            const red = d[i] > 230 && d[i + 1] < 90, blue = d[i + 2] > 230;
            if (d[i + 3] > 128 && (red || blue)) { n++; x += (i / 4) % c.width; y += Math.floor(i / 4 / c.width); }
        }
        return n ? [x / n, y / n] : [-1, -1];
    }"""
    x, y = point.xy or (0, 0)
    page.wait_for_function(
        f"xy => {{ const m = ({marked})(); return Math.hypot(m[0] - xy[0], m[1] - xy[1]) < 1.5; }}", arg=[x, y]
    )
    inked = "id => document.getElementById(id).getContext('2d').getImageData(0, 0, 900, 90).data.some(v => v)"
    assert all(page.evaluate(inked, f"plot-{name}") for name in ("x", "y", "speed"))
    page.locator("#plot-x").click(position={"x": 5, "y": 20})
    page.wait_for_function("() => document.getElementById('video').currentTime < 0.2")
    page.screenshot(path=tmp_path / "video.png")


def test_the_recorded_video(page: Page, clip: Path, tmp_path: Path) -> None:
    page.locator("#file").set_input_files(clip)
    expect(page.locator("#status")).to_contain_text("ball found in", timeout=WAIT_MS)
    path = saved(page, "Download video", tmp_path)
    assert path.name == "my rally.tracked.webm"
    with video.read(path) as reader:
        assert reader.info.wh == (512, 288)
        assert sum(1 for _ in reader) > 5


def test_the_webcam(page: Page, tmp_path: Path) -> None:
    page.get_by_role("button", name="Use the webcam").click()
    page.wait_for_function("() => parseInt(document.getElementById('status').textContent) > 30", timeout=WAIT_MS)
    page.screenshot(path=tmp_path / "webcam.png")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_contain_text("stopped", timeout=WAIT_MS)
    points = Trajectory.from_csv(saved(page, "Download CSV", tmp_path))
    assert np.array_equal(points.frame, np.arange(len(points)))
    assert len(points) > 30
    assert (np.diff(points.pts_s) > 0).all()


def test_what_is_no_video_is_said(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("not a video at all")
    page.locator("#file").set_input_files(tmp_path / "notes.mp4")
    expect(page.locator("#status.wrong")).not_to_be_empty(timeout=WAIT_MS)
    expect(page.locator("#drop")).to_be_visible()


def test_keys(browser: Browser, weights: Path, clip: Path, tmp_path: Path) -> None:
    made = run("keys", "add", "--keys", tmp_path / "keys.json")
    with ServerProcess(tmp_path, "--weights", str(weights), "--keys", str(tmp_path / "keys.json")) as server:
        page = browser.new_page()
        page.goto(server.url)
        expect(page.locator("#status.wrong")).to_contain_text("key")
        page.get_by_label("API key").fill("wrong")
        page.get_by_label("API key").press("Tab")
        expect(page.locator("#status.wrong")).to_contain_text("key")
        page.get_by_label("API key").fill(made.stdout.split()[0])
        page.get_by_label("API key").press("Tab")
        expect(page.locator("#model")).to_have_value("brightest")
        page.locator("#file").set_input_files(clip)
        expect(page.locator("#status")).to_contain_text("ball found in", timeout=WAIT_MS)
        page.get_by_role("button", name="Use the webcam").click()
        page.wait_for_function("() => parseInt(document.getElementById('status').textContent) > 5", timeout=WAIT_MS)
        page.close()
