"""Measure the dashboard in a real browser: time until a view is drawn, frames while a reader moves, a report's size.

Needs the extra `browser` and a Chromium. Times by the clock depend on what else the machine does, so the load is
stated and the lowest of several tries stands beside the median; CPU times are those of the page's main thread
(`threadTicks` of the DevTools protocol) and of this process, which serves the documents. The run is best a synthetic
one, which the output then says.

    python tests/faults/synthetic_journal.py --proposals 3000 -o runs/synthetic-3000
    python scripts/bench/bench_dashboard.py runs/synthetic-3000 -o results/dashboard/synthetic-3000.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import CDPSession, Page, sync_playwright

from evolve.dashboard.hub import Hub
from evolve.dashboard.report import report
from evolve.dashboard.server import DashboardServer
from evolve.dashboard.views.reader import RunReader

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
VIEWS = ("overview", "lineage", "table", "candidate", "shapes", "grid", "compare", "runs")
FRAMES = 90

MOVES = {
    "zoom": (
        "lineage",
        """(i) => canvas.dispatchEvent(new WheelEvent("wheel", { ctrlKey: true, deltaY: i % 60 < 30 ? -40 : 40,
            clientX: 500, clientY: 300, bubbles: true, cancelable: true }))""",
    ),
    "pan": (
        "lineage",
        """(i) => canvas.dispatchEvent(new PointerEvent(i ? "pointermove" : "pointerdown", { clientX: 500 + 3 * i,
            clientY: 300 + i % 20, pointerId: 1, bubbles: true, cancelable: true }))""",
    ),
    "step": ("lineage", """() => document.dispatchEvent(new KeyboardEvent("keydown", { key: "j", bubbles: true }))"""),
    "scroll": ("lineage", """() => { document.querySelector(".list").scrollTop += 260; }"""),
    "scrub": (
        "grid",
        """(i, frames) => { slider.value = Math.round(slider.max * i / frames);
            slider.dispatchEvent(new Event("input", { bubbles: true })); }""",
    ),
}
"""What a reader does, once per frame."""

LOOP = """async ([move, frames]) => {
  const canvas = document.querySelector("canvas.tree");
  const slider = document.querySelector("#time");
  if (canvas) canvas.setPointerCapture = () => {};
  const act = eval(move);
  const gaps = [];
  let last = await new Promise(requestAnimationFrame);
  for (let i = 0; i < frames; i++) {
    act(i, frames);
    const now = await new Promise(requestAnimationFrame);
    gaps.push(now - last);
    last = now;
  }
  return gaps;
}"""


def main_thread_s(session: CDPSession) -> float:
    """CPU seconds that the page's main thread has worked."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))


def loads(page: Page, session: CDPSession, url: str, view: str, tries: int) -> dict[str, Any]:
    """Milliseconds from the request until the view is drawn, in a page that was elsewhere before."""
    walls, cpus, serving = [], [], []
    for _ in range(tries):
        page.goto("about:blank")
        session.send("Performance.disable")
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        started, used = time.perf_counter(), time.process_time()
        page.goto(f"{url}#{view}")
        page.wait_for_selector("html[data-ready]", state="attached")
        walls.append(1000 * (time.perf_counter() - started))
        serving.append(1000 * (time.process_time() - used))
        cpus.append(1000 * main_thread_s(session))
    return {
        "wall_ms": {"lowest": round(min(walls)), "median": round(statistics.median(walls)), "worst": round(max(walls))},
        "main_thread_cpu_ms": round(statistics.median(cpus)),
        "serving_cpu_ms": round(statistics.median(serving)),
    }


def frames(page: Page, session: CDPSession, url: str, move: str) -> dict[str, Any]:
    """Time between frames while one thing is done per frame; 16.7 ms is what the display allows."""
    view, code = MOVES[move]
    page.goto("about:blank")
    page.goto(f"{url}#{view}")
    page.wait_for_selector("html[data-ready]", state="attached")
    page.wait_for_timeout(500)
    before = main_thread_s(session)
    gaps = sorted(page.evaluate(LOOP, [code, FRAMES]))
    cpu = 1000 * (main_thread_s(session) - before) / FRAMES
    return {
        "frame_ms": {
            "median": round(statistics.median(gaps), 1),
            "p95": round(gaps[int(0.95 * len(gaps))], 1),
            "worst": round(gaps[-1], 1),
        },
        "main_thread_cpu_ms": round(cpu, 1),
    }


def measure(page: Page, url: str, what: str, tries: int) -> dict[str, Any]:
    """One transport, printed as it comes."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    found: dict[str, Any] = {"load": {}, "frames": {}}
    for view in VIEWS:
        found["load"][view] = loads(page, session, url, view, tries)
        print(f"{what:7}{view:10} {json.dumps(found['load'][view])}")
    for move in MOVES:
        found["frames"][move] = frames(page, session, url, move)
        print(f"{what:7}{move:10} {json.dumps(found['frames'][move])}")
    return found


def main() -> None:
    """Measure one run as a report and live."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    if options.output and options.output.exists():
        parser.error(f"{options.output} exists")
    reader = RunReader(options.run)
    started = time.process_time()
    text = report([reader])
    found: dict[str, Any] = {
        "run": reader.name,
        "proposer": reader.meta.get("proposer", ""),
        "proposals": len(reader.nodes),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU in the browser",
        "load_before": [round(v, 2) for v in os.getloadavg()],
        "report_mb": round(len(text.encode()) / 1e6, 2),
        "report_cpu_s": round(time.process_time() - started, 2),
    }
    print(json.dumps(found))
    server = DashboardServer(Hub([options.run], None), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.hub.warm()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        path = Path(folder) / "report.html"
        path.write_text(text, encoding="utf-8")
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        found["browser"] = f"Chromium {browser.version}"
        # The page's policy forbids evaluating strings, which is how Playwright runs LOOP.
        page = browser.new_context(viewport={"width": 1440, "height": 900}, bypass_csp=True).new_page()
        found["report"] = measure(page, path.as_uri(), "report", options.tries)
        found["live"] = measure(page, server.url, "live", options.tries)
        browser.close()
    server.shutdown()
    found["load_after"] = [round(v, 2) for v in os.getloadavg()]
    print(f"load before {found['load_before']}, after {found['load_after']}")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
