"""The page in a real browser: Chromium of the system, driven by Playwright (extra `browser`).

Screenshots of every view are kept in build/screenshots.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT, TABLES, Command, FinishedRun, seed
from dashboard_runs import HOSTILE, write_run

from evaluators.judge import Judge
from evolve.dashboard.hub import Hub
from evolve.dashboard.reader import RunReader
from evolve.dashboard.report import report
from evolve.dashboard.server import DashboardServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
MISSING = (
    "needs Playwright: pip install -e '.[browser]'"
    if find_spec("playwright") is None
    else "needs Chromium: apt install chromium"
    if CHROMIUM is None
    else ""
)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

SCREENSHOTS = ROOT / "build" / "screenshots"
VIEWS = ("overview", "lineage", "candidate", "shapes", "grid", "compare")
TABS = ("source", "diff", "shapes", "prompt", "answer", "feedback")
# Chromium refuses its own sandbox to root; the rest keeps it from calling home.
ARGUMENTS = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
WAIT_MS = 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        arguments = ARGUMENTS + (["--no-sandbox"] if os.geteuid() == 0 else [])
        opened = play.chromium.launch(executable_path=CHROMIUM, args=arguments)
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


def watch(browser: Browser, *, scheme: str = "light", width: int = 1440, height: int = 900) -> Watched:
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    watched = Watched(context.new_page())
    watched.page.on("console", lambda m: watched.complaints.append(m.text) if m.type in ("error", "warning") else None)
    watched.page.on("pageerror", lambda e: watched.complaints.append(str(e)))
    watched.page.on("request", lambda r: watched.requests.append(r.url))
    return watched


@pytest.fixture(scope="module")
def folders(judge: Judge, tmp_path_factory: pytest.TempPathFactory, finished_run: FinishedRun) -> list[Path]:
    table = TABLES / "llama31-70b" / "fa3_fwd-metadata-cold"
    folder = tmp_path_factory.mktemp("hostile") / "small <b>&\"'"
    return [write_run(folder, judge, table, seed("fa3_stock"), hostile=HOSTILE), finished_run.folder]


@pytest.fixture(scope="module")
def report_url(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report([RunReader(f) for f in folders]), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def live_url(folders: list[Path]) -> Iterator[str]:
    server = DashboardServer(Hub(folders, None), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server.url
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["report", "live"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 1440), ("light", 390)])
def test_every_view_renders(browser: Browser, url: str, scheme: str, width: int) -> None:
    watched = watch(browser, scheme=scheme, width=width, height=900 if width > 500 else 844)
    watched.open(url)
    places = [*VIEWS, *(f"candidate?id=2&tab={tab}" for tab in TABS), "shapes?metric=decision", "shapes?metric=left"]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    kind = "report" if url.startswith("file:") else "live"
    for place in places:
        if place != "overview":
            watched.go(f"{url}#{place}")
        assert watched.page.locator("main .notice").count() == 0, place
        assert watched.page.locator("main .panel").count() > 0, place
        # Nothing sticks out of the page, on a phone neither.
        wide = watched.page.locator("html").evaluate("e => e.scrollWidth")
        assert wide <= width, f"{place} is {wide} px wide"
        name = re.sub(r"\W+", "-", place)
        watched.page.screenshot(path=SCREENSHOTS / f"{kind}-{scheme}-{width}-{name}.png")
    assert watched.complaints == []
    outside = [r for r in watched.requests if not r.startswith((url.partition("#")[0], "data:"))]
    assert outside == []


def test_everything_has_a_name(browser: Browser, report_url: str) -> None:
    watched = watch(browser)
    watched.open(report_url)
    for place in (*VIEWS, *(f"candidate?tab={tab}" for tab in TABS)):
        watched.page.goto(f"{report_url}#{place}")
        watched.page.wait_for_selector(f'nav a[aria-current="page"][id="tab-{place.split("?")[0]}"]')
        watched.page.wait_for_timeout(200)
        unnamed = watched.page.locator("body").evaluate(
            """body => [...body.querySelectorAll(
                 "a, button, input, select, summary, canvas, svg, table, section, [role], [tabindex]")]
               .filter(e => e.matches(".cell") || !e.closest("[aria-hidden=true]") && e.tabIndex !== -1)
               .filter(e => !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.textContent.trim()
                              || e.labels?.length)).map(e => e.outerHTML.slice(0, 120))"""
        )
        assert unnamed == [], place
        levels = watched.page.locator("main h1").count()
        assert levels == 1, place


def test_keyboard_walk(browser: Browser, url: str) -> None:
    watched = watch(browser)
    watched.open(url)
    for number, view in enumerate(VIEWS, start=1):
        if view != "overview":
            watched.press(str(number))
        assert watched.page.locator("nav a[aria-current=page]").get_attribute("id") == f"tab-{view}"
    watched.press("2")
    watched.page.keyboard.press("w")
    winner = watched.says(".detail .big")
    watched.page.keyboard.press("h")
    parent = watched.says(".detail .big")
    assert parent != winner
    watched.page.keyboard.press("l")
    watched.page.keyboard.press("j")
    watched.page.keyboard.press("k")
    watched.page.keyboard.press("/")
    assert watched.page.locator("#search:focus").count() == 1
    watched.page.keyboard.type("syntax")
    assert watched.says(".grow .quiet").startswith("1 of 8")
    watched.page.keyboard.press("Escape")
    watched.page.keyboard.press("j")
    assert watched.says(".detail .big") == "#4"
    watched.press("Enter")
    assert watched.place.startswith("candidate?") and "id=4" in watched.place
    watched.press("k")
    assert "id=3" in watched.place
    watched.press("]")
    assert "tab=diff" in watched.place
    watched.page.keyboard.press("?")
    assert watched.page.locator("dialog[open]").count() == 1
    watched.page.keyboard.press("Escape")
    assert watched.page.locator("dialog[open]").count() == 0
    watched.press("t")
    assert watched.page.locator("html").get_attribute("data-theme") == "dark"
    assert watched.complaints == []


def test_arrows_walk_over_shapes(browser: Browser, report_url: str) -> None:
    watched = watch(browser)
    watched.open(f"{report_url}#shapes?id=1")
    watched.page.keyboard.press("ArrowRight")
    first = watched.page.locator(".cell:focus").get_attribute("data-case")
    watched.page.keyboard.press("ArrowRight")
    watched.page.keyboard.press("ArrowDown")
    second = watched.page.locator(".cell:focus").get_attribute("data-case")
    assert first and second and first != second
    assert watched.says("#shape-detail h3") == second
    watched.page.wait_for_url(re.compile(f"case={second}"))


@pytest.mark.parametrize(
    ("place", "selector", "words"),
    [
        ("candidate?id=4", ".chip", "syntax"),
        ("candidate?id=2&tab=diff", ".diff .come", "batch <= 4"),
        ("candidate?id=2&tab=diff&vs=seed", ".quiet", "2 lines added"),
        ("shapes?id=1&case=u-b5-h8x1-k704", "#shape-detail h3", "u-b5-h8x1-k704"),
        ("grid?t=1", "p[aria-live]", "after proposal 1:"),
        ("lineage?q=no_such_text", ".grow .quiet", "0 of 8"),
        ("compare?ia=0&ib=1", ".half", "A #0"),
        ("candidate?id=99", ".notice", "holds no proposal 99"),
        ("overview?run=nobody", ".notice", "No run nobody here"),
        ("nonsense", "h1", "Overview"),
    ],
)
def test_deep_links(browser: Browser, url: str, place: str, selector: str, words: str) -> None:
    watched = watch(browser)
    watched.open(f"{url}#{place}")
    assert words in watched.page.locator(f"main {selector}").first.text_content()  # type: ignore[operator]
    # The page's own refusal to show what is not there may have asked the server for it.
    assert [c for c in watched.complaints if "404" not in c] == []


def test_hostile_names_are_inert(browser: Browser, url: str) -> None:
    watched = watch(browser)
    watched.open(url)
    for place in (
        *VIEWS,
        *(f"candidate?id={i}&tab={tab}" for i in (1, 4, 5, 6) for tab in ("source", "prompt", "answer")),
    ):
        watched.page.goto(f"{url}#{place}")
        watched.page.wait_for_timeout(120)
    assert watched.page.locator("main img, main script, main b").count() == 0
    assert watched.page.locator("body").evaluate("() => window.pwned") is None
    assert watched.complaints == []
    watched.go(f"{url}#candidate?id=1&tab=answer")
    shown = watched.says("pre.prose")
    assert "<img src=x onerror=window.pwned=1>" in shown
    # Characters that reorder text are spelled out.
    assert "\\u202e" in shown and "\u202e" not in shown


def test_documents_are_those_of_the_command_line(
    browser: Browser, url: str, folders: list[Path], evosplit: Command
) -> None:
    # Asking the page from outside evaluates strings, which its own policy forbids.
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready]", state="attached", timeout=WAIT_MS)
    run = folders[0]
    ask = "([view, run, id]) => window.evosplit.source[view](run, id)"
    for view, id in [
        ("overview", None),
        ("lineage", None),
        ("grid", None),
        ("shapes", None),
        ("candidate", 1),
        ("candidate", 5),
    ]:
        name = str(run) if id is None else f"{run}#{id}"
        said: Any = evosplit("report", name, "--json", view).json
        assert page.evaluate(ask, [view, run.name, id]) == said, view
    pair = [{"run": folders[0].name, "id": 1}, {"run": folders[1].name, "id": 0}]
    said = evosplit("report", f"{folders[0]}#1", f"{folders[1]}#0", "--json", "compare").json
    found = page.evaluate("([a, b]) => window.evosplit.compare(a, b)", pair)
    for key in said:
        assert found[key] == said[key], key
    context.close()


def test_live_update_while_a_run_goes_on(browser: Browser, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    server = DashboardServer(Hub([], runs), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    sets = ["--set", "search.proposals=12", "--set", f"runs_dir={runs}"]
    code = "from evolve.cli import main; main()"
    run = subprocess.Popen(
        [sys.executable, "-c", code, "run", "configs/quickstart.yaml", *sets], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        watched = watch(browser)
        for _ in range(200):
            if server.hub.names():
                break
            watched.page.wait_for_timeout(100)
        watched.open(f"{server.url}#lineage")
        assert watched.says(".state") in ("live", "connecting\u2026")
        # The run is another process; its last proposal arrives without a reload.
        watched.page.get_by_text("13 of 13", exact=True).wait_for(timeout=90_000)
        assert int(watched.page.locator("html").get_attribute("data-changes") or 0) > 3
        # Drawn once, or twice when the first event told more than the documents held; then brought up to date in place.
        assert int(watched.ready) <= 2
        watched.go(f"{server.url}#overview")
        watched.page.get_by_text("12 of 12", exact=True).wait_for(timeout=10_000)
        assert run.wait(timeout=60) == 0
        assert watched.complaints == []
    finally:
        run.kill()
        run.wait()
        server.shutdown()
        server.server_close()
