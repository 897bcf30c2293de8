"""Measure the dashboard in a real browser: time until a view is drawn, frames while zooming, size of a report.

Needs the extra `browser` and a Chromium. The run is best a synthetic one, which the output then says.

    python scripts/synthetic_journal.py --proposals 3000 -o runs/synthetic-3000
    python scripts/bench_dashboard.py runs/synthetic-3000
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from evolve.dashboard.hub import Hub
from evolve.dashboard.reader import RunReader
from evolve.dashboard.report import report
from evolve.dashboard.server import DashboardServer

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
TRIES = 5
ZOOMS = 60

FRAMES = """async (zooms) => {
  const canvas = document.querySelector("canvas.tree");
  const gaps = [];
  let last = performance.now();
  for (let i = 0; i < zooms; i++) {
    const wheel = { deltaY: i % 2 ? 40 : -40, clientX: 400, clientY: 300, bubbles: true, cancelable: true };
    canvas.dispatchEvent(new WheelEvent("wheel", wheel));
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    gaps.push(now - last);
    last = now;
  }
  return gaps;
}"""


def load_ms(page: Page, url: str, view: str) -> float:
    """Milliseconds from the request until the view is drawn, in a page that was elsewhere before."""
    page.goto("about:blank")
    started = time.perf_counter()
    page.goto(f"{url}#{view}")
    page.wait_for_selector("html[data-ready]", state="attached")
    return 1000 * (time.perf_counter() - started)


def measure(page: Page, url: str, what: str) -> None:
    """Print medians."""
    for view in ("overview", "lineage", "candidate", "shapes", "grid"):
        times = [load_ms(page, url, view) for _ in range(TRIES)]
        print(f"{what:7}{view:10} median {statistics.median(times):6.0f} ms, worst {max(times):6.0f} ms")
    load_ms(page, url, "lineage")
    gaps = page.evaluate(FRAMES, ZOOMS)
    print(f"{what:7}zoom       median {statistics.median(gaps):6.1f} ms a frame, worst {max(gaps):6.1f} ms")


def main() -> None:
    """Measure one run as a report and live."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    reader = RunReader(run)
    started = time.process_time()
    text = report([reader])
    print(f"{reader.name}: {len(reader.nodes)} proposals; report {len(text.encode()) / 1e6:.2f} MB, "
          f"{time.process_time() - started:.1f} s of CPU to write")  # fmt: skip
    server = DashboardServer(Hub([run], None), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.hub.warm()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        path = Path(folder) / "report.html"
        path.write_text(text, encoding="utf-8")
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        # The page's policy forbids evaluating strings, which is how Playwright runs FRAMES.
        page = browser.new_context(viewport={"width": 1440, "height": 900}, bypass_csp=True).new_page()
        measure(page, path.as_uri(), "report")
        measure(page, server.url, "live")
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
