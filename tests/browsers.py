"""A real browser for tests, and a page of it that is watched.

It is Debian's chromium, which `.ci/run` installs: apt-get install --no-install-recommends chromium
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright

TIMEOUT_MS = 120_000  # of each wait: two cores may have much else to do


@contextmanager
def chromium(profile: Path) -> Iterator[BrowserContext]:
    """The browser, until the block ends."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("chromium is not there: apt-get install --no-install-recommends chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=executable,
            args=["--no-sandbox", "--disable-dev-shm-usage"],
            viewport={"width": 1280, "height": 900},
            timeout=TIMEOUT_MS,
        )
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, what it said on the console and what it asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def watching(browser: BrowserContext) -> Iterator[Watched]:
    """A new page of the browser, until the block ends."""
    one = Watched(browser.new_page())
    one.page.on("console", lambda message: one.said.append(message.text))
    one.page.on("pageerror", lambda error: one.said.append(str(error)))
    one.page.on("dialog", lambda dialog: one.said.append(dialog.message))
    one.page.on("request", lambda request: one.asked.append(request.url))
    one.page.set_default_timeout(TIMEOUT_MS)
    yield one
    one.page.close()
