"""The page in a real browser: every view renders, is accessible, and shows hostile text as text.

Screenshots of every view are kept in build/screenshots.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from browser_page import SCREENSHOTS, TABS, VIEWS, WAIT_MS, watch

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    ("transport", "scheme", "width"),
    [
        ("live", "light", 1440),
        pytest.param("report", "dark", 1440, marks=pytest.mark.slow),
        ("report", "light", 390),
        pytest.param("report", "light", 1440, marks=pytest.mark.slow),
        pytest.param("live", "dark", 1440, marks=pytest.mark.slow),
        pytest.param("live", "dark", 390, marks=pytest.mark.slow),
    ],
)
def test_every_view_renders(
    browser: Browser, request: pytest.FixtureRequest, transport: str, scheme: str, width: int
) -> None:
    url: str = request.getfixturevalue(f"{transport}_url")
    watched = watch(browser, scheme=scheme, width=width, height=900 if width > 500 else 844)
    watched.open(url)
    places = [*VIEWS, *(f"candidate?id=2&tab={tab}" for tab in TABS), "shapes?metric=decision", "shapes?metric=left"]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for place in places:
        if place != "overview":
            watched.go(f"{url}#{place}")
        assert watched.page.locator("main .notice").count() == 0, place
        assert watched.page.locator("main .panel").count() > 0, place
        # Nothing sticks out of the page, on a phone neither.
        wide = watched.page.locator("html").evaluate("e => e.scrollWidth")
        assert wide <= width, f"{place} is {wide} px wide"
        name = re.sub(r"\W+", "-", place)
        watched.page.screenshot(path=SCREENSHOTS / f"{transport}-{scheme}-{width}-{name}.png")
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


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 1440), ("light", 390)])
def test_axe_finds_nothing(browser: Browser, report_url: str, measured_url: str, scheme: str, width: int) -> None:
    """Contrast, names, roles, landmarks, what can be reached: axe-core's rules, which come with the extra `browser`."""
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    places = [*VIEWS, "candidate?id=2&tab=diff", "candidate?id=2&tab=shapes", "shapes?metric=decision"]
    for url in [*(f"{report_url}#{place}" for place in places), f"{measured_url}#shapes?run=several&id=1"]:
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector("html[data-ready]", state="attached", timeout=WAIT_MS)
        page.wait_for_timeout(200)
        found = Axe().run(page).response["violations"]
        assert [(v["id"], [n["html"][:120] for n in v["nodes"]][:3]) for v in found] == [], url
        page.close()
    context.close()
