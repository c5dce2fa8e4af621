"""The parts of tracks that association gives: their sums, their links, and which are objects and which are noise."""

from dataclasses import dataclass, fields

import numpy as np

from resources.config.tracking_config import TrackSettings
from resources.tracking.track_linking import Links, TrackEnds, link_tracks
from resources.tracking.track_smoothing import smooth_boxes, track_starts

# A box is unusually unconfident if its odds are below this quantile of all tracked boxes of the class. It counts less
# by the ratio of the odds: what a detector reports of nothing again and again is less confident than what it reports of
# objects, at whatever level its confidences are.
_USUAL_ODDS_QUANTILE = 0.25
_MIN_CONFIDENCE, _MAX_CONFIDENCE = 0.01, 0.995  # beyond these, odds say nothing
_LOG_ODDS_EDGES = np.arange(-5.0, 5.5, 0.05)


@dataclass(frozen=True)
class LinkedTracks:
    """Tracks joined from parts.

    Attributes:
        track_of_part: Number of the track of each part, from 1 in the order in which tracks start; 0 for parts that are
            noise. By the number of the part.
        link_confidence: Confidence of the link to the part before it; NaN without one. By the number of the part.
        class_id: Class of most boxes of each track, by its number.
        class_votes: Number of these boxes, by the number of the track.
        observations: Number of boxes of each track, by its number.
    """

    track_of_part: np.ndarray
    link_confidence: np.ndarray
    class_id: np.ndarray
    class_votes: np.ndarray
    observations: np.ndarray

    def lowest_confidences(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the tracks that have links, and the lowest confidence of each."""
        is_linked = ~np.isnan(self.link_confidence) & (self.track_of_part > 0)
        lowest = np.full(len(self.class_id), np.inf)
        np.minimum.at(lowest, self.track_of_part[is_linked], self.link_confidence[is_linked])
        numbers = np.flatnonzero(np.isfinite(lowest))
        return numbers, lowest[numbers]


@dataclass(frozen=True)
class TrackedBoxes:
    """Associated boxes of n rows, sorted by frame.

    Attributes:
        part: Number of the part, 0 for none, shape (n,).
        frame_index: Shape (n,).
        time_s: Shape (n,).
        xyxy: Corners in pixels, without the motion of the camera, shape (n, 4).
        confidence: Shape (n,).
        class_id: Shape (n,).
    """

    part: np.ndarray
    frame_index: np.ndarray
    time_s: np.ndarray
    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray

    def select(self, rows: np.ndarray) -> "TrackedBoxes":
        """Some of the rows, by a boolean mask or row numbers."""
        return TrackedBoxes(*(getattr(self, field.name)[rows] for field in fields(self)))

    def sort_by_part(self) -> "TrackedBoxes":
        """The rows that have a part, sorted by part and frame."""
        rows = np.flatnonzero(self.part)
        return self.select(rows[np.argsort(self.part[rows], kind="stable")])


def track_ends(boxes: TrackedBoxes) -> tuple[np.ndarray, TrackEnds, TrackEnds]:
    """Smoothed first and last box of each track.

    Args:
        boxes: Sorted by part and frame.

    Returns:
        First row of each part, and the starts and ends in the same order.
    """
    first, length = track_starts(boxes.part)
    smoothed = smooth_boxes(boxes.part, boxes.time_s, boxes.xyxy, boxes.confidence)

    def ends(rows: np.ndarray) -> TrackEnds:
        return TrackEnds(
            boxes.time_s[rows],
            smoothed.centre[rows],
            smoothed.velocity[rows],
            smoothed.size[rows],
            smoothed.variance[rows],
            boxes.class_id[rows],
        )

    return first, ends(first), ends(first + length - 1)


class UsualOdds:
    """The usual odds of a recording's tracked boxes, by class: a histogram, so that memory is bounded."""

    def __init__(self) -> None:
        self._counts: dict[int, np.ndarray] = {}

    def add(self, confidence: np.ndarray, class_id: np.ndarray) -> None:
        """Count some boxes; both of shape (n,)."""
        log_odds = _log_odds(confidence)
        for number in np.unique(class_id).tolist():
            counts = np.histogram(log_odds[class_id == number], _LOG_ODDS_EDGES)[0]
            self._counts[number] = self._counts.get(number, 0) + counts

    def weigh(self, confidence: np.ndarray, class_id: np.ndarray) -> np.ndarray:
        """Weight of boxes of counted classes: 1 from the usual odds on, else the ratio of the odds; shape (n,)."""
        usual = np.zeros(len(confidence))
        for number, counts in self._counts.items():
            share = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
            usual[class_id == number] = np.interp(_USUAL_ODDS_QUANTILE, share, _LOG_ODDS_EDGES)
        return np.exp(np.minimum(_log_odds(confidence) - usual, 0))


def _log_odds(confidence: np.ndarray) -> np.ndarray:
    clipped: np.ndarray = np.clip(confidence, _MIN_CONFIDENCE, _MAX_CONFIDENCE)
    log_odds: np.ndarray = np.log(clipped / (1 - clipped))
    return log_odds


class TrackParts:
    """Collects the parts of a recording's tracks, stretch by stretch.

    Args:
        part_count: The largest number of a part.
        usual_odds: Of all boxes that have a part.
        frame_span: How many frames a box in each frame stands for, shape (frames,).
    """

    def __init__(self, part_count: int, usual_odds: UsualOdds, frame_span: np.ndarray) -> None:
        self._usual_odds, self._frame_span = usual_odds, frame_span
        shapes = {"centre": (2,), "velocity": (2,), "size": (2,), "variance": (3,)}
        empty = {field.name: np.zeros((part_count + 1, *shapes.get(field.name, ()))) for field in fields(TrackEnds)}
        self._starts, self._ends = (
            TrackEnds(**empty),
            TrackEnds(**{name: array.copy() for name, array in empty.items()}),
        )
        self._count = np.zeros(part_count + 1, int)
        self._best_confidence = np.zeros(part_count + 1)
        self._votes: dict[int, np.ndarray] = {}
        self._class_counts: dict[int, np.ndarray] = {}
        self._frames, self._weighted_frames = np.zeros(part_count + 1), np.zeros(part_count + 1)
        self._corner_min, self._corner_max = np.full(2, np.inf), np.full(2, -np.inf)

    def add(self, boxes: TrackedBoxes, first_frame: int, end_frame: int) -> None:
        """Add the boxes of a stretch.

        Args:
            boxes: The boxes of the stretch, and of as much time before and after it as a part may have no box.
            first_frame: First frame of the stretch.
            end_frame: The frame after its last.
        """
        boxes = boxes.sort_by_part()
        first, starts, ends = track_ends(boxes)
        last = np.append(first[1:], len(boxes.part))[: len(first)] - 1
        for side, states, rows in ((self._starts, starts, first), (self._ends, ends, last)):
            is_inside = (boxes.frame_index[rows] >= first_frame) & (boxes.frame_index[rows] < end_frame)
            for field in fields(TrackEnds):
                getattr(side, field.name)[boxes.part[rows[is_inside]]] = getattr(states, field.name)[is_inside]
        boxes = boxes.select((boxes.frame_index >= first_frame) & (boxes.frame_index < end_frame))
        self._count += np.bincount(boxes.part, minlength=len(self._count))
        np.maximum.at(self._best_confidence, boxes.part, boxes.confidence)
        for class_id in np.unique(boxes.class_id).tolist():
            rows = np.flatnonzero(boxes.class_id == class_id)
            votes = np.bincount(boxes.part[rows], boxes.confidence[rows], len(self._count))
            self._votes[class_id] = self._votes.get(class_id, 0) + votes
            boxes_of_class = np.bincount(boxes.part[rows], minlength=len(self._count))
            self._class_counts[class_id] = self._class_counts.get(class_id, 0) + boxes_of_class
        weight, span = self._usual_odds.weigh(boxes.confidence, boxes.class_id), self._frame_span[boxes.frame_index]
        self._frames += np.bincount(boxes.part, span, len(self._count))
        self._weighted_frames += np.bincount(boxes.part, weight * span, len(self._count))
        if len(boxes.part):
            self._corner_min = np.minimum(self._corner_min, boxes.xyxy[:, :2].min(axis=0))
            self._corner_max = np.maximum(self._corner_max, boxes.xyxy[:, 2:].max(axis=0))

    def link(self, rate_fps: float, settings: TrackSettings) -> LinkedTracks:
        """Join parts that are links of one track, and drop those that are noise."""
        parts = np.flatnonzero(self._count)
        confidence = np.full(len(self._count), np.nan)
        root = np.arange(len(self._count))
        class_ids = np.array(sorted(self._votes), int)
        votes = np.stack([self._votes[class_id] for class_id in class_ids.tolist()] or [np.zeros(len(root))])
        if settings.link_s and len(parts):
            class_of_part = votes.argmax(axis=0)
            self._starts.class_id[:], self._ends.class_id[:] = class_of_part, class_of_part
            links = self._find_links(parts, rate_fps, settings)
            confidence[links.start] = links.confidence
            for end, start in zip(links.end.tolist(), links.start.tolist(), strict=True):
                root[start] = root[end]  # ends are sorted by time: those of earlier parts have their root
        seconds = np.bincount(root, self._weighted_frames, len(root)) / rate_fps
        counts = np.bincount(root, self._count, len(root))
        best = np.zeros(len(root))
        np.maximum.at(best, root, self._best_confidence)
        is_object = (counts > 1) & (seconds >= settings.min_duration_s) & (best >= settings.min_best_confidence)
        objects = np.flatnonzero(is_object)
        objects = objects[np.argsort(self._starts.time_s[objects], kind="stable")]
        number = np.zeros(len(root), np.int32)
        number[objects] = np.arange(1, len(objects) + 1)
        # Of classes with equally many boxes, that with the larger sum of confidences.
        confidences = np.stack([np.bincount(root, values, len(root)) for values in votes])[:, objects]
        boxes = [self._class_counts[class_id] for class_id in class_ids.tolist()] or [np.zeros(len(root))]
        class_counts = np.stack([np.bincount(root, values, len(root)) for values in boxes])[:, objects]
        best_class = (class_counts + confidences / (confidences.sum(axis=0) + 1)).argmax(axis=0)
        class_id = class_ids[best_class] if len(objects) else np.empty(0, int)
        class_votes = np.take_along_axis(class_counts, best_class[None], axis=0)[0]
        return LinkedTracks(
            number[root],
            confidence,
            *(np.concatenate([[0], values]) for values in (class_id, class_votes, counts[objects])),
        )

    def _find_links(self, parts: np.ndarray, rate_fps: float, settings: TrackSettings) -> Links:
        """The links between parts, by their numbers."""
        starts, ends = self._starts.select(parts), self._ends.select(parts)
        duration_s = float(ends.time_s.max() - starts.time_s.min())
        area_px = float((self._corner_max - self._corner_min).prod())
        # Short parts are mostly noise, so that they tell little about how often objects appear.
        is_short = self._frames[parts] / rate_fps < settings.min_duration_s
        count = np.where(is_short, is_short.sum(), (~is_short).sum())
        start_density = count / max(duration_s, 1.0) / max(area_px, 1.0)
        links = link_tracks(ends, starts, settings.link_s, settings.min_link_confidence, start_density)
        return Links(parts[links.end], parts[links.start], links.confidence)
