"""Fixtures of the tests in a real browser: Chromium driven by Playwright, a report, a live server."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from conftest import ROOT, FinishedRun, seed
from dashboard_runs import HOSTILE, write_live, write_run, write_several

from evaluators.judge.judge import Judge
from evolve.dashboard.hub import Hub
from evolve.dashboard.report import report
from evolve.dashboard.server import DashboardServer
from evolve.dashboard.views.reader import RunReader

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
NEEDS_PLAYWRIGHT = "needs Playwright: pip install -e '.[browser]'"
NEEDS_CHROMIUM = "needs Chromium: apt install chromium, or without root: playwright install chromium"


def missing(what: str) -> NoReturn:
    """Say what is missing; where a browser was asked for, that is a failure."""
    if os.environ.get("EVOSPLIT_BROWSER") == "required":
        pytest.fail(what)
    pytest.skip(what)


SCREENSHOTS = ROOT / "build" / "screenshots"
VIEWS = ("overview", "lineage", "table", "candidate", "shapes", "grid", "compare", "runs")
TABS = ("source", "diff", "shapes", "prompt", "answer", "feedback")
# Chromium refuses its own sandbox to root; the rest keeps it from calling home.
ARGUMENTS = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium, or the one that Playwright has downloaded."""
    if find_spec("playwright") is None:
        missing(NEEDS_PLAYWRIGHT)
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as play:
        arguments = ARGUMENTS + (["--no-sandbox"] if os.geteuid() == 0 else [])
        try:
            opened = play.chromium.launch(executable_path=CHROMIUM, args=arguments)
        except Error as error:
            if CHROMIUM is None:
                missing(NEEDS_CHROMIUM)
            pytest.fail(f"{CHROMIUM} does not start: {error}")
        yield opened
        opened.close()


@dataclass
class Watched:
    """A page that keeps what went wrong in it and what it asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.wait_for_selector("html[data-ready]", state="attached", timeout=WAIT_MS)

    def go(self, url: str) -> None:
        """Another place of the same page."""
        before = self.ready
        self.page.goto(url)
        self.drawn_after(before)

    @property
    def ready(self) -> str:
        return self.page.locator("html").get_attribute("data-ready") or ""

    def drawn_after(self, before: str) -> None:
        self.page.wait_for_selector(f'html:not([data-ready="{before}"])', state="attached", timeout=WAIT_MS)

    def press(self, key: str) -> None:
        before = self.ready
        self.page.keyboard.press(key)
        self.drawn_after(before)

    @property
    def place(self) -> str:
        return self.page.url.partition("#")[2]

    def says(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()


@contextmanager
def serving(hub: Hub, port: int = 0) -> Iterator[DashboardServer]:
    """A live server for as long as it is needed."""
    server = DashboardServer(hub, "127.0.0.1", port)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def watch(browser: Browser, *, scheme: str = "light", width: int = 1440, height: int = 900) -> Watched:
    """A page of its own; those of earlier tests are closed, where live ones would go on asking and drawing."""
    for earlier in browser.contexts:
        earlier.close()
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    watched = Watched(context.new_page())
    watched.page.on("console", lambda m: watched.complaints.append(m.text) if m.type in ("error", "warning") else None)
    watched.page.on("pageerror", lambda e: watched.complaints.append(str(e)))
    watched.page.on("request", lambda r: watched.requests.append(r.url))
    return watched


@pytest.fixture(scope="session")
def folders(judge: Judge, tmp_path_factory: pytest.TempPathFactory, finished_run: FinishedRun) -> list[Path]:
    folder = tmp_path_factory.mktemp("hostile") / "small <b>&\"'"
    return [write_run(folder, judge, hostile=HOSTILE), finished_run.folder]


@pytest.fixture(scope="session")
def report_url(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report([RunReader(f) for f in folders]), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="session")
def live_url(folders: list[Path]) -> Iterator[str]:
    with serving(Hub(folders, None)) as server:
        yield server.url


@pytest.fixture(scope="session")
def measured_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of a run on several tables and of a live one, on a simulated GPU."""
    folder = tmp_path_factory.mktemp("measured")
    several = write_several(folder / "several", [seed(n) for n in ("fa3_stock", "waves_static", "always_1")])
    live = write_live(folder / "live", [seed(n) for n in ("fa3_stock", "always_4", "always_8")])
    path = folder / "report.html"
    path.write_text(report([RunReader(several), RunReader(live)]), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(params=["report", pytest.param("live", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found
