"""The page for drawing the zones and lines of a camera on one of its frames."""

import base64
import difflib
import json
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import numpy as np

from cv_assets.media_status import find_normalized_video
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.errors import PipelineError, RecordingError
from resources.media.frame_reader import read_images
from resources.start_times import CLOCK_COLUMNS, recording_start
from resources.storage.delta_store import Store
from resources.storage.recording_rows import RecordingRow, read_recording_rows

_VIDEO_COLUMNS = (
    *("video_path", "frame_count", "rate_fps_num", "rate_fps_den", "normalized_by"),
    *("size_bytes", "mtime_ns", "fingerprint", "content_hash"),
)
_TEMPLATE = Path(__file__).with_name("zones_page.html")


def build_zones_page(camera: str, settings: Settings) -> str:
    """Build the page for a camera, with the middle frame of its newest recording, as self-contained HTML.

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
    newest = max(camera_rows, key=lambda row: _start_utc(row, settings))
    middle_frame_index = newest["frame_count"] // 2
    rate_fps = Fraction(newest["rate_fps_num"], newest["rate_fps_den"])
    try:
        with find_normalized_video(newest, settings.data_folder).reading() as path:
            image = next(read_images(path, [middle_frame_index], rate_fps))
    except RecordingError as error:
        raise PipelineError(f"{newest['recording_id']}: {error}") from error
    return render_zones_page(camera, settings.camera(camera), image)


def _start_utc(row: RecordingRow, settings: Settings) -> datetime:
    start = recording_start(row, settings)
    mtime_utc: datetime = row["mtime_utc"]
    return start[0] if start else mtime_utc


def render_zones_page(camera: str, camera_settings: CameraSettings, image: np.ndarray) -> str:
    """Render the page for an image.

    Args:
        camera: Name of the camera.
        camera_settings: Its settings.
        image: BGR array of shape (height_px, width_px, 3).
    """
    import cv2

    is_encoded, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not is_encoded:
        raise PipelineError(f"The frame of camera {camera} cannot be encoded as JPEG.")
    page_data = {
        "name": camera,
        "camera": camera_settings.model_dump(mode="json", exclude_defaults=True),
        "width_px": image.shape[1],
        "height_px": image.shape[0],
        "image": "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode(),
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
