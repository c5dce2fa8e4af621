"""crops: one row per crop of a track (recording_id, track_id, rank), with the JPEG in the row.

Crops are cut from the normalized video at the best boxes of each track.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cv_assets.media_status import find_normalized_video, read_normalized_row
from cv_assets.stage_asset import ANALYSIS, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, count_metadata, sheet_metadata
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.config.tracking_config import CropSettings
from resources.errors import RecordingError
from resources.media.frame_reader import read_images
from resources.media.progress import ReportProgress
from resources.previews.annotated_frames import drawable_name, shrink_to_preview
from resources.previews.contact_sheet import contact_sheet
from resources.schema.track_tables import CROPS, TRACK_BOXES, TRACKS
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store

_SHEET_CROPS, _SHEET_COLUMNS, _CELL_WIDTH_PX, _CELL_HEIGHT_PX = 24, 8, 84, 84

# The best box is large, confident and not cut off by the edge of the frame.
_BEST_BOXES_SQL = """
WITH sized AS (
    SELECT *, x_max_px - x_min_px AS w, y_max_px - y_min_px AS h,
        x_min_px <= 1 OR y_min_px <= 1 OR x_max_px >= $width - 1 OR y_max_px >= $height - 1 AS is_cut,
        ntile($per_track) OVER (PARTITION BY track_id ORDER BY frame_index) AS part
    FROM boxes WHERE NOT is_interpolated
),
scored AS (
    SELECT *, sqrt(w * h) * confidence * (CASE WHEN is_cut THEN 0.5 ELSE 1 END) AS score
    FROM sized WHERE w >= $min_side AND h >= $min_side
),
best AS (
    SELECT * FROM scored
    QUALIFY row_number() OVER (PARTITION BY track_id, part ORDER BY score DESC, frame_index) = 1
)
SELECT * EXCLUDE (w, h, is_cut, part, score),
    row_number() OVER (PARTITION BY track_id ORDER BY score DESC, frame_index)::INTEGER AS rank
