"""Pages in headless Chromium: they open without a word, fetch nothing, and the sliders move."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


PATIENCE = 120_000  # ms: a busy machine is no failure


class Opened:
    """A page in a tab, with what the browser said of it and asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.tab = browser.new_page(viewport={"width": width, "height": 900})
        self.tab.set_default_timeout(PATIENCE)
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.address = path.resolve().as_uri()
        self.tab.goto(self.address)

    def check(self) -> None:
        """Nothing in the console, nothing fetched but the page itself."""
        assert self.said == []
        assert [a for a in self.asked if not a.startswith("data:")] == [self.address]

    def pixels(self, axis: int) -> str:
        return str(self.tab.evaluate(f"document.getElementById('plane-{axis}').toDataURL()"))


@pytest.fixture
def subject(browser: Any, pages: Path) -> Iterator[Opened]:
    opened = Opened(browser, pages / "sub-01.html")
    opened.tab.wait_for_selector("#viewer[data-ready=yes]")
    yield opened
    opened.check()
    opened.tab.close()


def test_viewer__sliders_move_by_keyboard(subject: Opened) -> None:
    tab = subject.tab
    for axis in range(3):
        place, seen = tab.inner_text("#place"), subject.pixels(axis)
        tab.focus(f"#slice-{axis}")
        tab.keyboard.press("ArrowRight")
        assert tab.inner_text("#place") != place
        assert subject.pixels(axis) != seen
        assert tab.get_attribute(f"#slice-{axis}", "aria-valuetext").endswith(" mm")


def test_viewer__starts_at_the_peak_and_tells_its_value(subject: Opened) -> None:
    row = subject.tab.locator("#contrast-1 tbody tr").first
    cells = row.locator("td").all_inner_texts()
    x, y, z, peak = cells[1:5]
    assert subject.tab.inner_text("#place") == f"x {x}, y {y}, z {z} mm"
    shown = float(subject.tab.inner_text("#value").removeprefix("z ").replace("−", "-"))
    step = 0.15  # of the largest z here, 14 over 127, and rounding of what is shown
    assert abs(shown - float(peak.replace("−", "-"))) < step


def test_viewer__threshold_and_map_change_the_picture(subject: Opened) -> None:
    tab = subject.tab
    before = subject.pixels(2)
    tab.focus("#threshold")
    tab.keyboard.press("End")
    assert subject.pixels(2) != before
    options = tab.locator("#map option").all_inner_texts()
    assert any("run-1" in one for one in options)
    tab.select_option("#map", label="Temporal signal to noise")
    tab.wait_for_selector("#threshold:disabled")
    assert "z" not in tab.inner_text("#value")


def test_viewer__a_click_and_a_peak_of_the_table_go_there(subject: Opened) -> None:
    tab = subject.tab
    place = tab.inner_text("#place")
    box = tab.locator("#plane-2").bounding_box()
    tab.locator("#plane-2").click(position={"x": box["width"] * 0.2, "y": box["height"] * 0.5})
    assert tab.inner_text("#place") != place
    tab.locator("#contrast-1 button.jump").first.click()
    assert tab.inner_text("#place") == place


@pytest.mark.parametrize("width", [900, 1280, 1600])
def test_pages__fit_the_window(browser: Any, pages: Path, width: int) -> None:
    for name in ("index.html", "sub-01.html", "sub-03.html"):
        opened = Opened(browser, pages / name, width)
        wide = opened.tab.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, name
        opened.check()
        opened.tab.close()


def test_index__is_sorted_and_searched(browser: Any, pages: Path) -> None:
    opened = Opened(browser, pages / "index.html")
    tab = opened.tab

    def names() -> list[str]:
        found = tab.locator("#table tbody tr:visible td:first-child").all_inner_texts()
        return [one.strip() for one in found]

    def column(i: int) -> list[float]:
        cells = tab.locator(f"#table tbody tr td:nth-child({i})")
        return [float(one.get_attribute("data-value")) for one in cells.all()]

    assert names() == ["sub-01", "sub-02"]
    tab.click("#table th button:text('Subject')")
    tab.click("#table th button:text('Subject')")
    assert names() == ["sub-02", "sub-01"]
    tab.locator("#table th button:text('peak z')").nth(1).click()
    assert column(5) == sorted(column(5))
    tab.click("#table th button:text('dof')")
    assert tab.get_attribute("#table th[aria-sort]", "aria-sort") == "ascending"
    tab.fill("#find", "02")
    assert names() == ["sub-02"]
    opened.check()
    with tab.expect_navigation():
        tab.click("#table tbody a:visible >> nth=0")
    assert tab.title() == "sub-02"
    tab.close()
