"""Which moments of a track are cropped: large, sharp and confident, neither cut off nor overlapped, spread in time."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from resources.config.tracking_config import CropSettings
from resources.storage.arrow_sql import select

_CANDIDATES_PER_CROP = 4  # whose pictures are compared; decoding them takes most of the time
_SHARPNESS_HEIGHT_PX = 128  # to which larger boxes are scaled, so that noise of the camera counts less

# A track is cut into equal parts, and each part into shorter ones, whose best boxes are the candidates.
_CANDIDATES_SQL = """
WITH sized AS (
    SELECT *, x_max_px - x_min_px AS w, y_max_px - y_min_px AS h,
        x_min_px <= 1 OR y_min_px <= 1 OR x_max_px >= $width - 1 OR y_max_px >= $height - 1 AS is_cut,
        ntile($per_track) OVER (PARTITION BY track_id ORDER BY frame_index) AS part
    FROM boxes WHERE NOT is_interpolated
),
scored AS (
    SELECT *, ntile($per_part) OVER (PARTITION BY track_id, part ORDER BY frame_index) AS piece,
        sqrt(w * h) * confidence ** 0.25 * (CASE WHEN is_cut THEN 0.5 ELSE 1 END) AS score
    FROM sized WHERE w >= $min_side AND h >= $min_side
),
best AS (
    SELECT * FROM scored
    QUALIFY row_number() OVER (PARTITION BY track_id, part, piece ORDER BY score DESC, frame_index) = 1
),
covered AS (
    SELECT best.track_id, best.frame_index, max(
        greatest(0, least(best.x_max_px, other.x_max_px) - greatest(best.x_min_px, other.x_min_px))
        * greatest(0, least(best.y_max_px, other.y_max_px) - greatest(best.y_min_px, other.y_min_px))
        / (best.w * best.h)
    ) AS share
    FROM best JOIN boxes AS other ON other.frame_index = best.frame_index AND other.track_id <> best.track_id
    GROUP BY ALL
)
SELECT best.* EXCLUDE (w, h, is_cut, piece) REPLACE (score * (1 - 0.3 * coalesce(share, 0)) AS score)
FROM best LEFT JOIN covered USING (track_id, frame_index) ORDER BY frame_index, track_id
"""


def select_candidates(boxes: pa.Table, width_px: int, height_px: int, settings: CropSettings) -> pa.Table:
    """Select the boxes whose pictures are compared, up to four for each of `per_track` equal parts of a track.

    Args:
        boxes: Rows of `track_boxes` of one recording.
        width_px: Width of the normalized video.
        height_px: Height of the normalized video.
        settings: Number of crops per track and the smallest side of a box.

    Returns:
        The selected rows, ordered by frame_index, with a column part, and a column score: the square root of the area
        times the fourth root of the confidence, halved if the frame cuts the box, less up to 30 % where another box
        covers it. With these weights size and sharpness decide, and the others between pictures that are nearly equal.
    """
    values = {
        "width": width_px,
        "height": height_px,
        "per_track": settings.per_track,
        "per_part": _CANDIDATES_PER_CROP,
        "min_side": settings.min_side_px,
    }
    return select(_CANDIDATES_SQL, {"boxes": boxes}, values)


@dataclass(frozen=True)
class Crop:
    """One crop of a track.

    Attributes:
        row: The row of its box, with sharpness and score.
        image: uint8 BGR array of shape (crop_height_px, crop_width_px, 3).
    """

    row: Mapping[str, Any]
    image: np.ndarray


class BestCrops:
    """Picks the best candidate of each part of a track, with one picture per part in memory.

    Args:
        candidates: Rows of `select_candidates`.
        padding: Margin on each side of a crop, as a share of the box's size.
    """

    def __init__(self, candidates: Sequence[Mapping[str, Any]], padding: float) -> None:
        self._padding = padding
        self._rows_by_frame: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        self._last_frame: dict[tuple[int, int], int] = {}
        for row in candidates:
            self._rows_by_frame[row["frame_index"]].append(row)
            self._last_frame[_part_of(row)] = row["frame_index"]
        self._best: dict[tuple[int, int], Crop] = {}
        self.frame_indices = sorted(self._rows_by_frame)

    def add(self, frame_index: int, image: np.ndarray) -> Iterator[Crop]:
        """Compare the candidates of the next frame; yields the crops of the parts that end with it.

        Args:
            frame_index: The next of `frame_indices`.
            image: The frame, uint8 BGR.
        """
        for row in self._rows_by_frame.pop(frame_index):
            xyxy = np.array([row[f"{edge}_px"] for edge in ("x_min", "y_min", "x_max", "y_max")])
            sharpness = measure_sharpness(crop_image(image, xyxy, 0))
            score, part = row["score"] * sharpness, _part_of(row)
            best = self._best.get(part)
            if best is None or score > best.row["score"]:
                picture = crop_image(image, xyxy, self._padding).copy()  # a view would keep the whole frame
                self._best[part] = Crop({**row, "sharpness": sharpness, "score": score}, picture)
            if self._last_frame[part] == frame_index:
                yield self._best.pop(part)

    @property
    def missing_frame_index(self) -> int | None:
        """The first frame that was not added; None if all were."""
        return min(self._rows_by_frame, default=None)


def _part_of(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["track_id"], row["part"]


def rank_crops(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to rows of `crops` their rank by score within their track, and order them by track and rank."""
    ranked: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["track_id"], -row["score"], row["frame_index"])):
        is_first = not ranked or ranked[-1]["track_id"] != row["track_id"]
        ranked.append({**row, "rank": 1 if is_first else ranked[-1]["rank"] + 1})
    return ranked


