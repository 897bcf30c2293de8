"""The live page in a real browser: whatever the journal says now is what every open view shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_page import VIEWS, WAIT_MS, serving, watch
from conftest import ON_SMALL, PATIENCE_S, ROOT
from dashboard_runs import write_run
from journal_edits import rewrite

from evaluators.judge.judge import Judge
from evolve.dashboard.hub import Hub
from evolve.journal.journal import open_journal
from evolve.journal.run_folder import locked

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

SAYS = "() => document.querySelector('main').innerText"


def shows(page: Page, text: str, within_ms: float = WAIT_MS) -> None:
    """Wait until the page says something."""
    page.get_by_text(text).first.wait_for(timeout=within_ms)


@pytest.mark.slow
def test_every_open_view_follows_a_real_run(browser: Browser, tmp_path: Path) -> None:
    """Ten tabs of one browser, opened before there is a run and left alone until it has ended."""
    runs = tmp_path / "runs"
    runs.mkdir()
    sets = [*ON_SMALL, "--set", "search.proposals=30", "--set", f"runs_dir={runs}"]
    with serving(Hub([], runs)) as server:
        context = browser.new_context(viewport={"width": 1300, "height": 900})
        places = [*VIEWS, "candidate?id=0", "table?only=scored&sort=holdout"]
        pages = []
        complaints: list[str] = []
        for place in places:
            page = context.new_page()
            page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
            page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
            page.on("pageerror", lambda e: complaints.append(str(e)))
            page.goto(f"{server.url}#{place}")
            shows(page, "No run yet")
            pages.append(page)
        code = "from evolve.cli import main; main()"
        run = subprocess.Popen(
            [sys.executable, "-c", code, "run", "configs/quickstart.yaml", *sets],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            shows(pages[0], "running, ", 1000 * PATIENCE_S)
            # Opened while it goes on, and not touched either.
            shows(pages[0], "finished, 30 proposals", 240_000)
            assert run.wait(timeout=PATIENCE_S) == 0
        finally:
            run.kill()
            run.wait()
        for page in pages:
            shows(page, "finished, 30 proposals", 5000)
        pages[0].wait_for_timeout(2000)
        for place, page in zip(places, pages, strict=True):
            fresh = context.new_page()
            # The candidate that was opened first stays open: what it says of its roles and children is to be new.
            fresh.goto(page.url if "candidate" in place or "shapes" in place else f"{server.url}#{place}")
            fresh.wait_for_selector("html[data-ready]", state="attached", timeout=WAIT_MS)
            fresh.wait_for_timeout(300)
            assert page.evaluate(SAYS) == fresh.evaluate(SAYS), place
            fresh.close()
        assert complaints == []
        context.close()


def test_the_state_of_a_run_is_told(browser: Browser, judge: Judge, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "half", judge, finished=False)
    rewrite(  # as if it had begun one and a half hours ago
        folder,
        "UPDATE proposals SET asked_at = asked_at - 5400",
        "UPDATE results SET committed_at = committed_at - 5400",
        "UPDATE meta SET value = value - 5400 WHERE key = 'created_at'",
    )
    with serving(Hub([folder], None)) as server:
        watched = watch(browser)
        watched.open(server.url)
        shows(watched.page, "stopped, 6 of 7")
        with locked(folder):
            shows(watched.page, "stalled, 6 of 7, nothing new for 1.5 h", 3000)
        with open_journal(folder, read_only=False) as journal:
            journal.set_meta("ended", "interrupted")
        shows(watched.page, "interrupted, 6 of 7", 3000)


@pytest.mark.parametrize("view", ["lineage", "candidate", "overview", "table"])
def test_a_page_opened_before_anything_was_asked_fills_itself(browser: Browser, tmp_path: Path, view: str) -> None:
    folder = tmp_path / "young"
    folder.mkdir()
    with open_journal(folder, read_only=False) as journal, serving(Hub([folder], None)) as server:
        journal.set_meta("run", "young")
        watched = watch(browser)
        watched.open(f"{server.url}#{view}")
        row = {"id": 0, "kind": "proposal", "island": 0, "parent": None, "inspirations": (), "diff": False, "seed": 0}
        journal.ask({**row, "system": "", "user": "a question"})
        shown = {"lineage": "1 of 1", "candidate": "Proposal 0", "overview": "1 under way", "table": "1 candidate"}[
            view
        ]
        shows(watched.page, shown, 4000)


def test_compare_asks_for_nothing_that_does_not_exist(browser: Browser, judge: Judge, tmp_path: Path) -> None:
    done = write_run(tmp_path / "done", judge)
    young = tmp_path / "young"
    young.mkdir()
    with open_journal(young, read_only=False) as journal, serving(Hub([done, young], None)) as server:
        journal.set_meta("run", "young")
        watched = watch(browser)
        watched.open(f"{server.url}#compare?run=done")
        shows(watched.page, "Source, from A to B")
        watched.go(f"{server.url}#compare?run=done&a=done&ia=1&b=young&ib=0")
        shows(watched.page, "Run young holds no proposal 0 yet.")
        watched.go(f"{server.url}#compare?run=done&a=done&ia=99&b=done&ib=0")
        shows(watched.page, "Run done holds no proposal 99.")
        assert watched.complaints == []


def test_a_view_that_failed_recovers_with_the_server(browser: Browser, judge: Judge, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "small", judge)
    watched = watch(browser)
    with serving(Hub([folder], None)) as server:
        watched.open(server.url)
        shows(watched.page, "finished, 7 proposals")
    shows(watched.page, "reconnecting")
    watched.go(f"{server.url}#grid")
    shows(watched.page, "Failed to fetch")
    with serving(Hub([folder], None), server.port):
        shows(watched.page, "finished, 7 proposals", 10_000)
        shows(watched.page, "MAP-Elites grid", 10_000)
        # A run that is taken away is told of, too.
        folder.rename(tmp_path / "elsewhere")
        shows(watched.page, "the run is gone", 10_000)


def test_a_slow_view_says_that_it_loads(browser: Browser, live_url: str) -> None:
    watched = watch(browser)
    watched.page.route("**/lineage", lambda route: (watched.page.wait_for_timeout(1200), route.continue_()))
    watched.page.goto(live_url)
    shows(watched.page, "Loading\u2026", 5000)
    shows(watched.page, "Best score so far")
