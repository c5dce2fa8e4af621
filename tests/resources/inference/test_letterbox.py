import numpy as np
import pytest

from resources.inference.letterbox import Letterbox


@pytest.mark.parametrize(
    ("width_px", "height_px", "input_size_px"),
    [
        (1280, 720, (640, 384)),
        (800, 600, (640, 480)),
        (360, 640, (384, 640)),
        (100, 50, (640, 320)),
        (641, 3, (640, 32)),
    ],
)
def test_images_are_letterboxed_as_ultralytics_does(
    width_px: int, height_px: int, input_size_px: tuple[int, int]
) -> None:
    from ultralytics.data.augment import LetterBox

    image = np.random.default_rng(0).integers(0, 255, (height_px, width_px, 3), np.uint8)
    letterbox = Letterbox.for_stride(width_px, height_px, 640)
    assert (letterbox.input_width_px, letterbox.input_height_px) == input_size_px
    assert np.array_equal(letterbox.apply(image), LetterBox((640, 640), auto=True, stride=32)(image=image))


def test_boxes_are_mapped_back_to_frame_pixels_and_clipped() -> None:
    letterbox = Letterbox.for_stride(1280, 720, 640)
    left_px, top_px = letterbox.left_px, letterbox.top_px
    input_boxes = np.array([[left_px + 10, top_px + 20, 110, 120], [-50, -50, 9999, 9999]], np.float32)
    frame_boxes = letterbox.to_frame_pixels(input_boxes, 1280, 720)
    assert frame_boxes[0].tolist() == [20, 40, (110 - left_px) * 2, (120 - top_px) * 2]
    assert frame_boxes[1].tolist() == [0, 0, 1280, 720]


def test_an_extremely_wide_image_keeps_at_least_one_row() -> None:
    letterbox = Letterbox.for_stride(4000, 2, 640)
    assert letterbox.apply(np.zeros((2, 4000, 3), np.uint8)).shape == (32, 640, 3)
