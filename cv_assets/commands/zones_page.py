"""The page on which people draw the zones and lines of a camera over one of its frames."""

import base64
import difflib
import json
from pathlib import Path

import numpy as np

from resources.errors import PipelineError
from resources.media.reading import read_frames
from resources.schema import RECORDINGS
from resources.settings import CameraSettings, Settings
from resources.storage import Store

_TEMPLATE = Path(__file__).with_name("zones_page.html")


def zones_page(camera: str, settings: Settings) -> str:
    """The page as HTML that needs nothing beside itself.

    Args:
        camera: First folder under the watched folder; empty for recordings that lie beside the folders.
        settings: Which data folder, and what is drawn so far.

    Raises:
        PipelineError: No normalized recording of the camera is there.
    """
    store = Store(settings.data_folder)
    names = ["camera", "video_path", "frame_count", "width_px", "height_px", "started_at_utc", "mtime_utc"]
    rows = [row for row in store.read(RECORDINGS, columns=names).to_pylist() if row["video_path"]]
    own = [row for row in rows if (row["camera"] or "") == camera]
    if not own:
        raise PipelineError(_unknown(camera, {row["camera"] or "" for row in rows}))
    newest = max(own, key=lambda row: row["started_at_utc"] or row["mtime_utc"])
    middle = newest["frame_count"] // 2
    _, picture = next(iter(read_frames(settings.data_folder / newest["video_path"], wanted=[middle])))
    return render(camera, settings.camera(camera), picture)


def render(camera: str, drawn: CameraSettings, picture: np.ndarray) -> str:
    """The page for a picture.

    Args:
        camera: Its name.
        drawn: Its settings.
        picture: BGR array of shape (height_px, width_px, 3).
    """
    import cv2

    is_written, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not is_written:
        raise PipelineError(f"The frame of camera {camera} cannot be encoded as JPEG.")
    given = {
        "name": camera,
        "camera": drawn.model_dump(mode="json", exclude_defaults=True),
        "width_px": picture.shape[1],
        "height_px": picture.shape[0],
        "picture": "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode(),
    }
    # A name could hold the end of the script; escaped so, it is the same JSON and not HTML.
    return _TEMPLATE.read_text(encoding="utf-8").replace("__GIVEN__", json.dumps(given).replace("<", "\\u003c"))


def _unknown(camera: str, known: set[str]) -> str:
    if not known:
        return "There is no normalized recording yet: process some recordings first."
    near = difflib.get_close_matches(camera, known, n=1, cutoff=0.4)
    listed = ", ".join(repr(name) for name in sorted(known))
    hint = f"did you mean {near[0]!r}?" if near else f"known: {listed}."
    return f"There is no recording of a camera called {camera!r}; {hint}"
