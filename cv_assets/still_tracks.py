"""still_tracks: one row per track whose box stays where it is (recording_id, track_id).

Signs, branches and parked cars that a model reports again and again are still tracks at one place, in one recording
after the other: the view `repeated_objects` lists these places. Those that the settings of the camera leave out are
marked here, and the stages that count leave their boxes out; the tracks themselves stay.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cv_assets.camera_settings import CAMERA_LEFT_OUT
from cv_assets.media_status import read_normalized_row
from cv_assets.stage_asset import ANALYSIS, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, count_metadata
from cv_assets.tracks import CAMERA_COLUMNS
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.geometry.box_overlap import iou
from resources.media.progress import ReportProgress
from resources.schema.columns import BOX
from resources.schema.recording_tables import FRAMES
from resources.schema.track_tables import STILL_TRACKS, TRACK_BOXES, TRACKS
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store

_MAX_EXTENT_SIZES = 0.2  # the description of the table states it, too
_MIN_IOU = 0.5  # of a track and the box of the settings
_CORNERS = [column.name for column in BOX]
_BOX_COLUMNS = ["recording_id", "track_id", "frame_index", "time_s", "is_interpolated", "class_id", "class_name"]

# Boxes without the motion of the camera, where it is known. Nine tenths of the centres decide, so that an object in
# front of the sign, with which the tracker has confused it for a moment, does not let it move.
_STILL_SQL = f"""
WITH steady AS (
    SELECT recording_id, track_id, class_id, class_name, time_s,
        {", ".join(f"{name} - coalesce(camera_{name[0]}_px, 0) AS {name}" for name in _CORNERS)}
    FROM boxes JOIN frames USING (frame_index) WHERE NOT is_interpolated
),
places AS (
    SELECT any_value(recording_id) AS recording_id, track_id, any_value(class_id) AS class_id,
        any_value(class_name) AS class_name, min(time_s) AS start_s, max(time_s) + $frame_s AS end_s,
        {", ".join(f"median({name}) AS {name}" for name in _CORNERS)},
        quantile_cont((x_min_px + x_max_px) / 2, [0.05, 0.95]) AS x_px,
        quantile_cont((y_min_px + y_max_px) / 2, [0.05, 0.95]) AS y_px
    FROM steady GROUP BY track_id
)
SELECT * EXCLUDE (x_px, y_px), end_s - start_s AS duration_s FROM places
WHERE greatest(x_px[2] - x_px[1], y_px[2] - y_px[1])
    <= $max_extent * sqrt((x_max_px - x_min_px) * (y_max_px - y_min_px))
ORDER BY track_id
"""


def still_track_rows(
    boxes: pa.Table, frames: pa.Table, camera: CameraSettings, size_px: tuple[int, int], frame_s: float
) -> pa.Table:
    """Build the rows of `still_tracks` of one recording.

    Args:
        boxes: Its rows of `track_boxes`.
        frames: Its rows of `frames`, with the positions of the camera.
        camera: The camera's settings, with the objects that are left out of counts.
        size_px: Width and height of the normalized video.
        frame_s: How long a frame lasts.
    """
    values = {"frame_s": frame_s, "max_extent": _MAX_EXTENT_SIZES}
    rows = select(_STILL_SQL, {"boxes": boxes, "frames": frames}, values)
    xyxy = np.stack([rows[name].to_numpy() for name in _CORNERS], axis=1)
    is_left_out = np.zeros(rows.num_rows, bool)
    for place in camera.left_out:
        is_class = np.asarray(pc.equal(rows["class_name"], place.class_name).to_numpy(), bool)
        # No object is smaller than a pixel: shares, as repeated_objects has them, in the settings of a camera in px.
        are_shares = camera.units == "relative" or max(place.box) <= 1
        scale = np.array(size_px * 2) if are_shares else np.ones(4)
        is_left_out |= is_class & (iou(xyxy, np.array(place.box) * scale) >= _MIN_IOU)
    rows = rows.append_column("is_left_out", pa.array(is_left_out))
    return rows.select(STILL_TRACKS.arrow_schema.names).cast(STILL_TRACKS.arrow_schema)


def without_left_out(rows: pa.Table, recording_id: str, store: Store) -> pa.Table:
    """Drop the rows of tracks that the settings of the camera leave out of counts.

    Args:
        rows: Rows of `tracks` or `track_boxes` of the recording.
        recording_id: The recording.
        store: The tables.
    """
    still = store.read(STILL_TRACKS, [recording_id], ["track_id", "is_left_out"])
    left_out = still.filter(still["is_left_out"])["track_id"].combine_chunks()
    return rows.filter(pc.invert(pc.is_in(rows["track_id"], left_out))) if len(left_out) else rows


def find_still_tracks(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Find the still tracks of one recording and store them.

    Raises:
        RecordingError: The recording has no normalized video.
    """
    row = read_normalized_row(recording_id, store)
    boxes = store.read(TRACK_BOXES, [recording_id], [*_BOX_COLUMNS, *_CORNERS])
    frames = store.read(FRAMES, [recording_id], ["frame_index", *CAMERA_COLUMNS])
    camera = settings.camera(row["camera"])
    rows = still_track_rows(boxes, frames, camera, (row["width_px"], row["height_px"]), 1 / row["rate_fps"])
    store.replace(STILL_TRACKS, [recording_id], rows)
    return {STILL_TRACKS.name: count_metadata(rows.num_rows, left_out_count=pc.sum(rows["is_left_out"]).as_py() or 0)}


@stage_asset(
    group=ANALYSIS,
    tables=(STILL_TRACKS,),
    deps=(TRACKS.name, TRACK_BOXES.name, FRAMES.name, CAMERA_LEFT_OUT.name),
    version=lambda _: StageVersion.build("still_tracks 1"),
    kinds=("duckdb",),
)
def still_tracks(recording_id: str, run: StageRun, _: ReportProgress) -> Mapping[str, Metadata]:
    """Find the tracks of each recording that stay where they are: signs, branches, parked cars, people who wait."""
    return find_still_tracks(recording_id, run.store, run.settings)
