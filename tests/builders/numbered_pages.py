"""Pages of recordings whose every frame contains its own number, and whose only box stands where its number says."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.page_server import find_chromium
from cv_assets.normalized_video import content_columns, frame_rows
from resources.config.media_config import VideoSettings
from resources.config.settings import Settings
from resources.media.normalize import normalize
from resources.schema.recording_tables import FRAMES, RECORDING_CONTENTS, RECORDINGS
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.storage.delta_store import Store
from resources.storage.results_database import publish
from tests.builders.numbered_videos import write_numbered_video
from tests.builders.table_rows import content_row, header_row, sparse_rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SIZE_PX = (320, 240)
FRAME_COUNT = 120
BOX_PX = 24
_STEP_PX, _RANGE_PX = 7, 280  # the box of a frame is nowhere near that of the next


@dataclass(frozen=True)
class NumberedSource:
    """A kind of source.

    Attributes:
        options: Arguments of `write_numbered_video`.
        suffix: Container.
        when_conforming: The setting video.when_conforming.
        start_s: Time of the first frame.
        is_variable: Whether the times of the frames are irregular.
    """

    options: Mapping[str, Any]
    suffix: str = ".mp4"
    when_conforming: str = "remux"
    start_s: int = 0
    is_variable: bool = False


_B_FRAMES = {"preset": "veryfast", "bf": "3", "g": "50"}
SOURCES = {
    "constant": NumberedSource({"rate": 25}),
    "ntsc-b-frames": NumberedSource({"rate": Fraction(30000, 1001), "options": _B_FRAMES}),
    "variable": NumberedSource({"rate": 25}, suffix=".mkv", is_variable=True),
    "late-start": NumberedSource({"rate": 25}, suffix=".mkv", start_s=5),
    "late-start-reference": NumberedSource({"rate": 25, "options": _B_FRAMES}, when_conforming="reference", start_s=5),
    "rotated": NumberedSource({"rate": 25, "clockwise_deg": 90, "size": SIZE_PX[::-1]}),
}


def box_left_px(number: int) -> int:
    """Left edge of the box in the frame with a number."""
    return number * _STEP_PX % _RANGE_PX + 8


def store_numbered_recordings(folder: Path, names: list[str]) -> Settings:
    """Write, normalize and store one recording of each named kind of source, and publish the results.

    Args:
        folder: Folder for the recordings and the data.
        names: Keys of `SOURCES`, which become the ids of the recordings.
    """
    settings = Settings(watched_folder=folder / "recordings", data_folder=folder / "data")
    store = Store(settings.data_folder)
    headers: list[dict[str, Any]] = []
    contents: list[dict[str, Any]] = []
    frames: list[pa.Table] = []
    boxes: list[pa.Table] = []
    for name in names:
        source = SOURCES[name]
        path = settings.watched_folder / f"{name}{source.suffix}"
        rate = Fraction(source.options["rate"])
        times = [Fraction(number) / rate + source.start_s for number in range(FRAME_COUNT)]
        if source.is_variable:
            times = [time + Fraction(number % 3, 100) for number, time in enumerate(times)]
        write_numbered_video(path, times, **{"size": SIZE_PX, **source.options})
        output = settings.data_folder / "media" / f"{name}.mp4"
        output.parent.mkdir(parents=True, exist_ok=True)
        video = normalize(path, output, VideoSettings(when_conforming=source.when_conforming))  # type: ignore[arg-type]
        is_file = video.normalized_by != "reference"
        where = {
            "source_path": path.name, "size_bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns,
            "video_path": f"media/{name}.mp4" if is_file else str(path), "normalized_by": video.normalized_by,
        }  # fmt: skip
        header = {**header_row(name, datetime(2026, 3, 1, 8, len(headers), tzinfo=UTC)), **where}
        content = {
            **content_row(name),
            **content_columns(video, {**dict.fromkeys(RECORDINGS.arrow_schema.names), **header}),
            **where,
        }
        headers.append({key: value for key, value in header.items() if key in RECORDINGS.arrow_schema.names})
        contents.append({key: value for key, value in content.items() if key in RECORDING_CONTENTS.arrow_schema.names})
        frames.append(frame_rows(name, video))
        boxes.append(numbered_boxes(name, frames[-1]))
    store.replace(RECORDINGS, names, sparse_rows(RECORDINGS, *headers))
    store.replace(RECORDING_CONTENTS, names, sparse_rows(RECORDING_CONTENTS, *contents))
    store.replace(FRAMES, names, pa.concat_tables(frames))
    store.replace(TRACK_BOXES, names, pa.concat_tables(boxes))
    store.replace(TRACKS, names, pa.concat_tables([numbered_track(name) for name in names]))
    publish(store, settings)
    return settings


def numbered_boxes(recording_id: str, frames: pa.Table) -> pa.Table:
    """Build the boxes of a recording: one per frame, at the place of the number of its source frame."""
    left = np.array([box_left_px(number) for number in frames["source_frame_index"].to_pylist()], float)
    count = len(left)
    columns = {
        "recording_id": [recording_id] * count, "track_id": np.ones(count, np.int32),
        "frame_index": frames["frame_index"], "time_s": frames["time_s"], "detection_index": np.zeros(count, np.int32),
        "is_interpolated": [False] * count, "class_id": np.zeros(count, np.int32), "class_name": ["square"] * count,
        "confidence": np.full(count, 0.9), "x_min_px": left, "y_min_px": np.full(count, 200.0),
        "x_max_px": left + BOX_PX, "y_max_px": np.full(count, 200.0 + BOX_PX), "link_confidence": [None] * count,
    }  # fmt: skip
    return pa.table(columns, schema=TRACK_BOXES.arrow_schema)


def numbered_track(recording_id: str) -> pa.Table:
    """Build the track of the box."""
    numbers = ("mean_confidence", "path_px", "mean_speed_px_s", "first_x_px", "first_y_px", "last_x_px", "last_y_px")
    row: dict[str, Any] = {"recording_id": recording_id, "track_id": 1, "class_id": 0, "class_name": "square"}
    row |= {"start_s": 0.0, "end_s": 4.8, "duration_s": 4.8, "box_count": FRAME_COUNT}
    row |= {"first_frame_index": 0, "last_frame_index": FRAME_COUNT - 1}
    return sparse_rows(TRACKS, {**row, **dict.fromkeys(numbers, 0.5)})


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Start Chromium; skips the test where it or playwright is not installed."""
    program = find_chromium()
    if program is None:
        pytest.skip("Chromium is not installed: install the package chromium of the system to run this test.")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: install the extra dev")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
