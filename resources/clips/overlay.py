"""What is drawn on the frames of a clip: boxes, trails, labels, zones and the clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from resources.clips.frame_canvas import FrameCanvas
from resources.config.camera_config import CameraSettings
from resources.exports.annotations import Box, RecordingAnnotations
from resources.geometry.zone_geometry import anchor_points
from resources.previews.annotated_frames import class_colour

_TRAIL_S = 2.0
_ZONE_RGB, _LINE_RGB, _TEXT_RGB = (90, 200, 255), (255, 210, 60), (255, 255, 255)


@dataclass(frozen=True)
class Overlay:
    """What is drawn.

    Attributes:
        has_boxes: Boxes of tracks.
        has_trails: Where the objects were in the two seconds before.
        has_labels: Class and number of each track.
        has_zones: Zones and lines of the camera.
        has_clock: Wall clock of the frame, or its media time where the recording has none.
        track_id: Only this track; None for all.
        unreadable: Classes whose objects are covered.
    """

    has_boxes: bool = False
    has_trails: bool = False
    has_labels: bool = False
    has_zones: bool = False
    has_clock: bool = False
    track_id: int | None = None
    unreadable: Sequence[str] = ()

    @property
    def is_empty(self) -> bool:
        """Whether frames stay as they are."""
        flags = (self.has_boxes, self.has_trails, self.has_labels, self.has_zones, self.has_clock)
        return not any(flags) and not self.unreadable


class ClipPainter:
    """Draws an overlay on the frames of one recording.

    Args:
        overlay: What is drawn.
        recording: The recording, with the boxes that are drawn.
        areas: The areas of each frame that are covered, by its index.
        camera: Settings of the camera.
        started_at_utc: Wall clock of the first frame; None if it is not known.
        time_zone: Time zone of the clock that is drawn.
    """

    def __init__(
        self,
        overlay: Overlay,
        recording: RecordingAnnotations,
        areas: Mapping[int, Sequence[tuple[float, float, float, float]]],
        camera: CameraSettings,
        started_at_utc: datetime | None,
        time_zone: str,
    ) -> None:
        self._overlay, self._recording, self._areas, self._camera = overlay, recording, areas, camera
        self._started_at_utc, self._zone = started_at_utc, ZoneInfo(time_zone)
        boxes = [box for box in recording.boxes if overlay.track_id in (None, box.track_id)]
        classes = sorted({box.class_name for box in recording.boxes})
        self._colours = {name: class_colour(number) for number, name in enumerate(classes)}
        self._boxes: dict[int, list[Box]] = {}
        for box in boxes:
            self._boxes.setdefault(box.frame_index, []).append(box)
        self._trails = self._trail_points(boxes) if overlay.has_trails else {}
        short_side_px = min(recording.width_px, recording.height_px)
        self._thickness_px = max(2, round(short_side_px / 360))
        self._text_px = max(14, round(short_side_px / 36))
        self._scale = np.array([recording.width_px, recording.height_px]) if camera.units == "relative" else np.ones(2)

    def _trail_points(self, boxes: Sequence[Box]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Frames and anchor points of each track."""
        tracks: dict[int, list[Box]] = {}
        for box in boxes:
            if box.track_id is not None:
                tracks.setdefault(box.track_id, []).append(box)
        return {
            number: (
                np.array([box.frame_index for box in track]),
                anchor_points(np.array([box.xyxy for box in track]), self._camera.anchor),
            )
            for number, track in tracks.items()
        }

    def draw(self, canvas: FrameCanvas, frame_index: int) -> None:
        """Draw on the frame of an index; what must not be seen is covered first."""
        overlay = self._overlay
        for area in self._areas.get(frame_index, ()):
            canvas.make_unreadable(area)
        if overlay.has_zones:
            self._draw_zones(canvas, frame_index)
        boxes = self._boxes.get(frame_index, ())
        if overlay.has_trails:
            self._draw_trails(canvas, frame_index, boxes)
        for box in boxes:
            colour = self._colours[box.class_name]
            if overlay.has_boxes:
                canvas.draw_box(box.xyxy, colour, self._thickness_px)
            if overlay.has_labels:
                name = box.class_name if box.track_id is None else f"{box.class_name} {box.track_id}"
                canvas.draw_text(name, box.xyxy[0], box.xyxy[1], self._text_px, colour)
        if overlay.has_clock:
            text = wall_clock_text(self._started_at_utc, float(self._recording.times_s[frame_index]), self._zone)
            canvas.draw_text(text, 0, self._text_px, self._text_px, _TEXT_RGB)

    def _draw_trails(self, canvas: FrameCanvas, frame_index: int, boxes: Sequence[Box]) -> None:
        first_frame = frame_index - round(_TRAIL_S * self._recording.rate_fps)
        for box in boxes:
            if box.track_id is not None:
                frames, points = self._trails[box.track_id]
                begin, end = np.searchsorted(frames, (first_frame, frame_index + 1))
                if end - begin > 1:
                    colour = self._colours[box.class_name]
                    canvas.draw_path(points[begin:end], colour, self._thickness_px, is_closed=False)

    def _draw_zones(self, canvas: FrameCanvas, frame_index: int) -> None:
        is_moving = self._camera.fixed_to == "ground"
        shift_px = self._recording.ground_shift_px([frame_index]) if is_moving else np.zeros((1, 2))
        for zone in self._camera.zones:
            points = np.array(zone.points) * self._scale + shift_px
            canvas.draw_path(points, _ZONE_RGB, self._thickness_px, is_closed=True)
            canvas.draw_text(zone.name, points[:, 0].mean(), points[:, 1].mean(), self._text_px, _ZONE_RGB)
        for line in self._camera.lines:
            points = np.array(line.points) * self._scale + shift_px
            canvas.draw_path(points, _LINE_RGB, self._thickness_px, is_closed=False)
            canvas.draw_text(line.name, points[0, 0], points[0, 1], self._text_px, _LINE_RGB)


def wall_clock_text(started_at_utc: datetime | None, time_s: float, zone: Any) -> str:
    """Wall clock of a frame to the hundredth of a second, or its media time without a clock."""
    if started_at_utc is None:
        return f"{time_s:.2f} s"
    local = (started_at_utc + timedelta(seconds=time_s)).astimezone(zone)
    return f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 10_000:02d}"
