"""Plans a synopsis: when each object is shown, so that objects of different times are together and overlap little."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resources.clips.recap import RECAP_RATE_FPS
from resources.exports.annotations import Box

_MAX_OBJECT_S = 20.0  # longer ones are shown faster
_OBJECTS_AT_ONCE = 6  # on average, without a requested length
_STEP_FRAMES = 5  # of the synopsis, between times at which overlaps are counted
_GRID_COLUMNS, _GRID_ROWS = 32, 18
_ORDER_WEIGHT = 0.3  # of an object that is shown at the wrong end, beside one that is covered whole
_STILL_HEIGHTS = 0.5  # an object whose centre moves less, in heights of its box, stands still
_BACKGROUND_SHARE = 0.4  # of the time: what stands still for so long is in the background


@dataclass(frozen=True)
class SynopsisObject:
    """An object of a synopsis.

    Attributes:
        recording_id: Its recording.
        track_id: Its track.
        class_name: Its class.
        frame_indices: The frames of the recording that show it, one per frame of the synopsis.
        boxes: Corners of its box in each of them in pixels, shape (n, 4).
        start_frame: The frame of the synopsis in which it appears.
    """

    recording_id: str
    track_id: int
    class_name: str
    frame_indices: np.ndarray
    boxes: np.ndarray
    start_frame: int = 0

    @property
    def frame_count(self) -> int:
        """Number of frames of the synopsis that show the object."""
        return len(self.frame_indices)


def build_object(
    recording_id: str, track_id: int, boxes: Sequence[Box], rate_fps: float, max_length_s: float | None
) -> SynopsisObject:
    """Choose the frames that show an object, at the frame rate of the synopsis.

    Args:
        recording_id: The recording.
        track_id: The track.
        boxes: The boxes of the track, by frame; the frames between them are interpolated.
        rate_fps: Frame rate of the recording.
        max_length_s: The object is shown faster where it would be longer; None: where it would be very long.
    """
    frames = np.array([box.frame_index for box in boxes])
    corners = np.array([box.xyxy for box in boxes])
    length_s = (frames[-1] - frames[0] + 1) / rate_fps
    shown_s = min(length_s, _MAX_OBJECT_S, max_length_s or _MAX_OBJECT_S)
    count = max(1, int(shown_s * float(RECAP_RATE_FPS)))
    shown = np.round(np.linspace(frames[0], frames[-1], count)).astype(int)
    interpolated = np.column_stack([np.interp(shown, frames, corners[:, edge]) for edge in range(4)])
    return SynopsisObject(recording_id, track_id, boxes[0].class_name, shown, interpolated)


def is_in_background(boxes: Sequence[Box], frame_count: int) -> bool:
    """Whether an object stands still for so long that the background shows it."""
    corners = np.array([box.xyxy for box in boxes])
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    height_px = np.median(corners[:, 3] - corners[:, 1])
    is_still = bool((np.ptp(centres, axis=0) < _STILL_HEIGHTS * height_px).all())
    return is_still and boxes[-1].frame_index - boxes[0].frame_index + 1 >= _BACKGROUND_SHARE * frame_count


def default_length_s(objects: Sequence[SynopsisObject]) -> float:
    """A length in which a person can follow the objects, and every object fits."""
    counts = [item.frame_count for item in objects]
    return max(max(counts), sum(counts) / _OBJECTS_AT_ONCE) / float(RECAP_RATE_FPS)


def place_objects(
    objects: Sequence[SynopsisObject], frame_count: int, size_px: tuple[int, int]
) -> list[SynopsisObject]:
    """Place objects in time, the largest first, each where it covers the least, and rather in the order of their times.

    Args:
        objects: The objects in order of time; none is longer than the synopsis.
        frame_count: Number of frames of the synopsis.
        size_px: Width and height of the frames.

    Returns:
        The objects in the same order, with their first frames.
    """
    step_count = -(-frame_count // _STEP_FRAMES)
    occupied = np.zeros((step_count, _GRID_ROWS * _GRID_COLUMNS), np.float32)
    cells = [_covered_cells(item, size_px) for item in objects]
    starts = [0] * len(objects)
    for number in sorted(range(len(objects)), key=lambda number: -cells[number].sum()):
        covered, length = cells[number], len(cells[number])
        last_step = max(0, (frame_count - objects[number].frame_count) // _STEP_FRAMES)
        shifts = np.arange(last_step + 1)
        used = covered.any(axis=0)  # few of all cells
        windows = np.lib.stride_tricks.sliding_window_view(occupied[: last_step + length, used], length, axis=0)
        overlap = np.einsum("scl,lc->s", windows, covered[:, used])
        place = number / max(1, len(objects) - 1)
        disorder = np.abs(shifts / max(1, last_step) - place)
        shift = int(np.argmin(overlap + _ORDER_WEIGHT * covered.sum() * disorder))
        occupied[shift : shift + length] += covered
        starts[number] = shift * _STEP_FRAMES
    return [
        SynopsisObject(item.recording_id, item.track_id, item.class_name, item.frame_indices, item.boxes, start)
        for item, start in zip(objects, starts, strict=True)
    ]


def _covered_cells(item: SynopsisObject, size_px: tuple[int, int]) -> np.ndarray:
    """The cells of the frame that an object covers at each step, float array of shape (steps, cells)."""
    boxes = item.boxes[::_STEP_FRAMES]
    scale = np.array([_GRID_COLUMNS, _GRID_ROWS, _GRID_COLUMNS, _GRID_ROWS]) / np.array([*size_px, *size_px])
    left, top, right, bottom = (boxes * scale).T[:, :, None]
    columns, rows = np.arange(_GRID_COLUMNS), np.arange(_GRID_ROWS)
    across = np.clip(np.minimum(right, columns + 1) - np.maximum(left, columns), 0, 1)
    down = np.clip(np.minimum(bottom, rows + 1) - np.maximum(top, rows), 0, 1)
    cells: np.ndarray = (down[:, :, None] * across[:, None, :]).reshape(len(boxes), -1).astype(np.float32)
    return cells


def overlap_share(objects: Sequence[SynopsisObject]) -> float:
    """Share of the area of all boxes that is covered by a box of another object."""
    by_frame: dict[int, list[np.ndarray]] = {}
    for item in objects:
        for position, box in enumerate(item.boxes):
            by_frame.setdefault(item.start_frame + position, []).append(box)
    covered = total = 0.0
    for frame_boxes in by_frame.values():
        boxes = np.array(frame_boxes)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        corners = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(
            boxes[:, None, :2], boxes[None, :, :2]
        )
        common = np.prod(np.clip(corners, 0, None), axis=2)
        np.fill_diagonal(common, 0)
        covered += float(np.minimum(common.sum(axis=1), areas).sum())
        total += float(areas.sum())
    return covered / total if total else 0.0
