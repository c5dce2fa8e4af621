"""Composes the frames of a synopsis: objects of different times over the background."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from resources.clips.frame_canvas import FrameCanvas
from resources.clips.synopsis_plan import SynopsisObject
from resources.media.frame_reader import number_frames, read_distant_images
from resources.previews.annotated_frames import class_colour

_BACKGROUND_IMAGES, _MIN_BACKGROUND_IMAGES = 41, 3  # of all recordings, and of each that is chosen
_ROWS_AT_ONCE = 64
_PADDING = 0.12  # of the box, on each side
_JPEG_QUALITY = 92
_MIN_DIFFERENCE = 16  # grey levels between an object and the background
_MIN_OBJECT_SHARE = 0.05  # of the box; an object that differs in less looks like the background: all of it is shown


def background_counts(recording_count: int) -> list[int]:
    """How many frames of each recording show the background; in memory are all of them."""
    every = -(-_MIN_BACKGROUND_IMAGES * recording_count // _BACKGROUND_IMAGES)
    share = max(_MIN_BACKGROUND_IMAGES, _BACKGROUND_IMAGES // recording_count)
    return [share if number % every == 0 else 0 for number in range(recording_count)]


def median_background(images: Sequence[np.ndarray]) -> np.ndarray:
    """What is behind all objects: the median of frames of the recordings.

    Args:
        images: The frames, uint8 BGR arrays of shape (height_px, width_px, 3).
    """
    background = np.empty_like(images[0])
    for top in range(0, len(background), _ROWS_AT_ONCE):
        rows = slice(top, top + _ROWS_AT_ONCE)
        background[rows] = np.median(np.stack([image[rows] for image in images]), axis=0)
    return background


class SynopsisPictures:
    """The pictures of all objects, cut out of their recordings and kept in a file until their frame is composed.

    Args:
        objects: The objects.
        size_px: Width and height of the frames.
        file: An empty file.
    """

    def __init__(self, objects: Sequence[SynopsisObject], size_px: tuple[int, int], file: IO[bytes]) -> None:
        self._objects, self._size_px, self._file = objects, size_px, file
        self._places: dict[tuple[int, int], tuple[int, int]] = {}

    def cut(self, recording_id: str, video: Path, rate_fps: Fraction) -> None:
        """Cut out the objects of a recording.

        Raises:
            RecordingError: The video ends before the last of their frames.
        """
        import cv2

        needed: dict[int, list[tuple[int, int]]] = {}
        for number, item in enumerate(self._objects):
            if item.recording_id == recording_id:
                for position, frame_index in enumerate(item.frame_indices.tolist()):
                    needed.setdefault(frame_index, []).append((number, position))
        indices = sorted(needed)
        for frame_index, image in number_frames(read_distant_images(video, indices, rate_fps), indices, video):
            for key in needed[frame_index]:
                rows, columns = self.area(*key)
                options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
                is_encoded, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(image[rows, columns]), options)
                assert is_encoded, key
                self._places[key] = self._file.tell(), len(jpeg)
                self._file.write(jpeg.tobytes())

    def area(self, number: int, position: int) -> tuple[slice, slice]:
        """Rows and columns of the picture of an object: its box with a margin, at least a pixel."""
        left, top, right, bottom = self._objects[number].boxes[position]
        x_px, y_px = _PADDING * (right - left), _PADDING * (bottom - top)
        edges = []
        for low, high, side in (
            (top - y_px, bottom + y_px, self._size_px[1]),
            (left - x_px, right + x_px, self._size_px[0]),
        ):
            first = int(np.clip(np.floor(low), 0, side - 1))
            edges.append(slice(first, max(first + 1, int(np.clip(np.ceil(high), 0, side)))))
        return edges[0], edges[1]

    def read(self, number: int, position: int) -> np.ndarray:
        """The picture of an object as BGR."""
        import cv2

        offset, length = self._places[number, position]
        self._file.seek(offset)
        image = cv2.imdecode(np.frombuffer(self._file.read(length), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        return np.asarray(image)


def synopsis_frames(
    objects: Sequence[SynopsisObject],
    background: np.ndarray,
    pictures: SynopsisPictures,
    labels: Mapping[int, Sequence[str]],
    frame_count: int,
) -> Iterator[VideoFrame]:
    """Compose the frames.

    Args:
        objects: The objects with their places.
        background: BGR image.
        pictures: The pictures of the objects.
        labels: By object, the text beside it in each of its frames.
        frame_count: Number of frames.
    """
    shown: dict[int, list[int]] = {}
    for number, item in enumerate(objects):
        for frame in range(item.start_frame, item.start_frame + item.frame_count):
            shown.setdefault(frame, []).append(number)
    classes = sorted({item.class_name for item in objects})
    text_px = max(14, round(min(background.shape[:2]) / 30))
    for frame in range(frame_count):
        image = background.copy()
        for number in shown.get(frame, ()):
            position = frame - objects[number].start_frame
            rows, columns = pictures.area(number, position)
            _blend(image[rows, columns], pictures.read(number, position), background[rows, columns])
        converted = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        canvas = FrameCanvas.of(converted)
        for number in shown.get(frame, ()):
            item = objects[number]
            position = frame - item.start_frame
            left, top, _, _ = item.boxes[position]
            colour = class_colour(classes.index(item.class_name))
            canvas.draw_text(labels[number][position], left, top, text_px, colour)
        yield canvas.to_frame()


def _blend(target: np.ndarray, picture: np.ndarray, background: np.ndarray) -> None:
    """Put an object into a frame: what differs from the background, with soft edges.

    Args:
        target: The part of the frame, which is changed.
        picture: The picture of the object, of the same shape.
        background: What is behind it.
    """
    import cv2

    height, width = picture.shape[:2]
    difference = cv2.absdiff(picture, np.ascontiguousarray(background)).max(axis=2)
    mask = (difference > _MIN_DIFFERENCE).astype(np.uint8)
    reach = max(1, min(height, width) // 12)
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    mask = cv2.dilate(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel), kernel)
    if mask.mean() < _MIN_OBJECT_SHARE:
        mask = np.ones_like(mask)
    fade = np.minimum(_ramp(height)[:, None], _ramp(width)[None, :])
    alpha = (cv2.blur(mask.astype(np.float32), (2 * reach + 1, 2 * reach + 1)) * fade)[:, :, None]
    target[:] = np.round(alpha * picture + (1 - alpha) * target).astype(np.uint8)


def _ramp(length: int) -> np.ndarray:
    """From 0 outside of the edges to 1 inside of the margin."""
    margin = max(1.0, length * _PADDING / 2)
    position = np.arange(length) + 1
    return np.clip(np.minimum(position, position[::-1]) / margin, 0, 1).astype(np.float32)
