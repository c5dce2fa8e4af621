"""The page for drawing the zones, lines and ground of a camera on one of its frames."""

import base64
import difflib
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np

from cv_assets.media_status import find_normalized_video
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.config.settings_file import SETTINGS_VARIABLE
from resources.errors import PipelineError, RecordingError
from resources.media.frame_reader import read_images
from resources.previews.timeline_chart import format_clock
from resources.schema.track_tables import TRACK_BOXES
from resources.start_times import CLOCK_COLUMNS, recording_start
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store
from resources.storage.recording_rows import RecordingRow, read_recording_rows

_VIDEO_COLUMNS = (
    *("video_path", "frame_count", "rate_fps_num", "rate_fps_den", "width_px", "height_px", "normalized_by"),
    *("size_bytes", "mtime_ns", "fingerprint", "content_hash"),
)
_TEMPLATE = Path(__file__).with_name("zones_page.html")
_PATH_RECORDINGS, _MAX_PATHS, _MAX_POINTS_OF_PATH = 5, 300, 30

# The longest tracks, each as anchor points at equal distances in its list of boxes.
_PATHS_SQL = """
WITH anchors AS (
    SELECT recording_id, track_id, time_s, (x_min_px + x_max_px) / 2 AS x_px,
        CASE WHEN $is_centre THEN (y_min_px + y_max_px) / 2 ELSE y_max_px END AS y_px,
        row_number() OVER (PARTITION BY recording_id, track_id ORDER BY time_s) - 1 AS position,
        count(*) OVER (PARTITION BY recording_id, track_id) AS box_count
    FROM boxes
)
SELECT recording_id, list([x_px, y_px] ORDER BY time_s) AS points_px
FROM anchors WHERE position % ceil(box_count / $max_points) = 0 OR position = box_count - 1
GROUP BY recording_id, track_id HAVING count(*) > 1
ORDER BY max(box_count) DESC, recording_id, track_id LIMIT $max_paths
"""


def is_zones_page(file: Path) -> bool:
    """Whether a file begins as a page of this module does, so that a newer page may replace it."""
    start = _TEMPLATE.read_bytes().partition(b"<style>")[0]
    with file.open("rb") as stream:
        return stream.read(len(start)) == start


@dataclass(frozen=True)
class ZonesFrame:
    """What the page shows below the drawing.

    Attributes:
        image: BGR array of shape (height_px, width_px, 3).
        caption: The recording and the time of the image.
        paths: Paths of stored tracks, each a list of [x, y] in fractions of the frame's width and height.
        steps: What to do after drawing, each a sentence and a command; the command may be empty.
    """

    image: np.ndarray
    caption: str = ""
    paths: Sequence[Sequence[tuple[float, float]]] = ()
    steps: Sequence[tuple[str, str]] = ()


def build_zones_page(camera: str, settings: Settings) -> str:
    """Build the page for a camera, with a frame of its newest recording, as self-contained HTML.

    It is the middle frame, and the first one where zones are fixed to the ground, because they are drawn for it.

    Args:
        camera: First folder under the watched folder; empty for recordings directly in the watched folder.
        settings: The settings, with the data folder and the zones and lines defined so far.

    Raises:
        PipelineError: The camera has no normalized recording, or its video cannot be read.
    """
    store = Store(settings.data_folder)
    names = [*CLOCK_COLUMNS, *_VIDEO_COLUMNS]
    rows = [row for row in read_recording_rows(store, columns=names).values() if row["video_path"]]
    camera_rows = [row for row in rows if (row["camera"] or "") == camera]
    if not camera_rows:
        raise PipelineError(_unknown_camera_sentence(camera, {row["camera"] or "" for row in rows}))
    newest_first = sorted(camera_rows, key=lambda row: _start_utc(row, settings), reverse=True)
    newest = newest_first[0]
    camera_settings = settings.camera(camera)
    frame_index = 0 if camera_settings.fixed_to == "ground" else newest["frame_count"] // 2
    rate_fps = Fraction(newest["rate_fps_num"], newest["rate_fps_den"])
    try:
        with find_normalized_video(newest, settings.data_folder).reading() as path:
            image = next(read_images(path, [frame_index], rate_fps), None)
    except RecordingError as error:
        raise PipelineError(f"{newest['recording_id']}: {error}") from error
    if image is None:
        raise PipelineError(
            f"The normalized video of {newest['recording_id']} is damaged: materialize normalized_video again."
        )
    frame = ZonesFrame(
        image,
        _caption(newest, float(frame_index / rate_fps), settings),
        read_paths(store, newest_first[:_PATH_RECORDINGS], camera_settings),
        _next_steps(settings),
    )
    return render_zones_page(camera, camera_settings, frame)


