"""Which parts of each frame are made unreadable, so that no frame of an object shows it."""

from collections.abc import Mapping, Sequence

import numpy as np

from resources.exports.annotations import Box

_PADDING = 0.15  # of the box's width and height, on each side
_HOLD_S = 1.0  # before the first and after the last box of an object, and in gaps up to twice as long


def redacted_areas(
    boxes: Sequence[Box], class_names: Sequence[str], frame_count: int, rate_fps: float
) -> Mapping[int, list[tuple[float, float, float, float]]]:
    """The areas of each frame that contain an object of some classes.

    Boxes are padded. Before the first box of a track, after its last and in its gaps the box next in time is held, in
    gaps both of them, for a second each; in a longer gap nothing is covered in between.

    Args:
        boxes: All boxes of a recording, of tracks and detections without one.
        class_names: The classes.
        frame_count: Number of frames of the recording.
        rate_fps: Frame rate.

    Returns:
        Corners in pixels by the frame's index.
    """
    hold_frames = round(_HOLD_S * rate_fps)
    areas: dict[int, list[tuple[float, float, float, float]]] = {}

    def cover(box: Box, frames: range) -> None:
        left, top, right, bottom = box.xyxy
        x_px, y_px = _PADDING * (right - left), _PADDING * (bottom - top)
        area = (left - x_px, top - y_px, right + x_px, bottom + y_px)
        for frame in frames:
            areas.setdefault(frame, []).append(area)

    tracks: dict[int | None, list[Box]] = {}
    for box in boxes:
        if box.class_name in class_names:
            tracks.setdefault(box.track_id, []).append(box)
    for box in tracks.pop(None, ()):
        frame = box.frame_index
        cover(box, range(max(0, frame - hold_frames), min(frame_count, frame + hold_frames + 1)))
    for track in tracks.values():
        track.sort(key=lambda box: box.frame_index)
        starts = np.array([box.frame_index for box in track])
        for position, box in enumerate(track):
            before = starts[position - 1] + 1 if position else 0
            after = starts[position + 1] if position + 1 < len(track) else frame_count
            first = max(before, box.frame_index - hold_frames)
            cover(box, range(int(first), int(min(after, box.frame_index + hold_frames + 1))))
    return areas
