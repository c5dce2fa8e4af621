"""Strips of frames for an audit: what a person looks at to judge a counted event or a stretch of time."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow.compute as pc

from cv_assets.media_status import find_normalized_video
from cv_assets.tracks import camera_positions, corners
from resources.audit.audit_sample import AuditItem
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.corrections.corrected_rows import read_track_boxes
from resources.errors import PipelineError, RecordingError
from resources.media.frame_reader import read_distant_images
from resources.previews.image_encoding import encode_jpeg
from resources.previews.timeline_chart import format_clock
from resources.schema.recording_tables import FRAMES
from resources.start_times import recording_start
from resources.storage.delta_store import Store
from resources.storage.recording_rows import RecordingRow

_FRAMES, _EVENT_SIDE_S = 6, 1.0
_NEAR_S = 5.0  # in which an object that is counted twice is likely counted again
_SIDE_PX, _MAX_BYTES = 480, 24_000
_MIN_CROP, _CROP_SIZES = 0.3, 3.0  # of the frame's width and height; of the object's box
_BOX_COLUMNS = ("track_id", "frame_index", "x_min_px", "y_min_px", "x_max_px", "y_max_px")
_COUNTED, _OTHER, _SHAPE = (0, 220, 255), (255, 255, 255), (255, 160, 0)


@dataclass(frozen=True)
class Strip:
    """What the page shows of one item.

    Attributes:
        caption: Recording, time and class.
        frames: JPEG images as data URLs, in order of time.
    """

    caption: str
    frames: Sequence[str]


def build_strips(
    items: Sequence[AuditItem],
    events: Sequence[AuditItem],
    rows: Mapping[str, RecordingRow],
    store: Store,
    settings: Settings,
) -> list[Strip]:
    """Build the strips of items, in their order.

    Args:
        items: The sample of one camera.
        events: All counted events of the camera: in a stretch, they are marked.
        rows: The camera's recordings.
        store: The tables.
        settings: The settings, with the lines and zones of the camera.

    Raises:
        PipelineError: A video was deleted, or cannot be read.
    """
    strips: dict[int, Strip] = {}
    for recording_id in dict.fromkeys(item.recording_id for item in items):
        positions = [position for position, item in enumerate(items) if item.recording_id == recording_id]
        recording = _Recording(
            rows[recording_id], store, settings, [e for e in events if e.recording_id == recording_id]
        )
        try:
            built = recording.build([items[position] for position in positions])
            strips |= dict(zip(positions, built, strict=True))
        except RecordingError as error:
            raise PipelineError(f"{recording_id}: {error}") from error
    return [strips[position] for position in range(len(items))]


class _Recording:
    """Strips of one recording.

    Args:
        row: The recording.
        store: The tables.
        settings: The settings.
        events: Its counted events.
    """

    def __init__(self, row: RecordingRow, store: Store, settings: Settings, events: Sequence[AuditItem]) -> None:
        self._row, self._settings, self._events = row, settings, events
        self._camera: CameraSettings = settings.camera(row["camera"])
        self._frames = store.read(FRAMES, [row["recording_id"]]).sort_by("frame_index")
        self._boxes = read_track_boxes(store, [row["recording_id"]], _BOX_COLUMNS)

    def build(self, items: Sequence[AuditItem]) -> list[Strip]:
        """Build the strips of items.

        Raises:
            RecordingError: The video was deleted, or the source that is used itself has other content.
            PipelineError: The video is damaged.
        """
        times_s = self._frames["time_s"].to_numpy()
        if not len(times_s):
            raise PipelineError(f"{self._row['recording_id']} has no frames: materialize normalized_video again.")
        indices = [self._frame_indices(item, times_s) for item in items]
        images = self._read(sorted({index for of_item in indices for index in of_item}))
        return [
            Strip(self._caption(item), [self._draw(item, index, images[index]) for index in of_item])
            for item, of_item in zip(items, indices, strict=True)
        ]

    def _frame_indices(self, item: AuditItem, times_s: np.ndarray) -> list[int]:
        side_s = _EVENT_SIDE_S if item.kind == "event" else 0.0
        shown_s = np.linspace(item.start_s - side_s, item.end_s + side_s, _FRAMES)
        rows = np.clip(np.searchsorted(times_s, shown_s, "right") - 1, 0, len(times_s) - 1)
        return [int(index) for index in np.unique(self._frames["frame_index"].to_numpy()[rows])]

    def _read(self, indices: Sequence[int]) -> dict[int, np.ndarray]:
        import cv2

        rate_fps = Fraction(self._row["rate_fps_num"], self._row["rate_fps_den"])
        images: dict[int, np.ndarray] = {}
        with find_normalized_video(self._row, self._settings.data_folder).reading() as path:
            for index, image in zip(indices, read_distant_images(path, indices, rate_fps), strict=False):
                scale = min(1.0, 2 * _SIDE_PX / max(image.shape[:2]))
                size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
                images[index] = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        if len(images) < len(indices):
            raise PipelineError(
                f"The normalized video of {self._row['recording_id']} is damaged: materialize normalized_video again."
            )
        return images

    def _draw(self, item: AuditItem, frame_index: int, image: np.ndarray) -> str:
        import cv2

        scale = image.shape[1] / self._row["width_px"]
        image, counted = image.copy(), self._counted_tracks(item)
        for name, points, is_closed in self._shapes(frame_index):
            if name == item.count_name:
                cv2.polylines(image, [np.round(points * scale).astype(np.int32)], is_closed, _SHAPE, 2)
        boxes = self._boxes.filter(pc.equal(self._boxes["frame_index"], frame_index))
        for track_id, box in zip(boxes["track_id"].to_pylist(), corners(boxes) * scale, strict=True):
            left, top, right, bottom = np.round(box).astype(int).tolist()
            is_counted = track_id in counted
            colour = _COUNTED if is_counted else _OTHER
            cv2.rectangle(image, (left, top), (right, bottom), colour, 3 if is_counted else 1)
            if is_counted and item.kind == "stretch":
                cv2.putText(image, str(track_id), (left, max(top - 4, 14)), cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, 2)
        left, top, right, bottom = self._crop(item, image.shape[1], image.shape[0], scale)
        image = image[top:bottom, left:right]
        shrink = min(1.0, _SIDE_PX / max(image.shape[:2]))
        size = max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))
        jpeg = encode_jpeg(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)), _MAX_BYTES)
        return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()

    def _counted_tracks(self, item: AuditItem) -> set[int | None]:
        if item.kind == "event":
            return {item.track_id}
        # What is counted just outside of the stretch is marked, too: it is not missed.
        return {
            event.track_id
            for event in self._events
            if event.count_name == item.count_name
            and item.start_s - _EVENT_SIDE_S <= event.start_s <= item.end_s + _EVENT_SIDE_S
        }

    def _shapes(self, frame_index: int) -> Iterator[tuple[str, np.ndarray, bool]]:
        size = (self._row["width_px"], self._row["height_px"]) if self._camera.units == "relative" else (1, 1)
        shift = np.zeros(2)
        if self._camera.fixed_to == "ground":
            positions = camera_positions(self._frames)
            shift = np.zeros(2) if positions is None else positions[frame_index]
        for line in self._camera.lines:
            yield f"line {line.name}", np.array(line.points) * size + shift, False
        for zone in self._camera.zones:
            yield f"zone {zone.name}", np.array(zone.points) * size + shift, True

    def _crop(self, item: AuditItem, width: int, height: int, scale: float) -> tuple[int, int, int, int]:
        """Edges of the part of an event's frames that shows its object; for stretches, of the whole frame."""
        if item.kind == "stretch":
            return 0, 0, width, height
        times_s = self._frames["time_s"].to_numpy()
        indices = self._frame_indices(item, times_s)
        is_near = pc.and_(
            pc.equal(self._boxes["track_id"], item.track_id),
            pc.and_(
                pc.greater_equal(self._boxes["frame_index"], indices[0]),
                pc.less_equal(self._boxes["frame_index"], indices[-1]),
            ),
        )
        xyxy = corners(self._boxes.filter(is_near)) * scale
        if not len(xyxy):
            return 0, 0, width, height
        low, high = xyxy[:, :2].min(axis=0), xyxy[:, 2:].max(axis=0)
        size = np.array([width, height])
        box = np.maximum(_CROP_SIZES * np.median(xyxy[:, 2:] - xyxy[:, :2], axis=0), _MIN_CROP * size)
        half = np.minimum(np.maximum(box, (high - low) * 1.2), size) / 2
        middle = np.clip((low + high) / 2, half, size - half)
        left, top = np.floor(middle - half).astype(int).tolist()
        right, bottom = np.ceil(middle + half).astype(int).tolist()
        return max(left, 0), max(top, 0), min(right, width), min(bottom, height)

    def _caption(self, item: AuditItem) -> str:
        start = recording_start(self._row, self._settings)
        start_utc: datetime = start[0] if start else self._row["mtime_utc"]
        utc = f"{start_utc + timedelta(seconds=item.start_s):%Y-%m-%d %H:%M:%S} UTC"
        source: Any = self._row["source_path"]
        caption = f"{source} at {format_clock(item.start_s)} ({utc})"
        others = [
            f"{event.class_name} {abs(event.start_s - item.start_s):.1f} s "
            + ("before" if event.start_s < item.start_s else "after")
            for event in sorted(self._events, key=lambda event: event.start_s)
            if event.count_name == item.count_name and abs(event.start_s - item.start_s) <= _NEAR_S and event != item
        ]
        return f"{caption} · also counted: {', '.join(others)}" if others and item.kind == "event" else caption