def crop_image(image: np.ndarray, xyxy: np.ndarray, padding: float) -> np.ndarray:
    """Crop an image to a box and its margin.

    Args:
        image: Array of shape (height_px, width_px, 3).
        xyxy: Corners in pixels, shape (4,).
        padding: Margin on each side, as a share of the box's size.

    Returns:
        A view of shape (crop_height_px, crop_width_px, 3), at least 1 by 1, clipped to the image.
    """
    left, top, right, bottom = crop_edges(xyxy, padding, image.shape[1], image.shape[0])
    return image[top:bottom, left:right]


def crop_edges(xyxy: np.ndarray, padding: float, width_px: int, height_px: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the crop of a box, at least 1 by 1, clipped to the frame.

    Args:
        xyxy: Corners of the box in pixels, shape (4,).
        padding: Margin on each side, as a share of the box's size.
        width_px: Width of the frame.
        height_px: Height of the frame.
    """
    right, bottom = np.ceil(xyxy[2:] + (xyxy[2:] - xyxy[:2]) * padding).astype(int)
    left, top = crop_origin(xyxy, padding)
    left, top = min(left, width_px - 1), min(top, height_px - 1)
    return left, top, max(left + 1, min(int(right), width_px)), max(top + 1, min(int(bottom), height_px))


def crop_origin(xyxy: np.ndarray, padding: float) -> tuple[int, int]:
    """Left and top edge of the crop of a box inside the frame, in pixels of the frame.

    Args:
        xyxy: Corners of the box, shape (4,).
        padding: Margin on each side, as a share of the box's size.
    """
    left, top = np.floor(xyxy[:2] - (xyxy[2:] - xyxy[:2]) * padding).astype(int)
    return max(int(left), 0), max(int(top), 0)


def measure_sharpness(image: np.ndarray) -> float:
    """Variance of the Laplacian of an image's grey levels, at most 128 px high.

    Args:
        image: uint8 BGR array of shape (height_px, width_px, 3).

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if grey.shape[0] > _SHARPNESS_HEIGHT_PX:
        width_px = max(1, round(grey.shape[1] * _SHARPNESS_HEIGHT_PX / grey.shape[0]))
        grey = cv2.resize(grey, (width_px, _SHARPNESS_HEIGHT_PX), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_16S).var())
