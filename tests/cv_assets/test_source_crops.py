"""Crops that are cut from the recording's file at full resolution."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from cv_assets.asset_graph import AssetGraph
from cv_assets.crop_reading import box_columns, cut_box
from cv_assets.crop_selection import Crop
from cv_assets.crops import crop_recording
from cv_assets.normalized_video import content_columns, frame_rows
from resources.config.media_config import VideoSettings
from resources.config.settings import Settings
from resources.config.tracking_config import CropSettings
from resources.errors import RecordingError
from resources.media.normalize import normalize
from resources.schema.recording_tables import FRAMES, RECORDING_CONTENTS, RECORDINGS
from resources.schema.track_tables import CROPS, TRACK_BOXES
from resources.storage.delta_store import Store
from tests.builders.numbered_videos import read_number, write_numbered_video
from tests.builders.table_rows import content_row, header_row, sparse_rows

FRAME_COUNT = 60
SIZE_PX, HEIGHT_PX = (480, 360), 120


def store_recording(folder: Path) -> tuple[Store, Settings, Path]:
    """Write and normalize a recording of a variable rate with B-frames and a gap, whose boxes are whole frames."""
    settings = Settings(
        watched_folder=folder / "recordings",
        data_folder=folder / "data",
        video=VideoSettings(max_height_px=HEIGHT_PX),
        crops=CropSettings(cut_from="source"),
    )
    times = [Fraction(number + 10 * (number > 30), 25) + Fraction(number % 3, 100) for number in range(FRAME_COUNT)]
    options = {"preset": "veryfast", "bf": "3", "g": "20"}
    path = write_numbered_video(settings.watched_folder / "a.mkv", times, rate=25, size=SIZE_PX, options=options)
    video_path = settings.data_folder / "media" / "a.mp4"
    video_path.parent.mkdir(parents=True)
    video = normalize(path, video_path, settings.video)
    assert any(video.frames.is_duplicated)
    state = path.stat()
    header = {"source_path": "a.mkv", "size_bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
    header = {**dict.fromkeys(RECORDINGS.arrow_schema.names), **header_row("a"), **header}
    content = {**content_row("a"), **content_columns(video, header), "video_path": "media/a.mp4"}
    frames = frame_rows("a", video)
    count = len(frames)
    box = (0.0, 0.0, float(video.width_px), float(video.height_px))
    edges = dict(zip(("x_min_px", "y_min_px", "x_max_px", "y_max_px"), ([edge] * count for edge in box), strict=True))
    boxes = {
        "recording_id": ["a"] * count, "track_id": 1 + np.arange(count) // 13, "frame_index": frames["frame_index"],
        "time_s": frames["time_s"], "detection_index": np.zeros(count, np.int32), "is_interpolated": [False] * count,
        "class_id": np.zeros(count, np.int32), "class_name": ["square"] * count, "confidence": np.full(count, 0.9),
        **edges, "link_confidence": [None] * count,
    }  # fmt: skip
    store = Store(settings.data_folder)
    store.replace(RECORDINGS, ["a"], sparse_rows(RECORDINGS, header))
    store.replace(RECORDING_CONTENTS, ["a"], sparse_rows(RECORDING_CONTENTS, content))
    store.replace(FRAMES, ["a"], frames)
    store.replace(TRACK_BOXES, ["a"], pa.table(boxes).cast(TRACK_BOXES.arrow_schema))
    return store, settings, path


def read_crops(store: Store) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = store.read(CROPS, ["a"]).to_pylist()
    return rows


def test_crops_show_their_frame_at_full_resolution(tmp_path: Path) -> None:
    store, settings, path = store_recording(tmp_path)
    crop_recording("a", store, settings, lambda *_: None)
    rows = read_crops(store)
    frames = store.read(FRAMES, ["a"]).to_pylist()
    images = [np.asarray(cv2.imdecode(np.frombuffer(row["jpeg"], np.uint8), cv2.IMREAD_COLOR)) for row in rows]
    assert len(rows) >= 12
    assert {image.shape[1::-1] for image in images} == {SIZE_PX}
    assert [read_number(image) for image in images] == [
        frames[row["frame_index"]]["source_frame_index"] for row in rows
    ]
    assert {row["crop_scale"] for row in rows} == {3.0}

    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(
        RecordingError, match=r"^a\.mkv: the file does not have the content of the recording a any more"
    ):
        crop_recording("a", store, settings, lambda *_: None)
    path.unlink()
    with pytest.raises(RecordingError, match=r"^a\.mkv: the file of the recording a is missing: put it back"):
        crop_recording("a", store, settings, lambda *_: None)
    assert read_crops(store) == rows


def test_boxes_in_larger_crops_are_in_pixels_of_the_normalized_video() -> None:
    row = {"x_min_px": 40.0, "y_min_px": 20.0, "x_max_px": 60.0, "y_max_px": 60.0, "crop_scale": 3.0}
    image = np.zeros((180, 90, 3), np.uint8)  # with a margin of 25 %: from (35, 10) to (65, 70), three times as large
    image[30:150, 15:75] = 255
    assert cut_box(Crop(row, image), 0.25).shape == (120, 60, 3)
    assert cut_box(Crop(row, image), 0.25).min() == 255
    columns = box_columns([15, 30, 75, 150], row, 0.25)
    assert columns == {name: row[name] for name in ("x_min_px", "y_min_px", "x_max_px", "y_max_px")}


def test_crops_from_the_file_are_not_recomputed_as_if_they_were_cheap() -> None:
    graph = AssetGraph.build(Settings(crops=CropSettings(cut_from="source")))
    assert "crops" in graph.assets_that_read_files & graph.costly_assets
    assert "crops" not in AssetGraph.build(Settings()).costly_assets
