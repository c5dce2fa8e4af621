"""Tiles: a model runs on overlapping parts of each frame, and the boxes of one object become one box.

Small objects are lost when a large frame is scaled to the input of a network; in a tile they keep their pixels.
"""

import functools
import math
import queue
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from resources.config.detection_config import DetectionSettings
from resources.config.tile_config import TileSettings
from resources.inference.detection_arrays import Detections
from resources.inference.detector import Detector
from resources.inference.gpu_frames import letterbox_tensor
from resources.inference.gpu_memory import retry_after_freeing_memory
from resources.inference.letterbox import Letterbox
from resources.inference.nms import greedy_nms
from resources.media.frame_reader import Image

_MIN_COMMON_IOU = 0.5  # of two boxes of one object, within what both tiles show
_MIN_PIECE_SHARE = 0.8  # of a piece at a seam that is inside a whole box
_MIN_SEAM_PX, _SEAM_SHARE = 2.0, 0.01  # how near to a seam, at most, the edge of a piece is
_COMPARED_ROWS = 256  # bounds the memory that many boxes need
_CLASS_OFFSET_PX = 100_000.0  # moves the boxes of different classes apart


@dataclass(frozen=True)
class Tile:
    """A part of the frame.

    Attributes:
        left_px: Left edge.
        top_px: Top edge.
        width_px: Width in the frame.
        height_px: Height in the frame.
    """

    left_px: int
    top_px: int
    width_px: int
    height_px: int

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom edge."""
        return self.left_px, self.top_px, self.left_px + self.width_px, self.top_px + self.height_px

    def cut(self, image: Image) -> Image:
        """Cut the tile out of a frame; the result is a view."""
        return image[self.top_px : self.top_px + self.height_px, self.left_px : self.left_px + self.width_px]


def plan_tiles(width_px: int, height_px: int, settings: TileSettings) -> tuple[Tile, ...]:
    """Cover a frame with overlapping tiles of one size, and with the whole frame if the settings ask for it.

    Args:
        width_px: Width of the frame.
        height_px: Height of the frame.
        settings: Size and overlap.

    Returns:
        The tiles, the whole frame last; empty for a frame that is no larger than a tile.
    """
    size_px = (min(settings.size_px, width_px), min(settings.size_px, height_px))
    starts = []
    for length_px, tile_px in zip((width_px, height_px), size_px, strict=True):
        step_px = tile_px * (1 - settings.overlap)
        count = 1 + math.ceil(max(0.0, length_px - tile_px) / step_px)
        starts.append(np.linspace(0, length_px - tile_px, count).round().astype(int).tolist())
    tiles = [Tile(left, top, *size_px) for top in starts[1] for left in starts[0]]
    if len(tiles) == 1:
        return ()
    return (*tiles, *([Tile(0, 0, width_px, height_px)] if settings.whole_frame else []))


class TiledDetector:
    """A detector that runs on the tiles of each frame; it has the interface of `Detector`.

    Args:
        detector: The detector, loaded for images of the size of a tile.
        tiles: The tiles of a frame.
        settings: Thresholds.

    Attributes:
        model_id: Name and content hash of the weights.
        class_names: By class index.
        engine_name: The engine that runs the network.
        task: Task of the network, which is detect.
        measurements: Measurements of the engine selection; empty if nothing was measured.
    """

    def __init__(self, detector: Detector, tiles: Sequence[Tile], settings: DetectionSettings) -> None:
        self.model_id, self.class_names, self.engine_name = (
            detector.model_id,
            detector.class_names,
            detector.engine_name,
        )
        self.task, self.measurements = detector.task, detector.measurements
        self.accepts_tensors, self.decoder_thread_count = detector.accepts_tensors, detector.decoder_thread_count
        self._detector, self._tiles, self._settings = detector, tiles, settings
        self._size_px = (tiles[0].width_px, tiles[0].height_px)
        self._frame_size_px = (max(tile.edges[2] for tile in tiles), max(tile.edges[3] for tile in tiles))

    def downscale_factor(self, width_px: int, height_px: int) -> int:
        """Tiles need every pixel: 1."""
        return 1

    def count_analysed_frames(self, frame_count: int) -> None:
        """Count analysed frames; see `Detector.count_analysed_frames`."""
        self._detector.count_analysed_frames(frame_count * len(self._tiles))

    def detect(self, images: Iterable["Image | None"], size_px: tuple[int, int] | None = None) -> Iterator[Detections]:
        """Detect objects in frames, in order; see `Detector.detect`.

        Args:
            images: The frames; None for one that has not changed.
            size_px: Width and height of the frames, which must not be downscaled.

        Yields:
            The detections of each frame.
        """
        is_analysed: queue.SimpleQueue[bool] = queue.SimpleQueue()

        def cut_tiles() -> Iterator[Image]:
            for image in images:
                is_analysed.put(image is not None)
                if image is not None:
                    yield from (self._cut(image, tile) for tile in self._tiles)

        nothing = np.zeros(0, np.float32)
        last = Detections(nothing.reshape(0, 4), nothing, nothing.astype(np.int32), is_reused=True)
        in_tiles = self._detector.detect(cut_tiles())
        for first in in_tiles:
            while not is_analysed.get():
                yield last
            parts = [first, *(next(in_tiles) for _ in self._tiles[1:])]
            in_frame = [self._to_frame(part, tile) for part, tile in zip(parts, self._tiles, strict=True)]
            merged = merge_tiles(self._tiles, in_frame, self._frame_size_px, self._settings)
            last = replace(merged, is_reused=True)
            yield merged
        while not is_analysed.empty():
            is_analysed.get()
            yield last

    def _fit(self, tile: Tile) -> Letterbox | None:
        """How a larger tile, the whole frame, becomes as large as the others; None for one of their size."""
        if (tile.width_px, tile.height_px) == self._size_px:
            return None
        return Letterbox.for_input_size(tile.width_px, tile.height_px, *self._size_px)

    def _cut(self, image: Image, tile: Tile) -> Image:
        fit = self._fit(tile)
        if fit is None:
            return tile.cut(image)
        if isinstance(image, np.ndarray):
            return fit.apply(image)
        return retry_after_freeing_memory(functools.partial(letterbox_tensor, fit, image), image.device)

    def _to_frame(self, detections: Detections, tile: Tile) -> Detections:
        fit, xyxy = self._fit(tile), detections.xyxy
        if fit is not None:
            return replace(detections, xyxy=fit.to_frame_pixels(xyxy, tile.width_px, tile.height_px))
        return replace(detections, xyxy=xyxy + np.array([tile.left_px, tile.top_px] * 2, np.float32))


AnyDetector: TypeAlias = Detector | TiledDetector
"""A detector, on whole frames or on tiles."""


def merge_tiles(
    tiles: Sequence[Tile],
    parts: Sequence[Detections],
    frame_size_px: tuple[int, int],
    settings: DetectionSettings,
) -> Detections:
    """Merge the boxes of tiles: one box for each object.

    Two boxes of a class from different tiles are of one object if they agree within what both tiles show. Of these, the
    best whole box is kept, with the highest confidence of all. If a seam cuts all of them, the object is larger than
    the overlap, and its box is that around the pieces.

    Args:
        tiles: The tiles.
        parts: The detections of each tile, in pixels of the frame.
        frame_size_px: Width and height of the frame.
        settings: `nms_iou` and `max_per_frame`.

    Returns:
        The detections of the frame, best first.
    """
    xyxy = np.concatenate([part.xyxy for part in parts])
    confidence = np.concatenate([part.confidence for part in parts])
    class_id = np.concatenate([part.class_id for part in parts])
    tile_edges = np.array([tile.edges for tile in tiles], np.float32)
    edges = np.repeat(tile_edges, [len(part) for part in parts], axis=0)
    is_cut = _is_cut(xyxy, edges, frame_size_px)
    order = np.lexsort((-confidence, is_cut))  # whole boxes first, then the best
    xyxy, confidence, class_id, edges, is_cut = (
        values[order] for values in (xyxy, confidence, class_id, edges, is_cut)
    )
    is_same = _find_same(xyxy, class_id, edges, is_cut)
    is_left = np.ones(len(xyxy), bool)
    kept_boxes, kept_scores, kept_classes = list[np.ndarray](), list[float](), list[int]()
    for index in range(len(xyxy)):
        if not is_left[index]:
            continue
        members = is_same[index] & is_left
        if is_cut[index]:
            members = _connected(index, is_same, is_left)
        members[index] = True
        is_left &= ~members
        pieces = xyxy[members] if is_cut[index] else xyxy[index : index + 1]
        kept_boxes.append(np.concatenate([pieces[:, :2].min(axis=0), pieces[:, 2:].max(axis=0)]))
        kept_scores.append(confidence[members].max())
        kept_classes.append(class_id[index])
    scores = np.array(kept_scores, np.float32)
    best = np.argsort(-scores, kind="stable")
    boxes = np.array(kept_boxes, np.float32).reshape(-1, 4)[best]
    scores, classes = scores[best], np.array(kept_classes, np.int32)[best]
    offset = (classes * _CLASS_OFFSET_PX)[:, None]  # float64, because float32 has no pixels of classes after the 160th
    selected = greedy_nms(boxes + offset, settings.nms_iou)[: settings.max_per_frame]
    return Detections(boxes[selected], scores[selected], classes[selected])


def _is_cut(xyxy: np.ndarray, edges: np.ndarray, frame_size_px: tuple[int, int]) -> np.ndarray:
    """Whether each box ends at an edge of its tile that is not one of the frame."""
    size_px = edges[:, 2:] - edges[:, :2]
    reach_px = np.maximum(_MIN_SEAM_PX, _SEAM_SHARE * np.tile(size_px, 2))
    is_at_edge = np.abs(xyxy - edges) <= reach_px
    is_seam = np.concatenate([edges[:, :2] > 0, edges[:, 2:] < np.array(frame_size_px)], axis=1)
    return np.asarray((is_at_edge & is_seam).any(axis=1))


def _find_same(xyxy: np.ndarray, class_id: np.ndarray, edges: np.ndarray, is_cut: np.ndarray) -> np.ndarray:
    """Which pairs of boxes are of one object, as a boolean matrix."""
    is_same = np.zeros((len(xyxy), len(xyxy)), bool)
    for begin in range(0, len(xyxy), _COMPARED_ROWS):
        rows = slice(begin, begin + _COMPARED_ROWS)
        overlaps = class_id[rows, None] == class_id[None, :]
        for axis in (0, 1):
            overlaps &= xyxy[rows, None, axis] < xyxy[None, :, axis + 2]
            overlaps &= xyxy[None, :, axis] < xyxy[rows, None, axis + 2]
        first, second = np.nonzero(overlaps)  # few of all pairs, so that the rest costs little
        first += begin
        is_same[first, second] = _agree(xyxy, edges, is_cut, first, second)
    return is_same


def _agree(
    xyxy: np.ndarray, edges: np.ndarray, is_cut: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Whether the boxes of each pair, from different tiles, agree within what both tiles show."""
    low = np.maximum(edges[first, :2], edges[second, :2])
    high = np.minimum(edges[first, 2:], edges[second, 2:])

    def common_area(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        return np.asarray((np.minimum(ends, high) - np.maximum(starts, low)).clip(0).prod(axis=1))

    starts, ends, other_starts, other_ends = xyxy[first, :2], xyxy[first, 2:], xyxy[second, :2], xyxy[second, 2:]
    area, other_area = common_area(starts, ends), common_area(other_starts, other_ends)
    both = common_area(np.maximum(starts, other_starts), np.minimum(ends, other_ends))
    with np.errstate(divide="ignore", invalid="ignore"):
        agrees = both / (area + other_area - both) >= _MIN_COMMON_IOU
        is_piece = is_cut[second] & ~is_cut[first] & (both / other_area >= _MIN_PIECE_SHARE)
    from_other_tile = (edges[first] != edges[second]).any(axis=1)
    return np.asarray((agrees | is_piece) & from_other_tile & (both > 0))


def _connected(index: int, is_same: np.ndarray, is_left: np.ndarray) -> np.ndarray:
    """The boxes left that are connected to one by pairs of one object, as a mask."""
    members = np.zeros(len(is_same), bool)
    members[index] = True
    while True:
        reached = members | (is_same[members].any(axis=0) & is_left)
        if (reached == members).all():
            return members
        members = reached