FROM best ORDER BY frame_index, track_id
"""


def select_crops(boxes: pa.Table, width_px: int, height_px: int, settings: CropSettings) -> pa.Table:
    """Select the boxes to crop: the best box of each of `per_track` equal parts of a track.

    Args:
        boxes: Rows of `track_boxes` of one recording.
        width_px: Width of the normalized video.
        height_px: Height of the normalized video.
        settings: Number of crops per track and the smallest side of a box.

    Returns:
        The selected rows with a column rank, 1 for the best of its track, ordered by frame_index.
    """
    values = {
        "width": width_px,
        "height": height_px,
        "per_track": settings.per_track,
        "min_side": settings.min_side_px,
    }
    return select(_BEST_BOXES_SQL, {"boxes": boxes}, values)


def crop_image(image: np.ndarray, xyxy: np.ndarray, padding: float) -> np.ndarray:
    """Crop an image to a box and its margin.

    Args:
        image: Array of shape (height_px, width_px, 3).
        xyxy: Corners in pixels, shape (4,).
        padding: Margin on each side, as a share of the box's size.

    Returns:
        A view of shape (crop_height_px, crop_width_px, 3), at least 1 by 1, clipped to the image.
    """
    height_px, width_px = image.shape[:2]
    margin = (xyxy[2:] - xyxy[:2]) * padding
    left, top = np.floor(xyxy[:2] - margin).astype(int)
    right, bottom = np.ceil(xyxy[2:] + margin).astype(int)
    left, top = min(max(left, 0), width_px - 1), min(max(top, 0), height_px - 1)
    return image[top : max(top + 1, min(bottom, height_px)), left : max(left + 1, min(right, width_px))]


@dataclass(frozen=True)
class _Crop:
    """One encoded crop.

    Attributes:
        row: Its row of `crops`, with further columns of its box.
        image: uint8 BGR array of shape (crop_height_px, crop_width_px, 3).
    """

    row: Mapping[str, Any]
    image: np.ndarray


def _encode_crops(
    video: Path,
    rate_fps: Fraction,
    boxes: Sequence[Mapping[str, Any]],
    settings: CropSettings,
    progress: ReportProgress,
) -> Iterator[_Crop]:
    """Decode the frames of some boxes and encode their crops as JPEG, in the order of the frames.

    Raises:
        RecordingError: The video lacks a frame that has a box, or a crop cannot be encoded.
    """
    import cv2

    boxes_by_frame: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for box in boxes:
        boxes_by_frame[box["frame_index"]].append(box)
    frame_indices = sorted(boxes_by_frame)
    quality = [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality]
    images = read_images(video, frame_indices, rate_fps)
    for frame_index, frame in zip(frame_indices, images, strict=False):  # the video may end early
        for box in boxes_by_frame.pop(frame_index):
            xyxy = np.array([box[f"{edge}_px"] for edge in ("x_min", "y_min", "x_max", "y_max")])
            image = crop_image(frame, xyxy, settings.padding)
            is_encoded, jpeg = cv2.imencode(".jpg", image, quality)
            if not is_encoded:
                raise RecordingError(f"The crop of track {box['track_id']} in frame {frame_index} cannot be encoded.")
            size = {"crop_width_px": image.shape[1], "crop_height_px": image.shape[0]}
            yield _Crop({**box, **size, "jpeg": jpeg.tobytes()}, image)
        progress(len(frame_indices) - len(boxes_by_frame), len(frame_indices))
    if boxes_by_frame:
        raise RecordingError(
            f"The normalized video lacks frames that have boxes (first: frame {min(boxes_by_frame)}): "
            "materialize normalized_video again."
        )


def crop_recording(
    recording_id: str, store: Store, settings: Settings, progress: ReportProgress
) -> dict[str, Metadata]:
    """Cut the crops of one recording's tracks from its normalized video and store them.

    Raises:
        RecordingError: The recording has no normalized video, or the video does not match the boxes.
    """
    row = read_normalized_row(recording_id, store)
    video = find_normalized_video(row, store.data_folder)
    track_boxes = store.read(TRACK_BOXES, [recording_id])
    boxes = select_crops(track_boxes, row["width_px"], row["height_px"], settings.crops).to_pylist()
    sheet_tracks = set(sorted({box["track_id"] for box in boxes})[:_SHEET_CROPS])
    cells: dict[int, tuple[np.ndarray, str]] = {}
    rows: list[dict[str, Any]] = []
    rate_fps = Fraction(row["rate_fps_num"], row["rate_fps_den"])
    with video.reading() as path:
        for crop in _encode_crops(path, rate_fps, boxes, settings.crops, progress):
            rows.append({name: crop.row[name] for name in CROPS.arrow_schema.names if name in crop.row})
            track_id = crop.row["track_id"]
            if crop.row["rank"] == 1 and track_id in sheet_tracks:
                name = drawable_name(crop.row["class_name"], f"class {crop.row['class_id']}")
                cells[track_id] = shrink_to_preview(crop.image), f"{track_id} {name}"
    store.replace(CROPS, [recording_id], pa.Table.from_pylist(rows, schema=CROPS.arrow_schema))
    tracks_with_crops = len({row["track_id"] for row in rows})
    metadata: dict[str, Any] = {"jpeg_bytes": sum(len(row["jpeg"]) for row in rows)}
    if cells:
        sheet = contact_sheet([cells[key] for key in sorted(cells)], _SHEET_COLUMNS, _CELL_WIDTH_PX, _CELL_HEIGHT_PX)
        caption = f"{len(cells)} of {tracks_with_crops} tracks with crops: the best crop of each"
        metadata["contact_sheet"] = sheet_metadata(sheet, caption)
    return {CROPS.name: count_metadata(len(rows), tracks_with_crops=tracks_with_crops, **metadata)}


@stage_asset(
    group=ANALYSIS,
    tables=(CROPS,),
    deps=("normalized_video", TRACKS.name, TRACK_BOXES.name),
    version=lambda settings: StageVersion.build("crops 2", {"crops": settings.crops}),
    kinds=("opencv",),
)
def crops(recording_id: str, run: StageRun, progress: ReportProgress) -> Mapping[str, Metadata]:
    """Crop each track at its best boxes."""
    return crop_recording(recording_id, run.store, run.settings, progress)
