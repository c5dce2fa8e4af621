"""Every page in Chromium, at desktop and phone size: no error, no other host, nothing wider than the screen."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from benchmarks.page_server import serving
from tests.builders.numbered_pages import SIZE_PX, chromium, store_numbered_recordings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.long
PATHS = ("/", "/recordings/constant", "/cameras", "/cameras/gate", "/search", "/queue", "/recordings/nothing")
_FAILING_REQUESTS = (
    "/queue",
    "/recordings/nothing",
    "/api/recordings/constant/events",
    "/api/recordings/constant/preview",
)
SIZES = [pytest.param(1440, 900, id="desktop"), pytest.param(390, 844, id="phone")]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(store_numbered_recordings(tmp_path_factory.mktemp("pages"), ["constant"])) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize(("width_px", "height_px"), SIZES)
@pytest.mark.parametrize("path", PATHS)
def test_a_page_has_no_errors(browser: "Browser", address: str, path: str, width_px: int, height_px: int) -> None:
    page = browser.new_page(viewport={"width": width_px, "height": height_px})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda request: problems.append(request.url) if not _is_own(request.url, address) else None)
    failed: list[str] = []
    page.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
    page.goto(address + path)
    page.wait_for_timeout(800)
    # This data folder has no Dagster home, so nothing about the queue or a run in progress can be read.
    assert set(failed) <= {f"{address}{name}" for name in _FAILING_REQUESTS}
    # Chromium reports them in the console, too.
    problems = [problem for problem in problems if not (failed and "Failed to load resource" in problem)]
    assert problems == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


def test_a_drawn_line_shows_its_counts_and_events(browser: "Browser", address: str) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{address}/recordings/constant")
    page.wait_for_selector("#classes button")
    page.click("#tab-draw")
    page.click("#draw-line")
    canvas = page.locator("#canvas").bounding_box()
    assert canvas is not None
    # Clicks would miss their place if the picture did not fill the canvas.
    assert canvas["width"] / canvas["height"] == pytest.approx(SIZE_PX[0] / SIZE_PX[1], abs=0.01)
    for share in (0.98, 0.02):
        page.mouse.click(canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] * share)
    page.wait_for_selector("#answer table")
    assert sorted(page.locator("#answer thead th").all_inner_texts()) == ["Class", "line 1: in", "line 1: out"]
    page.locator("#answer .moments button").first.click()
    page.wait_for_selector("#selected:not([hidden])")
    page.close()


def test_a_drag_on_the_timeline_chooses_a_range(browser: "Browser", address: str) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 1400})
    page.goto(f"{address}/recordings/constant")
    page.wait_for_selector("#crops li")
    lanes = page.locator(".timeline-lanes")
    box = lanes.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 10, steps=4)
    page.mouse.up()
    page.wait_for_selector("#range:not([hidden])")
    page.wait_for_selector("text=1 object in the chosen range")
    page.click("#clear-range")
    page.wait_for_selector("#range", state="hidden")
    page.close()


def _is_own(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))
