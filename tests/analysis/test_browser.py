"""The report in a real browser, in both themes: no error, every figure drawn, tables sort. Screenshots are kept."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ("analysis_fixtures",)

ARTEFACTS = Path(__file__).parents[2] / "build" / "report_screenshots"  # not in the repository
OFFLINE = ("file:", "data:", "blob:")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser on this machine: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    """The page in a theme that the system prefers, offline; whatever went wrong in it is told at the end."""
    context = browser.new_context(color_scheme=request.param, viewport={"width": 1200, "height": 900}, offline=True)
    found = context.new_page()
    wrong: list[str] = []
    found.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("request", lambda asked: wrong.extend([asked.url] * (not asked.url.startswith(OFFLINE))))
    found.goto((report / "report.html").as_uri())
    found.theme = request.param
    yield found
    context.close()
    assert not wrong


def test_every_figure_is_drawn_in_the_colours_of_the_theme(page: Any) -> None:
    figures = page.locator("figure")
    assert figures.count() > 15
    for index in range(figures.count()):
        svg = figures.nth(index).locator("svg")
        box = svg.bounding_box()
        assert box["width"] > 600 and box["height"] > 100 and svg.locator("path").count() > 5
    ink = page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = [sum(map(int, colour[4:-1].split(","))) / 3 for colour in (ink, paper)]
    assert (brightness[0] > 130 > brightness[1]) == (page.theme == "dark") != (brightness[0] < 130 < brightness[1])
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"report-{page.theme}.png", full_page=True)
    assert (ARTEFACTS / f"report-{page.theme}.png").stat().st_size > 100_000


def test_the_switch_overrules_the_system(page: Any) -> None:
    def paper() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    switch = page.locator("#theme")
    seen = {"auto": paper()}
    for name in ("light", "dark"):
        switch.click()
        assert switch.text_content() == f"theme: {name}"
        seen[name] = paper()
    assert seen["light"] != seen["dark"] and seen["auto"] == seen[page.theme]
    page.reload()
    assert paper() == seen["dark"], "remembered"


def test_tables_sort_by_number_and_by_text_and_are_saved(page: Any) -> None:
    def column(index: int) -> list[str]:
        return list(page.locator(f"#links tbody td:nth-child({index})").all_text_contents())

    heads = page.locator("#links th button")
    before = column(3)
    heads.nth(2).click()
    rising = [float(text) for text in column(3)]
    assert rising == sorted(rising) and page.locator("#links th").nth(2).get_attribute("aria-sort") == "ascending"
    heads.nth(2).click()
    assert [float(text) for text in column(3)] == rising[::-1]
    assert sorted(before) == sorted(column(3))
    heads.nth(1).click()
    assert column(2) == sorted(column(2)) and page.locator("#links th[aria-sort]").count() == 1
    with page.expect_download() as download:
        page.locator('button[data-table="links"]').click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith('"run","link","wire MB"') and len(lines) == 1 + len(before)