def _start_utc(row: RecordingRow, settings: Settings) -> datetime:
    start = recording_start(row, settings)
    mtime_utc: datetime = row["mtime_utc"]
    return start[0] if start else mtime_utc


def _caption(row: RecordingRow, time_s: float, settings: Settings) -> str:
    captured_at = _start_utc(row, settings) + timedelta(seconds=time_s)
    return f"{row['source_path']} at {format_clock(time_s)} ({captured_at:%Y-%m-%d %H:%M:%S} UTC)"


def _next_steps(settings: Settings) -> list[tuple[str, str]]:
    file = os.environ.get(SETTINGS_VARIABLE) or "pipeline.yaml"
    folders = f"{shlex.quote(str(settings.watched_folder))} --data {shlex.quote(str(settings.data_folder))}"
    options = f" --settings {shlex.quote(file)}" if os.environ.get(SETTINGS_VARIABLE) else ""
    data = f" --data {shlex.quote(str(settings.data_folder))}"
    return [
        (f"Replace the camera's section under cameras: in {file} with this text.", ""),
        (
            "Compute zones and lines from the stored tracks; no model runs:",
            f"cv-assets process {folders}{options}",
        ),
        ("See the counts:", f'cv-assets sql "FROM zone_minutes"{data}{options}'),
    ]


def read_paths(store: Store, rows: Sequence[RecordingRow], camera: CameraSettings) -> list[list[tuple[float, float]]]:
    """Read the paths of the longest tracks of some recordings.

    Args:
        store: The tables.
        rows: The recordings, with the size of their frames.
        camera: Decides which point of a box counts.

    Returns:
        At most 300 paths of at most 32 points, as fractions of the frame's width and height.
    """
    sizes_px = {row["recording_id"]: (row["width_px"], row["height_px"]) for row in rows}
    values = {
        "is_centre": camera.anchor == "centre",
        "max_points": _MAX_POINTS_OF_PATH,
        "max_paths": _MAX_PATHS,
    }
    paths = select(_PATHS_SQL, {"boxes": store.scan(TRACK_BOXES, list(sizes_px))}, values).to_pylist()
    return [
        [
            (round(x_px / sizes_px[path["recording_id"]][0], 4), round(y_px / sizes_px[path["recording_id"]][1], 4))
            for x_px, y_px in path["points_px"]
        ]
        for path in paths
    ]


def render_zones_page(camera: str, camera_settings: CameraSettings, frame: ZonesFrame) -> str:
    """Render the page.

    Args:
        camera: Name of the camera.
        camera_settings: Its settings.
        frame: The image and what is shown with it.
    """
    import cv2

    is_encoded, jpeg = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not is_encoded:
        raise PipelineError(f"The frame of camera {camera} cannot be encoded as JPEG.")
    page_data = {
        "name": camera,
        "camera": camera_settings.model_dump(mode="json", exclude_defaults=True),
        "width_px": frame.image.shape[1],
        "height_px": frame.image.shape[0],
        "image": "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode(),
        "caption": frame.caption,
        "paths": frame.paths,
        "steps": frame.steps,
    }
    # A name could contain the end tag of the script; escaped like this, the JSON is the same and contains no HTML.
    page_json = json.dumps(page_data).replace("<", "\\u003c")
    return _TEMPLATE.read_text(encoding="utf-8").replace("__PAGE_DATA__", page_json)


def _unknown_camera_sentence(camera: str, known_cameras: set[str]) -> str:
    if not known_cameras:
        return "The data folder has no normalized recording yet: process some recordings first."
    nearest = difflib.get_close_matches(camera, known_cameras, n=1, cutoff=0.4)
    listed = ", ".join(repr(name) for name in sorted(known_cameras))
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {listed}."
    return f"The camera {camera!r} has no recording; {hint}"
