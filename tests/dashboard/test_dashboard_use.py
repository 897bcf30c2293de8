"""The page in a real browser as somebody uses it: keys, links, tables, charts, the slider, pins, paper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_page import SCREENSHOTS, VIEWS, WAIT_MS, watch
from conftest import Command

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.mark.slow
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
        ("candidate?id=2&tab=diff&vs=seed", ".quiet", "2 lines added"),
        ("shapes?id=1&case=u-b5-h8x1-k704", "#shape-detail h3", "u-b5-h8x1-k704"),
        ("overview?run=nobody", ".notice", "No run nobody here"),
        ("nonsense", "h1", "Overview"),
        *(
            # A page in Chromium for each: 1.3 CPU-seconds.
            pytest.param(*link, marks=pytest.mark.slow)
            for link in (
                ("candidate?id=4", ".chip", "syntax"),
                ("candidate?id=2&tab=diff", ".diff .come", "batch <= 4"),
                ("grid?t=1", "p[aria-live]", "after proposal 1:"),
                ("lineage?q=no_such_text", ".grow .quiet", "0 of 8"),
                ("compare?ia=0&ib=1", ".half", "A #0"),
                ("candidate?id=99", ".notice", "holds no proposal 99"),
            )
        ),
    ],
)
def test_deep_links(browser: Browser, url: str, place: str, selector: str, words: str) -> None:
    watched = watch(browser)
    watched.open(f"{url}#{place}")
    assert words in watched.page.locator(f"main {selector}").first.text_content()  # type: ignore[operator]
    assert watched.complaints == []


@pytest.mark.slow
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
        ("story", None),
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
    said = evosplit("report", *folders, "--json", "runs").json
    assert page.evaluate("() => window.evosplit.source.allRuns()") == said
    context.close()


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


@pytest.mark.slow
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


def test_the_wheel_scrolls_the_page_unless_the_picture_is_meant(browser: Browser, report_url: str) -> None:
    watched = watch(browser, width=1024, height=600)
    watched.open(f"{report_url}#lineage")
    watched.page.mouse.move(400, 350)
    watched.page.mouse.wheel(0, 300)
    watched.page.wait_for_function("() => window.scrollY > 100")
    assert "z=" not in watched.place
    watched.page.evaluate("() => window.scrollTo(0, 0)")
    watched.page.keyboard.down("Control")
    for _ in range(30):
        watched.page.mouse.wheel(0, 120)
    watched.page.keyboard.up("Control")
    watched.page.wait_for_url(re.compile("z="))
    assert watched.page.evaluate("() => window.scrollY") == 0
    # However far out, nothing is seen but the run.
    x0, x1, *_ = (float(v) for v in re.findall(r"z=([-\d._]+)", watched.place)[0].split("_"))
    assert x0 >= -1 and x1 <= 10
    watched.page.mouse.click(400, 350)
    watched.page.mouse.wheel(0, -120)
    assert watched.page.evaluate("() => window.scrollY") == 0


def test_what_lies_under_the_pointer_is_said(browser: Browser, report_url: str) -> None:
    watched = watch(browser)
    watched.open(f"{report_url}#lineage")
    box = watched.page.locator("canvas.tree").first.bounding_box()
    assert box is not None
    tip = watched.page.locator(".drawing .tip").first
    for x in range(int(box["x"]) + 60, int(box["x"] + box["width"]), 12):
        watched.page.mouse.move(x, box["y"] + 20)
        if tip.is_visible():
            break
    assert re.match(r"#\d", tip.inner_text()) and "train 1." in tip.inner_text()
    watched.go(f"{report_url}#overview")
    box = watched.page.locator(".u-over").first.bounding_box()
    assert box is not None
    watched.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert "best on train" in watched.says(".tip")
    assert watched.complaints == []


def test_the_table_sorts_filters_and_is_saved(browser: Browser, report_url: str) -> None:
    watched = watch(browser)
    watched.open(f"{report_url}#table")
    rows = watched.page.locator("table.full tbody tr")
    assert rows.count() == 8
    before = watched.ready
    watched.page.get_by_role("button", name="train", exact=True).click()
    watched.drawn_after(before)
    column = [t for t in watched.page.locator("table.full tbody td:nth-child(3)").all_inner_texts() if t != "\u2013"]
    assert column == sorted(column, reverse=True) and len(column) == 4
    before = watched.ready
    watched.page.get_by_role("button", name="failed", exact=True).click()
    watched.drawn_after(before)
    assert rows.count() == 3
    with watched.page.expect_download() as waiting:
        watched.page.locator("#csv").click()
    lines = Path(waiting.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("id,status,train,holdout,") and len(lines) == 4
    # Texts of a model that a spreadsheet would read as formulas are quoted; those here are markup alone.
    assert {line.split(",")[1] for line in lines[1:]} == {"syntax", "proposer_failed", "timeout"}
    # What is looked for may stand in the program alone.
    watched.go(f"{report_url}#table?q=batch%20%3C%3D%204")
    assert rows.count() == 2
    assert watched.complaints == []


def test_pins_and_notes_stay_in_the_browser(browser: Browser, live_url: str) -> None:
    watched = watch(browser)
    watched.open(f"{live_url}#candidate?id=2")
    before = watched.ready
    watched.page.locator("#pin").click()
    watched.drawn_after(before)
    watched.page.locator("#note").fill("worth a =look")
    before = watched.ready
    watched.page.locator("#note").press("Enter")
    watched.drawn_after(before)
    watched.page.reload()
    watched.page.wait_for_selector("#note")
    assert watched.page.locator("#note").input_value() == "worth a =look"
    watched.go(f"{live_url}#table?only=pinned")
    assert watched.page.locator("table.full tbody tr").count() == 1
    assert "worth a =look" in watched.says("table.full tbody")


def test_charts_follow_the_width_of_their_panel(browser: Browser, report_url: str) -> None:
    watched = watch(browser, width=700)
    watched.open(f"{report_url}#overview")
    for width in (1500, 390):
        watched.page.set_viewport_size({"width": width, "height": 900})
        watched.page.wait_for_function(
            """() => [...document.querySelectorAll(".drawing")].every((e) =>
                 Math.abs(e.clientWidth - e.querySelector(".uplot").clientWidth) < 3)"""
        )


def test_paper_keeps_colours_and_leaves_out_what_cannot_be_pressed(browser: Browser, report_url: str) -> None:
    watched = watch(browser)
    watched.open(f"{report_url}#shapes?id=1")
    watched.page.emulate_media(media="print")
    cell = watched.page.locator(".cell").first
    assert cell.evaluate("(e) => getComputedStyle(e).printColorAdjust") == "exact"
    assert not watched.page.locator("nav").is_visible()
    watched.go(f"{report_url}#candidate?id=1")
    code = watched.page.locator(".code")
    assert code.evaluate("(e) => e.scrollHeight <= e.clientHeight + 1")


def test_keys_are_not_lost_while_a_candidate_is_on_its_way(browser: Browser, live_url: str) -> None:
    watched = watch(browser)
    watched.page.route("**/candidate/*", lambda route: (watched.page.wait_for_timeout(60), route.continue_()))
    watched.open(f"{live_url}#candidate?id=0")
    for _ in range(5):
        watched.page.keyboard.press("j")
    watched.page.get_by_text("Proposal 5", exact=True).wait_for(timeout=WAIT_MS)
    assert "id=5" in watched.place


def test_words_are_marked_that_differ(browser: Browser, report_url: str) -> None:
    watched = watch(browser)
    watched.open(f"{report_url}#candidate?id=2&tab=diff")
    words = ".diff .gone .word, .diff .come .word"
    assert watched.page.locator(words).all_inner_texts() == ["6", "4"]
    watched.go(f"{report_url}#candidate?id=2&tab=diff&layout=two")
    assert watched.page.locator(".diff.beside .gone .word").all_inner_texts() == ["6"]
    assert watched.page.locator(".diff.beside .come .word").all_inner_texts() == ["4"]


def test_a_linked_shape_is_marked_and_in_sight(browser: Browser, report_url: str) -> None:
    watched = watch(browser, height=500)
    watched.open(f"{report_url}#shapes?id=1&case=r-b5-h8x1-ln900")
    assert watched.page.locator(".cell.open").get_attribute("data-case") == "r-b5-h8x1-ln900"
    watched.page.wait_for_function(
        "() => { const b = document.querySelector('.cell.open').getBoundingClientRect();"
        " return b.top >= 0 && b.bottom <= innerHeight; }"
    )
    # Ragged maps have their columns in one order.
    orders = watched.page.locator(".heat").evaluate_all(
        "(all) => all.map((t) => [...t.querySelectorAll('thead .upright')].map((e) => e.textContent))"
        ".filter((names) => names.some((n) => n.startsWith('ln')))"
    )
    longest: list[str] = max(orders, key=len)
    assert len(orders) > 1 and all([n for n in longest if n in names] == names for names in orders)
