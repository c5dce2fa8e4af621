"""crops: one row per kept picture of a track (recording_id, track_id, rank), the JPEG in the row."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from dagster import AssetExecutionContext, ResourceParam, multi_asset

from cv_assets.partitions import recordings_partitions
from cv_assets.stage import (
    ANALYSIS,
    Metadata,
    Stage,
    backfill_policy,
    count_metadata,
    sheet_metadata,
    table_asset,
    table_checks,
    video_of,
)
from resources.arrow_sql import select
from resources.errors import RecordingError
from resources.media.normalizing import Progress
from resources.media.reading import read_frames
from resources.pictures import contact_sheet, readable, shrunk
from resources.schema import CROPS, RECORDINGS, TRACK_BOXES, TRACKS
from resources.settings import CropSettings, Settings, current_settings, settings_version
from resources.storage import Store

STAGE = Stage("crops", (CROPS,))
_SHEET_CROPS, _SHEET_COLUMNS, _CELL_WIDTH_PX, _CELL_HEIGHT_PX = 24, 8, 84, 84

_CHOOSE_SQL = """
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


def choose_crops(boxes: pa.Table, width_px: int, height_px: int, settings: CropSettings) -> pa.Table:
    """Choose the pictures of each track: the track's time is cut into equal parts, and each gives its best box.

    The best box is large, sure, and not cut off by the edge of the picture.

    Args:
        boxes: Rows of `track_boxes` of one recording.
        width_px: Width of the normalized video.
        height_px: Height of the normalized video.
        settings: How many, and how small a box may be.

    Returns:
        The chosen rows with a column rank, 1 for the best of its track, ordered by frame_index.
    """
    values = {
        "width": width_px,
        "height": height_px,
        "per_track": settings.per_track,
        "min_side": settings.min_side_px,
    }
    return select(_CHOOSE_SQL, {"boxes": boxes}, values)


def cut_out(picture: np.ndarray, xyxy: np.ndarray, padding: float) -> np.ndarray:
    """The part of a picture inside a box and its margin.

    Args:
        picture: Array of shape (height_px, width_px, 3).
        xyxy: Corners in pixels, shape (4,).
        padding: Margin on each side, as a share of the box's size.

    Returns:
        A view of shape (crop_height_px, crop_width_px, 3), at least 1 by 1, clipped to the picture.
    """
    height_px, width_px = picture.shape[:2]
    margin = (xyxy[2:] - xyxy[:2]) * padding
    left, top = np.floor(xyxy[:2] - margin).astype(int)
    right, bottom = np.ceil(xyxy[2:] + margin).astype(int)
    left, top = min(max(left, 0), width_px - 1), min(max(top, 0), height_px - 1)
    return picture[top : max(top + 1, min(bottom, height_px)), left : max(left + 1, min(right, width_px))]


def crop_recording(recording_id: str, store: Store, settings: Settings, progress: Progress) -> dict[str, Metadata]:
    """Cut the pictures of one recording's tracks out of its normalized video and store them.

    Raises:
        RecordingError: The recording has no normalized video yet.
    """
    import cv2

    row = next(iter(store.read(RECORDINGS, [recording_id]).to_pylist()), None)
    video = video_of(row, store.data_folder)
    assert row is not None
    boxes = store.read(TRACK_BOXES, [recording_id])
    chosen = choose_crops(boxes, row["width_px"], row["height_px"], settings.crops).to_pylist()
    by_frame: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for crop in chosen:
        by_frame[crop["frame_index"]].append(crop)
    wanted = sorted(by_frame)
    on_sheet = set(sorted({crop["track_id"] for crop in chosen})[:_SHEET_CROPS])
    best: dict[int, tuple[np.ndarray, str]] = {}
    rows: list[dict[str, Any]] = []
    quality = [cv2.IMWRITE_JPEG_QUALITY, settings.crops.jpeg_quality]
    for frame_index, picture in read_frames(video, wanted=wanted) if wanted else ():
        for crop in by_frame.pop(frame_index):
            xyxy = np.array([crop[f"{edge}_px"] for edge in ("x_min", "y_min", "x_max", "y_max")])
            cut = cut_out(picture, xyxy, settings.crops.padding)
            is_written, encoded = cv2.imencode(".jpg", cut, quality)
            if not is_written:
                raise RecordingError(f"The crop of track {crop['track_id']} in frame {frame_index} cannot be encoded.")
            size = {"crop_width_px": cut.shape[1], "crop_height_px": cut.shape[0]}
            rows.append({**crop, **size, "jpeg": encoded.tobytes()})
            if crop["rank"] == 1 and (track_id := crop["track_id"]) in on_sheet:
                name = readable(crop["class_name"], f"class {crop['class_id']}")
                best[track_id] = shrunk(cut), f"{track_id} {name}"
        progress(len(wanted) - len(by_frame), len(wanted))
    if by_frame:
        raise RecordingError(
            f"Its normalized video lacks frames that have boxes ({min(by_frame)} is the first): "
            "materialize normalized_video again."
        )
    names = set(CROPS.arrow_schema.names)
    kept = [{name: value for name, value in crop.items() if name in names} for crop in rows]
    store.replace(CROPS, [recording_id], pa.Table.from_pylist(kept, schema=CROPS.arrow_schema))
    told: dict[str, Any] = {"bytes": sum(len(crop["jpeg"]) for crop in kept)}
    if best:
        cells = [best[track_id] for track_id in sorted(best)]
        sheet = contact_sheet(cells, _SHEET_COLUMNS, _CELL_WIDTH_PX, _CELL_HEIGHT_PX)
        told["contact_sheet"] = sheet_metadata(sheet, f"the best pictures of the first {len(cells)} tracks")
    return {CROPS.name: count_metadata(len(kept), tracks_with_crops=len({c["track_id"] for c in kept}), **told)}


@multi_asset(
    specs=[
        table_asset(
            CROPS,
            group=ANALYSIS,
            code_version=settings_version("crops 2", current_settings().crops),
            deps=["normalized_video", TRACKS.name, TRACK_BOXES.name],
            kinds=("opencv",),
        )
    ],
    check_specs=table_checks(CROPS),
    partitions_def=recordings_partitions,
    backfill_policy=backfill_policy(),
)
def crops(
    context: AssetExecutionContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> Iterator[Any]:
    """Cut out the best pictures of each track."""
    yield from STAGE.each_recording(context, store, lambda r, told: crop_recording(r, store, settings, told))
