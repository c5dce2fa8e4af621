"""The button Clip of a recording's page in Chromium: downloads of a range, a track and an event's moment."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av
import pytest

from benchmarks.page_server import serving
from tests.builders.numbered_pages import chromium, store_numbered_recordings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(store_numbered_recordings(tmp_path_factory.mktemp("pages"), ["constant"])) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as browser:
        yield browser


def test_a_range_and_a_track_are_downloaded_as_clips(browser: "Browser", address: str, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 1400})
    page.goto(f"{address}/recordings/constant")
    page.wait_for_selector("#crops li")
    box = page.locator(".timeline-lanes").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 10, steps=4)
    page.mouse.up()
    durations_s = []
    for click in ("#clip-range", "#selected button:has-text('Clip')"):
        if click != "#clip-range":
            page.locator("#crops button").first.click()
            page.wait_for_selector("#selected:not([hidden])")
        with page.expect_download(timeout=60_000) as download:
            page.click(click)
        download.value.save_as(tmp_path / "clip.mp4")
        assert download.value.suggested_filename.startswith("constant-")
        with av.open(str(tmp_path / "clip.mp4")) as container:
            durations_s.append(sum(1 for _ in container.decode(video=0)) / 25)
    assert durations_s[0] == pytest.approx(4.8 * 200 / box["width"], abs=0.2)
    assert durations_s[1] == pytest.approx(4.8, abs=0.1)
    page.close()
