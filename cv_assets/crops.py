"""crops: one row per crop of a track (recording_id, track_id, rank), with the JPEG in the row.

Crops are cut at the best moments of each track, which the normalized video shows: from that video or, by setting, from
the recording's file.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cv_assets.crop_selection import BestCrops, Crop, rank_crops, select_candidates
from cv_assets.media_status import find_normalized_video, read_normalized_row
from cv_assets.source_crops import cut_from_source
from cv_assets.stage_asset import ANALYSIS, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, count_metadata, sheet_metadata
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.config.tracking_config import CropSettings
from resources.errors import RecordingError
from resources.media.frame_reader import read_distant_images
from resources.media.progress import ReportProgress
from resources.previews.annotated_frames import drawable_name, shrink_to_preview
from resources.previews.contact_sheet import contact_sheet
from resources.schema.track_tables import CROPS, TRACK_BOXES, TRACKS
from resources.storage.delta_store import Store

_SHEET_CROPS, _SHEET_COLUMNS, _CELL_WIDTH_PX, _CELL_HEIGHT_PX = 24, 8, 84, 84


def cut_crops(
    video: Path,
    rate_fps: Fraction,
    candidates: Sequence[Mapping[str, Any]],
    settings: CropSettings,
    progress: ReportProgress,
) -> Iterator[Crop]:
    """Decode the frames of some candidates and yield the best crop of each part of a track, with its JPEG in the row.

    Raises:
        RecordingError: The video lacks a frame that has a box, or a crop cannot be encoded.
    """
    import cv2

    best_crops = BestCrops(candidates, settings.padding)
    frame_indices, quality = best_crops.frame_indices, [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality]
    images = read_distant_images(video, frame_indices, rate_fps)
    for number, (frame_index, frame) in enumerate(zip(frame_indices, images, strict=False), 1):  # may end early
        for crop in best_crops.add(frame_index, frame):
            is_encoded, jpeg = cv2.imencode(".jpg", crop.image, quality)
            if not is_encoded:
                raise RecordingError(f"The crop of track {crop.row['track_id']} at {frame_index} cannot be encoded.")
            size = {"crop_width_px": crop.image.shape[1], "crop_height_px": crop.image.shape[0]}
            yield Crop({**crop.row, **size, "crop_scale": 1.0, "jpeg": jpeg.tobytes()}, crop.image)
        progress(number, len(frame_indices))
    if best_crops.missing_frame_index is not None:
        raise RecordingError(
            f"The normalized video lacks frames that have boxes (first: frame {best_crops.missing_frame_index}): "
            "materialize normalized_video again."
        )


def crop_recording(
    recording_id: str, store: Store, settings: Settings, progress: ReportProgress
) -> dict[str, Metadata]:
    """Cut the crops of one recording's tracks and store them.

    Raises:
        RecordingError: The recording has no normalized video, the video does not match the boxes, or no file has the
            content of the recording, from which crops are to be cut.
    """
    row = read_normalized_row(recording_id, store)
    video = find_normalized_video(row, store.data_folder)
    track_boxes = store.read(TRACK_BOXES, [recording_id])
    candidates = select_candidates(track_boxes, row["width_px"], row["height_px"], settings.crops).to_pylist()
    sheet_tracks = set(sorted({box["track_id"] for box in candidates})[:_SHEET_CROPS])
    cells: dict[int, tuple[float, np.ndarray, str]] = {}
    rows: list[dict[str, Any]] = []
    rate_fps = Fraction(row["rate_fps_num"], row["rate_fps_den"])
    with video.reading() as path:
        for crop in cut_crops(path, rate_fps, candidates, settings.crops, progress):
            rows.append({name: crop.row[name] for name in CROPS.arrow_schema.names if name in crop.row})
            track_id, score = crop.row["track_id"], crop.row["score"]
            if track_id in sheet_tracks and (track_id not in cells or score > cells[track_id][0]):
                name = drawable_name(crop.row["class_name"], f"class {crop.row['class_id']}")
                cells[track_id] = score, shrink_to_preview(crop.image), f"{track_id} {name}"
    if settings.crops.cut_from == "source":
        rows = cut_from_source(rows, row, store, settings, progress)
    store.replace(CROPS, [recording_id], pa.Table.from_pylist(rank_crops(rows), schema=CROPS.arrow_schema))
    tracks_with_crops = len({row["track_id"] for row in rows})
    metadata: dict[str, Any] = {"jpeg_bytes": sum(len(row["jpeg"]) for row in rows)}
    if cells:
        sheet = contact_sheet(
            [cells[key][1:] for key in sorted(cells)], _SHEET_COLUMNS, _CELL_WIDTH_PX, _CELL_HEIGHT_PX
        )
        caption = f"{len(cells)} of {tracks_with_crops} tracks with crops: the best crop of each"
        metadata["contact_sheet"] = sheet_metadata(sheet, caption)
    return {CROPS.name: count_metadata(len(rows), tracks_with_crops=tracks_with_crops, **metadata)}


@stage_asset(
    group=ANALYSIS,
    tables=(CROPS,),
    deps=("normalized_video", TRACKS.name, TRACK_BOXES.name),
    version=lambda settings: StageVersion.build("crops 3", {"crops": settings.crops}),
    kinds=("opencv",),
)
def crops(recording_id: str, run: StageRun, progress: ReportProgress) -> Mapping[str, Metadata]:
    """Crop each track at its best moments."""
    return crop_recording(recording_id, run.store, run.settings, progress)
