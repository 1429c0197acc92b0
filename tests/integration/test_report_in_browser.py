"""The report page in Chromium: it sorts, points and keeps, from the disk and from a server, and asks for nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

import pytest
from browser import Opened, chromium, needs_chromium, served
from conftest import Demo
from playwright.sync_api import Browser, Page, expect

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(demo: Demo) -> Iterator[str]:
    """The address of the report on a server of the demo's exports, on this machine."""
    with served(demo.folder / "exports") as server:
        yield f"{server}/report.html"


class Seen(Opened):
    """The report, once its charts are drawn."""

    def __init__(self, page: Page, address: str) -> None:
        super().__init__(page, address)
        for chart in page.locator(".chart:visible").all():
            chart.scroll_into_view_if_needed()
            chart.locator("svg").wait_for()


@pytest.fixture(params=["disk", "server"])
def seen(request: pytest.FixtureRequest, browser: Browser, demo: Demo, address: str) -> Iterator[Seen]:
    address = (demo.folder / "exports/report.html").as_uri() if request.param == "disk" else address
    page = browser.new_page()
    found = Seen(page, address)
    yield found
    assert found.requests == [address] or found.requests == [address, address.replace("report.html", "favicon.ico")]
    assert found.complaints == []
    page.close()


def column(page: Page, table: str, index: int) -> list[str]:
    cells = page.locator(f'.scroll[aria-label^="{table}"]:visible tbody tr > :nth-child({index})')
    return [text.strip() for text in cells.all_inner_texts()]


ALL = "Layers of mobilenet_v2-adaptive, in order"


def test_a_press_on_a_header_sorts(seen: Seen) -> None:
    page = seen.page
    header = page.locator(f'.scroll[aria-label^="{ALL}"] thead th', has_text="kB").first
    place = 1 + [text.strip() for text in header.locator("xpath=..").locator("th").all_inner_texts()].index("kB")
    before = column(page, ALL, place)
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert column(page, ALL, place) == sorted(before, key=float, reverse=True)
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(page, ALL, place) == sorted(before, key=float)


def test_ranges_are_sorted_by_their_lower_ends(seen: Seen) -> None:
    heads = seen.page.locator(f'.scroll[aria-label^="{ALL}"] thead th')
    place = 1 + [text.strip() for text in heads.all_inner_texts()].index("seen range")
    heads.nth(place - 1).locator("button").click()
    found = [float(text.partition(" ")[0]) for text in column(seen.page, ALL, place)]
    assert found == sorted(found)
    assert found[0] < 0


def test_pointing_at_a_row_marks_the_layer_in_the_charts(seen: Seen) -> None:
    page = seen.page
    row = page.locator(f'.scroll[aria-label^="{ALL}"] tbody tr').nth(1)
    bars = page.locator('[data-chart="bytes"]:visible .mark-rect.layer_0_marks path')
    row.hover()
    page.wait_for_function("document.querySelectorAll('tr.pointed').length > 0")
    expect(bars.nth(1)).to_have_attribute("opacity", "1")
    expect(bars.nth(0)).to_have_attribute("opacity", "0.3")
    page.locator("h1").hover()
    expect(bars.nth(0)).to_have_attribute("opacity", "1")


def test_pointing_at_a_chart_marks_the_row_and_says_the_numbers(seen: Seen) -> None:
    page = seen.page
    chart = page.locator('[data-chart="bytes"]:visible')
    chart.scroll_into_view_if_needed()
    chart.locator(".layer_1_marks path").nth(2).hover()
    expect(page.locator(f'.scroll[aria-label^="{ALL}"] tr.pointed')).to_have_attribute("data-layer", "2")
    expect(page.locator("#vg-tooltip-element")).to_contain_text("pointwise")


def test_a_layer_is_kept_by_the_keyboard(seen: Seen) -> None:
    page = seen.page
    button = page.locator(f'.scroll[aria-label^="{ALL}"] td button, .scroll[aria-label^="{ALL}"] tbody th button').nth(
        1
    )
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    expect(page.locator(".export:visible .picked")).to_have_text("depthwise")
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"


def test_another_export_is_shown(seen: Seen) -> None:
    page = seen.page
    page.select_option("#export", "mobilenet_v2-4bit.onnx")
    assert page.locator(".export:visible h3").inner_text() == "mobilenet_v2-4bit"
    chart = page.locator('.export:visible [data-chart="sqnr"]')
    chart.scroll_into_view_if_needed()
    chart.locator("svg").wait_for()
    assert page.locator(".export:visible .bits b").first.inner_text() == "4"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_in_its_colours(
    width: int, scheme: Literal["light", "dark"], browser: Browser, demo: Demo
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    seen = Seen(page, (demo.folder / "exports/report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 27)"}[scheme]
    for box in page.locator(".chart:visible svg").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().right)"
    ):
        assert box <= width
    assert seen.complaints == []
    page.close()


def test_printed_tables_are_whole(browser: Browser, demo: Demo) -> None:
    page = browser.new_page()
    seen = Seen(page, (demo.folder / "exports/report.html").as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    heights = "all => all.filter(one => one.offsetParent).map(one => one.scrollHeight - one.clientHeight)"
    assert max(page.locator(".scroll").evaluate_all(heights)) == 0
    assert page.pdf().startswith(b"%PDF")
    assert seen.complaints == []
    page.close()


def test_a_screen_reader_gets_the_tables(browser: Browser, demo: Demo) -> None:
    page = browser.new_page()
    Seen(page, (demo.folder / "exports/report.html").as_uri())
    tree = page.locator("#layers").aria_snapshot()
    for text in ("table", "columnheader", "rowheader", "pointwise", "img"):
        assert text in tree
    assert "graphics" not in json.dumps(tree), "marks of charts would be read one by one"
    page.close()
