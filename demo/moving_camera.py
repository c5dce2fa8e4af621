"""Drawn pictures of crowds in front of a camera that pans or shakes, with its true movement.

The pictures are as small as those in which the camera's position is measured, so that hundreds of scenes are drawn in
minutes.
"""

from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np

from demo.crowd import Crowd
from demo.drawn_scenes.backgrounds import draw_background
from demo.drawn_scenes.scenes import Background

_SCALE = 2  # the pictures are drawn at half the size of the crowd's frame
_MARGIN_PX = 160  # of the background beyond the frame on each side, in pixels of the picture
_STYLES = ("street", "yard", "park", "plaza")  # the style plain has no texture that would show a movement
_PAN_PX, _PAN_S = (200.0, 60.0), 4.0  # a pan goes to a new place, at most this far from the first, in this time
_SHAKE_PX, _SHAKE_MEMORY = 5.0, 0.9

Movement = Literal["pan", "shake"]


def simulate_movement(rng: np.random.Generator, movement: Movement, frame_count: int, rate_fps: float) -> np.ndarray:
    """Simulate how the picture shifts; returns pixels right and down from the first frame, shape (frames, 2)."""
    if movement == "pan":
        knots_s = np.arange(0, frame_count / rate_fps + _PAN_S, _PAN_S)
        places = rng.uniform(-1, 1, (len(knots_s), 2)) * _PAN_PX
        places[0] = 0
        return np.column_stack([np.interp(np.arange(frame_count) / rate_fps, knots_s, side) for side in places.T])
    camera_px = np.zeros((frame_count, 2))
    for frame_index in range(1, frame_count):
        camera_px[frame_index] = _SHAKE_MEMORY * camera_px[frame_index - 1] + rng.normal(0, _SHAKE_PX, 2)
    return camera_px


def move_crowd(crowd: Crowd, camera_px: np.ndarray) -> Crowd:
    """The crowd as the moving camera sees it; boxes are clipped to the frame, and those outside are left out."""
    size_px = np.array([crowd.settings.width_px, crowd.settings.height_px] * 2)

    def move(rows: np.ndarray, first: int) -> np.ndarray:
        boxes = rows[:, first : first + 4] + np.tile(camera_px[rows[:, 0].astype(int)], 2)
        clipped = boxes.clip(0, size_px)
        is_inside = (clipped[:, 2] - clipped[:, 0] > 0.4 * (boxes[:, 2] - boxes[:, 0])) & (
            clipped[:, 3] > clipped[:, 1]
        )
        moved: np.ndarray = np.column_stack([rows[:, :first], clipped, rows[:, first + 4 :]])[is_inside]
        return moved

    return Crowd(crowd.settings, move(crowd.truth, 2), move(crowd.detected_boxes, 1))


def draw_pictures(seed: int, crowd: Crowd, camera_px: np.ndarray) -> Iterator[np.ndarray]:
    """Draw the luma of each frame, at half the size, with people as grey boxes and with sensor noise.

    Args:
        seed: Of the background and the noise.
        crowd: In front of the camera as it stood in the first frame.
        camera_px: See `simulate_movement`.
    """
    rng = np.random.default_rng((5, seed))
    width_px, height_px = crowd.settings.width_px // _SCALE, crowd.settings.height_px // _SCALE
    background = Background(style=_STYLES[seed % len(_STYLES)], seed=seed)
    colours = draw_background(background, width_px + 2 * _MARGIN_PX, height_px + 2 * _MARGIN_PX)
    wide = cv2.cvtColor(colours, cv2.COLOR_BGR2GRAY)
    greys = rng.integers(0, 255, 1 + int(crowd.truth[:, 1].max(initial=0)))
    noise = rng.normal(0, 3, (2 * height_px, width_px)).astype(np.int8)
    edges = np.searchsorted(crowd.truth[:, 0], np.arange(len(camera_px) + 1))
    for frame_index, shift_px in enumerate(camera_px):
        x_px, y_px = shift_px / _SCALE - _MARGIN_PX
        picture = cv2.warpAffine(wide, np.array([[1, 0, x_px], [0, 1, y_px]]), (width_px, height_px))
        for row in crowd.truth[edges[frame_index] : edges[frame_index + 1]]:
            corners = ((row[2:6] + np.tile(shift_px, 2)) / _SCALE).round().astype(int).tolist()
            cv2.rectangle(picture, corners[:2], corners[2:], int(greys[int(row[1])]), -1)
        top = int(rng.integers(0, height_px))
        yield cv2.add(picture, noise[top : top + height_px], dtype=cv2.CV_8U)
