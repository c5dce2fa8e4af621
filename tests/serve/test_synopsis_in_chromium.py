"""A click on an object of a synopsis opens its moment, in Chromium."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.page_server import serving
from resources.clips.clip_writer import encode_frames
from resources.clips.synopsis_file import synopsis_file
from tests.builders.numbered_pages import SIZE_PX, chromium, store_numbered_recordings

pytestmark = pytest.mark.long
FRAMES = 50
BOX = [40.0, 60.0, 120.0, 160.0]


def write_synopsis_files(data_folder: Path) -> None:
    """Write a grey synopsis in which an object stands at one place in all frames, from second 1 of the recording on."""
    file = synopsis_file(data_folder, "constant")
    file.parent.mkdir(parents=True)
    image = np.full((SIZE_PX[1], SIZE_PX[0], 3), 128, np.uint8)
    grey = (av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p") for _ in range(FRAMES))
    encode_frames(grey, Fraction(25), file)
    item = {"recording_id": "constant", "track_id": 1, "class_name": "square", "start_frame": 0, "label": "08:00:01"}
    item |= {"times_s": [1 + frame / 25 for frame in range(FRAMES)], "boxes": [BOX] * FRAMES}
    size = {"width_px": SIZE_PX[0], "height_px": SIZE_PX[1], "rate_fps": 25.0, "frame_count": FRAMES}
    file.with_suffix(".json").write_text(json.dumps({**size, "objects": [item]}))


def test_a_click_on_an_object_opens_its_moment(tmp_path: Path) -> None:
    settings = store_numbered_recordings(tmp_path, ["constant"])
    write_synopsis_files(settings.data_folder)
    with serving(settings) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{address}/recordings/constant")
        page.click("text=Synopsis")
        page.evaluate("""() => new Promise((done) => {
            const video = document.getElementById("video");
            if (video.readyState >= 2) done();
            else video.addEventListener("loadeddata", done, { once: true });
        })""")
        page.click("#play")  # pauses
        page.evaluate("""() => new Promise((done) => {
            const position = document.getElementById("position");
            document.getElementById("video").addEventListener("seeked", () => setTimeout(done, 200), { once: true });
            position.value = 20;
            position.dispatchEvent(new Event("input"));
        })""")
        canvas = page.locator("#canvas").bounding_box()
        assert canvas is not None
        assert canvas["width"] / canvas["height"] == pytest.approx(SIZE_PX[0] / SIZE_PX[1], abs=0.02)
        zoom = canvas["width"] / SIZE_PX[0]
        page.mouse.click(canvas["x"] + 200 * zoom, canvas["y"] + 200 * zoom)  # nothing is there
        assert page.url.endswith("/synopsis")
        page.mouse.click(canvas["x"] + 80 * zoom, canvas["y"] + 100 * zoom)
        page.wait_for_url("**/recordings/constant?t=1.800&track=1")
        assert problems == []
