"""The page in a real browser as somebody uses it: keys, links, tables, the slider, and a run that goes on."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_page import SCREENSHOTS, VIEWS, WAIT_MS, watch
from conftest import ON_SMALL, PATIENCE_S, ROOT, Command

from evolve.dashboard.hub import Hub
from evolve.dashboard.server import DashboardServer
from evolve.journal.journal import open_journal

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


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


@pytest.mark.parametrize("view", ["lineage", "candidate", "overview"])
def test_a_page_opened_before_anything_was_asked_fills_itself(browser: Browser, tmp_path: Path, view: str) -> None:
    folder = tmp_path / "young"
    folder.mkdir()
    with open_journal(folder, read_only=False) as journal:
        journal.set_meta("run", "young")
        server = DashboardServer(Hub([folder], None), "127.0.0.1", 0)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        watched = watch(browser)
        watched.open(f"{server.url}#{view}")
        assert watched.page.get_by_text("#0").count() == 0 and watched.page.get_by_text("under way 1").count() == 0
        row = {"id": 0, "kind": "proposal", "island": 0, "parent": None, "inspirations": (), "diff": False, "seed": 0}
        journal.ask({**row, "system": "", "user": "a question"})
        shown = {"lineage": "1 of 1", "candidate": "Proposal 0", "overview": "1 under way"}[view]
        watched.page.get_by_text(shown).first.wait_for(timeout=WAIT_MS)
        server.shutdown()
        server.server_close()


def test_live_update_while_a_run_goes_on(browser: Browser, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    server = DashboardServer(Hub([], runs), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    sets = [*ON_SMALL, "--set", "search.proposals=40", "--set", f"runs_dir={runs}"]
    code = "from evolve.cli import main; main()"
    run = subprocess.Popen(
        [sys.executable, "-c", code, "run", "configs/quickstart.yaml", *sets], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        watched = watch(browser)
        for _ in range(10 * PATIENCE_S):
            if server.hub.names():
                break
            watched.page.wait_for_timeout(100)
        watched.open(f"{server.url}#lineage")
        assert watched.says(".state") in ("live", "connecting\u2026")
        # The run is another process; its last proposal arrives without a reload.
        watched.page.get_by_text("41 of 41", exact=True).wait_for(timeout=240_000)
        assert int(watched.page.locator("html").get_attribute("data-changes") or 0) >= 2
        # Drawn once, again where there was nothing yet or the first event told more; then brought up to date.
        assert int(watched.ready) <= 3
        watched.go(f"{server.url}#overview")
        watched.page.get_by_text("40 of 40", exact=True).wait_for(timeout=WAIT_MS)
        assert run.wait(timeout=PATIENCE_S) == 0
        assert watched.complaints == []
    finally:
        run.kill()
        run.wait()
        server.shutdown()
        server.server_close()


def test_shapes_of_several_tables_and_of_a_live_run(browser: Browser, measured_url: str) -> None:
    watched = watch(browser)
    watched.open(f"{measured_url}#shapes?run=several&id=1")
    assert watched.says("main .quiet").startswith("#1:") or "measured on" in watched.says("main .quiet")
    first = watched.says("#shape-detail h3")
    assert first.startswith("bsc-160/fa3_fwd-metadata-cold/")
    before = watched.ready
    watched.page.get_by_role("button", name="bsc-160/fa3_fwd-static-cold").click()
    watched.drawn_after(before)
    assert watched.says("#shape-detail h3").startswith("bsc-160/fa3_fwd-static-cold/") and "table=1" in watched.place
    # A link to a shape opens its table.
    watched.go(f"{measured_url}#shapes?run=several&id=1&case=bsc-160%2Ffa3_fwd-static-cold%2Fu-b1-h64x1-k512")
    assert watched.says("#shape-detail h3") == "bsc-160/fa3_fwd-static-cold/u-b1-h64x1-k512"
    watched.page.screenshot(path=SCREENSHOTS / "report-light-1440-shapes-several.png")
    watched.go(f"{measured_url}#shapes?run=live&id=1")
    assert "measured live: of each shape only the launches that some program decided" in watched.says("main section")
    assert "interpolated" not in watched.says("#shape-detail")
    watched.page.screenshot(path=SCREENSHOTS / "report-light-1440-shapes-live.png")
    assert watched.complaints == []


def test_play_over_the_grid_and_hold_a_key(browser: Browser, report_url: str) -> None:
    watched = watch(browser)
    watched.open(f"{report_url}#grid?t=0")
    held = watched.page.locator(".facets .cell").count()
    slider = watched.page.locator("#time")
    slider.press("End")
    assert watched.page.locator(".facets .cell").count() > held
    slider.press("Home")
    assert watched.page.locator(".facets .cell").count() == held
    for _ in range(250):
        slider.press("ArrowRight")
        slider.press("ArrowLeft")
    # The browser would complain about hundreds of changes of the address, and not make them.
    watched.page.wait_for_url(re.compile("t=0"))
    watched.open(f"{report_url}#lineage?sel=0")
    watched.page.keyboard.press("j")
    watched.page.keyboard.press("j")
    assert watched.says(".detail .big") == "#2"
    # Tabs lead to what is selected by then.
    watched.page.locator("#tab-candidate").click()
    watched.page.wait_for_url(re.compile(r"candidate\?.*id=2"))
    assert watched.complaints == []
