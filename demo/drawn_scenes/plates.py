"""A drawn car with a number plate that comes nearer, under a clock as cameras burn it into the picture."""

from datetime import datetime, timedelta

import cv2

from demo.drawn_scenes.scenes import Image

PLATE = "KA 7482"
PLATE_WIDTH_PX, PLATE_HEIGHT_PX, PLATE_RATE_FPS = 854, 480, 25
_STARTED_AT = datetime(2026, 3, 1, 8)
_WHITE, _BLACK = (255, 255, 255), (10, 10, 10)


def plated_car_box(frame_index: int) -> tuple[float, float, float, float]:
    """Corners of the car in a frame, in pixels."""
    return 60.0 + 4 * frame_index, 100.0 + frame_index, 300.0 + 5 * frame_index, 280.0 + 2 * frame_index


def draw_plated_car(frame_index: int, image: Image) -> Image:
    """Draw the car and the clock of a frame.

    Args:
        frame_index: From 0; the car has left the picture after about 100 frames.
        image: The background, uint8 BGR of shape (PLATE_HEIGHT_PX, PLATE_WIDTH_PX, 3), on which is drawn.
    """
    left, top, right, bottom = map(int, plated_car_box(frame_index))
    width, height = right - left, bottom - top
    cv2.rectangle(image, (left, top), (right, bottom), (150, 60, 20), -1)
    plate_left, plate_right = left + width // 4, right - width // 4
    plate_top, plate_bottom = bottom - height // 3, bottom - height // 8
    cv2.rectangle(image, (plate_left, plate_top), (plate_right, plate_bottom), _WHITE, -1)
    place, scale = (plate_left + 8, plate_bottom - height // 14), (plate_right - plate_left) / 150
    cv2.putText(image, PLATE, place, cv2.FONT_HERSHEY_DUPLEX, scale, _BLACK, 1, cv2.LINE_AA)
    clock = f"{_STARTED_AT + timedelta(seconds=frame_index // PLATE_RATE_FPS):%Y-%m-%d %H:%M:%S}"
    cv2.putText(image, clock, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, _WHITE, 1, cv2.LINE_AA)
    return image
