"""Which parts of each frame are made unreadable, so that no frame of an object shows it."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from resources.exports.annotations import Box

Area = tuple[float, float, float, float]
"""Corners in pixels."""
PADDING = 0.15
"""Margin around a covered box: of its width and height, on each side."""
HOLD_S = 1.0
"""Time for which an object is covered before its first and after its last box; gaps are covered up to twice as long."""


_BUCKET_FRAMES = 64


class CoveredAreas(Mapping[int, list[Area]]):
    """Areas by the frame's index; one that is held over many frames is stored once."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[tuple[int, int, Area]]] = {}

    def add(self, first_frame: int, last_frame: int, *corners: np.ndarray) -> None:
        """Cover all that lies between some boxes, each of shape (4,), from the first frame to the last."""
        stacked = np.stack(corners)
        left, top = stacked[:, :2].min(axis=0)
        right, bottom = stacked[:, 2:].max(axis=0)
        entry = (int(first_frame), int(last_frame), (float(left), float(top), float(right), float(bottom)))
        for bucket in range(int(first_frame) // _BUCKET_FRAMES, int(last_frame) // _BUCKET_FRAMES + 1):
            self._buckets.setdefault(bucket, []).append(entry)

    def __getitem__(self, frame_index: int) -> list[Area]:
        entries = self._buckets.get(frame_index // _BUCKET_FRAMES, ())
        areas = [area for first, last, area in entries if first <= frame_index <= last]
        if not areas:
            raise KeyError(frame_index)
        return areas

    def __iter__(self) -> Iterator[int]:
        for bucket in sorted(self._buckets):
            frames = range(bucket * _BUCKET_FRAMES, (bucket + 1) * _BUCKET_FRAMES)
            yield from (frame for frame in frames if frame in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def redacted_areas(
    boxes: Sequence[Box],
    class_names: Sequence[str],
    frame_count: int,
    rate_fps: float,
    areas: CoveredAreas | None = None,
) -> CoveredAreas:
    """The areas of each frame that contain an object of some classes.

    Boxes are padded. In gaps of up to two seconds, all that lies between both boxes is covered. Before the first box of
    a track, after its last and at both ends of longer gaps, the box is held for a second, and extended to where its
    motion would have moved it.

    Args:
        boxes: Boxes of a recording, of tracks and detections without one; a track has one box in a frame.
        class_names: The classes.
        frame_count: Number of frames of the recording.
        rate_fps: Frame rate.
        areas: Areas to which they are added; None begins without any.
    """
    hold_frames = max(1, round(HOLD_S * rate_fps))
    areas = CoveredAreas() if areas is None else areas
    tracks: dict[int | None, list[Box]] = {}
    for box in boxes:
        if box.class_name in class_names:
            tracks.setdefault(box.track_id, []).append(box)
    for box in tracks.pop(None, ()):
        first, last = max(0, box.frame_index - hold_frames), min(frame_count - 1, box.frame_index + hold_frames)
        areas.add(first, last, pad_boxes(np.array(box.xyxy, float)))
    for track in tracks.values():
        track.sort(key=lambda box: box.frame_index)
        frames = np.array([box.frame_index for box in track])
        _cover_track(areas, frames, pad_boxes(np.array([box.xyxy for box in track], float)), frame_count, hold_frames)
    return areas


def pad_boxes(corners: np.ndarray) -> np.ndarray:
    """Boxes with the margin with which they are covered, in the shape of the argument, (..., 4)."""
    margin = PADDING * (corners[..., 2:] - corners[..., :2])
    return np.concatenate([corners[..., :2] - margin, corners[..., 2:] + margin], axis=-1)


def _cover_track(
    areas: CoveredAreas, frames: np.ndarray, corners: np.ndarray, frame_count: int, hold_frames: int
) -> None:
    """Add the areas of one track: its padded boxes, its gaps and both of its ends."""

    def hold(position: int, direction: int) -> None:
        velocity = _velocity(frames, corners, position, direction, hold_frames)
        for step in range(1, hold_frames + 1):
            frame = frames[position] + direction * step
            if 0 <= frame < frame_count:
                areas.add(frame, frame, corners[position], corners[position] + velocity * step)

    hold(0, -1)
    for position, frame in enumerate(frames):
        areas.add(frame, frame, corners[position])
        if position + 1 == len(frames):
            hold(position, 1)
        elif frames[position + 1] - frame - 1 > 2 * hold_frames:
            hold(position, 1)
            hold(position + 1, -1)
        elif frames[position + 1] - frame > 1:
            areas.add(frame + 1, frames[position + 1] - 1, corners[position], corners[position + 1])


def _velocity(
    frames: np.ndarray, corners: np.ndarray, position: int, direction: int, hold_frames: int
) -> np.ndarray | float:
    """Motion of the corners per frame in a direction of time, from the boxes on the other side; 0 for a single box."""
    is_near = (np.abs(frames - frames[position]) <= hold_frames // 2) & ((frames - frames[position]) * direction < 0)
    near = np.flatnonzero(is_near)
    if not len(near):
        return 0.0
    other = near[0] if direction > 0 else near[-1]
    return np.asarray((corners[position] - corners[other]) / abs(frames[position] - frames[other]))
