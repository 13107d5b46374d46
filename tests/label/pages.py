"""What tests see and do on the pages of the workspace, in a real browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.label.workshop import WH, Workshop

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

CHROMIUM = os.environ.get("RALLYTRACE_CHROMIUM", "/usr/bin/chromium")
ARGS = ["--no-sandbox"]
NO_CHROMIUM = not Path(CHROMIUM).exists()
WHY_NOT = f"no {CHROMIUM} (apt-get install chromium)"


def open_task(context: BrowserContext, workshop: Workshop, task: int) -> Page:
    page = context.new_page()
    page.goto(f"{workshop.url}/#/task/{task}")
    shown(page, 0)
    return page


def shown(page: Page, frame: int) -> None:
    """Waits until that frame is on the canvas."""
    page.wait_for_selector(f'#picture[data-frame="{frame}"]')


def saved(page: Page) -> None:
    page.wait_for_selector('.saved[data-unsaved="0"]')


def unsaved(page: Page) -> int:
    return int(page.locator(".saved").get_attribute("data-unsaved") or -1)


def screen_xy(page: Page, xy: tuple[float, float], wh: tuple[int, int] = WH) -> tuple[float, float]:
    """Where a source pixel is on the screen, in the whole picture."""
    box = page.locator("#picture").bounding_box()
    assert box
    scale = min(box["width"] / wh[0], box["height"] / wh[1])
    x = box["x"] + box["width"] / 2 + (xy[0] + 0.5 - wh[0] / 2) * scale
    y = box["y"] + box["height"] / 2 + (xy[1] + 0.5 - wh[1] / 2) * scale
    return x, y


def click_on(page: Page, xy: tuple[float, float], wh: tuple[int, int] = WH) -> None:
    """At a source pixel, in the whole picture."""
    page.mouse.click(*screen_xy(page, xy, wh))
