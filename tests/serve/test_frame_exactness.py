"""The picture on the canvas and the box over it belong to the same frame: read from the pixels, in Chromium."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.page_server import serving
from tests.builders.numbered_pages import (
    BOX_PX,
    FRAME_COUNT,
    SIZE_PX,
    SOURCES,
    box_left_px,
    chromium,
    store_numbered_recordings,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow
_MAX_OFFSET_PX = 2

# Reads the number in the picture, and where the box is, in pixels of the video; also the frame that the page shows.
_READER = """
(() => {
  const canvas = document.getElementById("canvas");
  const copy = document.createElement("canvas"), context = copy.getContext("2d", { willReadFrequently: true });
  window.readCanvas = () => {
    const { width, height } = canvas, scale = width / VIDEO_WIDTH;
    if (copy.width !== width || copy.height !== height) Object.assign(copy, { width, height });
    context.drawImage(canvas, 0, 0);
    const pixels = context.getImageData(0, 0, width, height).data;
    const at = (x, y) => 4 * (Math.round(y) * width + Math.round(x));
    let number = 0;
    for (let bit = 0; bit < 16; bit++) {
      const block = width / 8, row = bit >> 3, column = bit & 7;
      number = number * 2 + (pixels[at((column + 0.5) * block, height / 2 + (row - 0.5) * block) + 1] > 128 ? 1 : 0);
    }
    let left = -1, right = -1;
    const y = (200 + BOX_SIZE / 2) * scale;
    for (let x = 0; x < width; x++) {
      const i = at(x, y);
      if (pixels[i] < 110 && pixels[i + 1] > 150 && pixels[i + 2] > 200) { if (left < 0) left = x; right = x; }
    }
    const edges = { left: left < 0 ? null : (left + 1) / scale, right: right / scale };
    return { number, ...edges, frame: Number(canvas.dataset.frame) };
  };
  const { overlay, player } = window.cvAssets;
  Object.assign(overlay.layers, { labels: false, trails: false, zones: false });
  player.redraw();
})();
""".replace("VIDEO_WIDTH", str(SIZE_PX[0])).replace("BOX_SIZE", str(BOX_PX))

# Seeks, and waits until the frame that was asked for is on the canvas.
_SEEK = """
async ([action, value]) => {
  const { player } = window.cvAssets;
  if (action === "step") player.step(value); else player.seek(value);
  const target = player.target, end = performance.now() + 5000;
  const isThere = () => player.frame === target && !player.video.seeking;
  while (!isThere() && performance.now() < end) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return { ...readCanvas(), target };
}
"""
_PLAY = """
async ([rate, seconds]) => {
  const { player } = window.cvAssets, reads = [];
  const read = () => reads.push(readCanvas());
  player.seek(0);
  await new Promise((resolve) => setTimeout(resolve, 300));
  player.setRate(rate);
  player.addEventListener("frame", read);
  await player.video.play();
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  player.video.pause();
  player.removeEventListener("frame", read);
  return reads;
}
"""


@pytest.fixture(scope="module")
def page_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("numbered")
    with serving(store_numbered_recordings(folder, list(SOURCES))) as address:
        yield address


@pytest.fixture(scope="module")
def page() -> Iterator["Page"]:
    with chromium() as browser:
        yield browser.new_page(viewport={"width": 1000, "height": 800})


def open_recording(page: "Page", address: str) -> None:
    page.goto(address)
    wait_until(page, "window.cvAssets && cvAssets.player.frame >= 0 && !cvAssets.overlay.isLoading")
    page.evaluate(_READER)


def wait_until(page: "Page", condition: str) -> None:
    """Wait until a condition holds; `wait_for_function` of playwright is not allowed by the pages' own policy."""
    loop = f"""async () => {{
        const end = performance.now() + 10000;
        while (!({condition})) {{
            if (performance.now() > end) return false;
            await new Promise(requestAnimationFrame);
        }}
        return true;
    }}"""
    assert page.evaluate(loop), condition


def has_right_box(read: dict[str, Any]) -> bool:
    """Whether the box is where the number in the picture says, within 2 px."""
    expected_px = box_left_px(read["number"])
    is_left_right = read["left"] is not None and abs(read["left"] - expected_px) <= _MAX_OFFSET_PX
    return is_left_right and abs(read["right"] - expected_px - BOX_PX) <= _MAX_OFFSET_PX


def count_mismatches(page: "Page", checks: int, seed: int) -> list[dict[str, Any]]:
    """Step and scrub at random, and list the reads whose picture, box or frame is not the one asked for."""
    chance, mismatches = random.Random(seed), []
    for _ in range(checks):
        is_step = chance.random() < 0.5
        action = ["step", chance.choice((-2, -1, 1, 1, 2))] if is_step else ["seek", chance.randrange(FRAME_COUNT)]
        read = page.evaluate(_SEEK, action)
        if not has_right_box(read) or read["frame"] != read["target"]:
            mismatches.append(read)
    return mismatches


@pytest.mark.parametrize("source", SOURCES)
def test_a_paused_picture_and_its_box_belong_to_the_same_frame(page: "Page", page_address: str, source: str) -> None:
    open_recording(page, f"{page_address}/recordings/{source}")
    assert count_mismatches(page, 10, seed=1) == []


@pytest.mark.long
@pytest.mark.parametrize("source", SOURCES)
def test_a_thousand_paused_pictures_have_their_boxes(page: "Page", page_address: str, source: str) -> None:
    open_recording(page, f"{page_address}/recordings/{source}")
    assert count_mismatches(page, -(-1000 // len(SOURCES)), seed=2) == []


@pytest.mark.long
@pytest.mark.parametrize("rate", [0.25, 0.5, 1, 2, 4])
@pytest.mark.parametrize("source", SOURCES)
def test_a_playing_picture_and_its_box_are_at_most_a_frame_apart(
    page: "Page", page_address: str, source: str, rate: float
) -> None:
    open_recording(page, f"{page_address}/recordings/{source}")
    reads = page.evaluate(_PLAY, [rate, 1.0])
    assert reads
    neighbours = [[{**read, "number": read["number"] + step} for step in (-1, 0, 1)] for read in reads]
    assert [read for read, near in zip(reads, neighbours, strict=True) if not any(map(has_right_box, near))] == []


def test_a_browser_without_frame_callbacks_shows_boxes_only_when_paused(page: "Page", page_address: str) -> None:
    open_recording(page, f"{page_address}/recordings/constant?no-rvfc")
    assert count_mismatches(page, 5, seed=3) == []
    page.evaluate("cvAssets.player.video.play()")
    wait_until(page, "cvAssets.player.frame < 0")
    assert page.evaluate("readCanvas().left") is None
    assert page.text_content("#wait") == "Boxes appear when paused: this browser cannot tell which frame it shows."
