"""Simulated crowds: boxes of people walking in front of a fixed camera, and the detections of an imperfect detector.

A crowd has no images, so hundreds of crowds are simulated in seconds; tracking and counting are tested on them.
Positions are in pixels from the top left corner of the frame.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from resources.schema.model_tables import DETECTIONS


@dataclass(frozen=True)
class CrowdSettings:
    """Behaviour of a crowd, and quality of its detections.

    Attributes:
        duration_s: Duration.
        rate_fps: Frames per second.
        person_count: Number of people, spread over the whole duration.
        width_px: Width of the frame.
        height_px: Height of the frame.
        jitter: Standard deviation of each edge of a detected box, as a share of the box's height.
        miss_rate: Share of boxes that the detector misses at random.
        false_positive_count: Number of places with occasional false detections.
        has_occlusion: Whether people occlude those behind them.
        has_random_motion: Whether people turn round, stand still and swerve; otherwise they walk straight on.
    """

    duration_s: float = 20.0
    rate_fps: float = 25.0
    person_count: int = 8
    width_px: int = 1280
    height_px: int = 720
    jitter: float = 0.015
    miss_rate: float = 0.05
    false_positive_count: int = 2
    has_occlusion: bool = True
    has_random_motion: bool = True


@dataclass(frozen=True)
class Crowd:
    """A simulated crowd.

    Attributes:
        settings: Its settings.
        truth: Ground truth, shape (n, 6), sorted by frame: frame_index, person number, x_min_px, y_min_px, x_max_px,
            y_max_px.
        detected_boxes: Simulated detections, shape (m, 6), sorted by frame: frame_index, x_min_px, y_min_px, x_max_px,
            y_max_px, confidence.
    """

    settings: CrowdSettings
    truth: np.ndarray
    detected_boxes: np.ndarray

    def detections(self, recording_id: str = "crowd") -> pa.Table:
        """The detected boxes as rows of `detections`, all of the class person."""
        count = len(self.detected_boxes)
        frame_index = self.detected_boxes[:, 0].astype(np.int32)
        frame_start = np.searchsorted(frame_index, frame_index)
        columns = {
            "recording_id": pa.repeat(recording_id, count),
            "frame_index": frame_index,
            "detection_index": (np.arange(count) - frame_start).astype(np.int32),
            "source_frame_index": frame_index,
            "time_s": frame_index / self.settings.rate_fps,
            "class_id": np.zeros(count, np.int32),
            "class_name": pa.repeat("person", count),
            "confidence": self.detected_boxes[:, 5],
            "x_min_px": self.detected_boxes[:, 1],
            "y_min_px": self.detected_boxes[:, 2],
            "x_max_px": self.detected_boxes[:, 3],
            "y_max_px": self.detected_boxes[:, 4],
            "is_reused": np.zeros(count, bool),
            "model_id": pa.repeat("drawn", count),
            "engine_name": pa.repeat("drawn", count),
        }
        return pa.table(columns).select(DETECTIONS.arrow_schema.names).cast(DETECTIONS.arrow_schema)


def simulate_crowd(seed: int, settings: CrowdSettings | None = None) -> Crowd:
    """Simulate a crowd; equal arguments give equal crowds.

    Args:
        seed: Seed of the random generator.
        settings: Settings; None means the default ones.
    """
    settings = settings or CrowdSettings()
    rng = np.random.default_rng((3, seed))
    frame_count = round(settings.duration_s * settings.rate_fps)
    truth = np.concatenate(
        [_simulate_person(rng, person, frame_count, settings) for person in range(1, settings.person_count + 1)]
    )
    truth = truth[np.lexsort((truth[:, 1], truth[:, 0]))]
    boxes = np.clip(truth[:, 2:6], 0, [settings.width_px, settings.height_px] * 2)
    is_inside = (boxes[:, 2] - boxes[:, 0] > 0.4 * (truth[:, 4] - truth[:, 2])) & (boxes[:, 3] > boxes[:, 1])
    truth = np.column_stack([truth[:, :2], boxes])[is_inside]
    return Crowd(settings, truth, _simulate_detections(rng, truth, frame_count, settings))


def simulate_crossings(seed: int, settings: CrowdSettings | None = None) -> tuple[Crowd, int, int]:
    """Simulate people at a vertical line through the middle of the frame.

    They cross the line, turn round before it, cross it and come back, or stand on it before they continue or return.

    Args:
        seed: Seed of the random generator.
        settings: Settings; None means four people in 16 seconds.

    Returns:
        The crowd, the number of crossings from left to right, and the number of crossings from right to left.
    """
    settings = settings or CrowdSettings(person_count=4, duration_s=16.0)
    rng = np.random.default_rng((4, seed))
    frame_count = round(settings.duration_s * settings.rate_fps)
    rightwards_count = leftwards_count = 0
    boxes = []
    for person in range(1, settings.person_count + 1):
        person_boxes, rightwards, leftwards = _simulate_crossing(rng, person, frame_count, settings)
        boxes.append(person_boxes)
        rightwards_count += rightwards
        leftwards_count += leftwards
    truth = np.concatenate(boxes)
    truth = truth[np.lexsort((truth[:, 1], truth[:, 0]))]
    crowd = Crowd(settings, truth, _simulate_detections(rng, truth, frame_count, settings))
    return crowd, rightwards_count, leftwards_count


def _simulate_crossing(
    rng: np.random.Generator, person: int, frame_count: int, settings: CrowdSettings
) -> tuple[np.ndarray, int, int]:
    """Simulate one person at the line in the middle of the frame.

    Returns:
        Rows of the ground truth, and the numbers of crossings from left to right and from right to left.
    """
    # Each person has another distance from the camera, so that people who pass each other occlude each other.
    share = (person - rng.uniform(0.2, 0.8)) / settings.person_count
    base_y, height_px = (0.4 + 0.55 * share) * settings.height_px, (0.15 + 0.25 * share) * settings.height_px
    side = rng.choice((-1, 1))
    # Positions relative to the line, in heights of the person; 1 is the far side.
    destinations = {
        "cross": [1.0],
        "turn before": [-0.35, -1.0],
        "there and back": [0.5, -1.0],
        "stand and cross": [0, 1.0],
        "stand and return": [0, -1.0],
    }
    behaviour = str(rng.choice(list(destinations), p=[0.4, 0.15, 0.15, 0.15, 0.15]))
    returns = behaviour == "there and back"
    crosses = returns or behaviour in ("cross", "stand and cross")
    rightwards, leftwards = (int(crosses), int(returns)) if side < 0 else (int(returns), int(crosses))
    start = rng.uniform(1.5, 2.5)
    stops = [-start, *(stop * (start if abs(stop) == 1 else 1) for stop in destinations[behaviour])]
    speed, start_s = rng.uniform(0.5, 1.0), rng.uniform(0, 0.2 * settings.duration_s)
    times_s = [0.0, start_s]
    path = [stops[0], stops[0]]
    for stop in stops[1:]:
        times_s.append(times_s[-1] + abs(stop - path[-1]) / speed)
        path.append(stop)
        if stop == 0:
            times_s.append(times_s[-1] + rng.uniform(1, 3))
            path.append(stop)
    frames = np.arange(frame_count)
    x = settings.width_px / 2 - side * height_px * np.interp(frames / settings.rate_fps, times_s, path)
    half_width_px = height_px * rng.uniform(0.33, 0.42) / 2
    number, bottom = np.full(frame_count, person), np.full(frame_count, base_y)
    boxes = np.column_stack([frames, number, x - half_width_px, bottom - height_px, x + half_width_px, bottom])
    return boxes, rightwards, leftwards


def _simulate_person(rng: np.random.Generator, person: int, frame_count: int, settings: CrowdSettings) -> np.ndarray:
    """Simulate one person; returns rows of the ground truth, inside the frame or not."""
    frame_s = 1 / settings.rate_fps
    base_y = rng.uniform(0.45, 0.98) * settings.height_px
    height_px = (0.18 + 0.35 * (base_y / settings.height_px - 0.45)) * settings.height_px * rng.uniform(0.9, 1.1)
    direction = rng.choice((-1, 1))
    speed_px_s = rng.uniform(0.4, 1.2) * height_px
    velocity = np.full(frame_count, float(direction))  # in units of the person's speed
    if settings.has_random_motion:
        behaviour, change_frame = rng.choice(["walk on", "walk on", "turn", "stand"]), rng.integers(0, frame_count)
        pause_frames = int(rng.uniform(1, 4) * settings.rate_fps)
        if behaviour == "turn":
            velocity[change_frame:] *= -1
        elif behaviour == "stand":
            velocity[change_frame : change_frame + pause_frames] = 0
        velocity = velocity + 0.15 * np.cumsum(rng.normal(0, np.sqrt(frame_s), frame_count)) * (velocity != 0)
    frame_inside = rng.integers(0, frame_count)
    x = np.cumsum(velocity) * speed_px_s * frame_s
    x += rng.uniform(0, settings.width_px) - x[frame_inside]
    sway = 0.06 * height_px * np.cumsum(rng.normal(0, np.sqrt(frame_s), frame_count)) * settings.has_random_motion
    y = base_y + sway
    steps = 1 + 0.12 * np.sin(2 * np.pi * 0.9 * frame_s * np.arange(frame_count))
    width_px = height_px * rng.uniform(0.33, 0.45) * steps
    columns = [np.arange(frame_count), np.full(frame_count, person)]
    return np.column_stack([*columns, x - width_px / 2, y - height_px, x + width_px / 2, y])


def _simulate_detections(
    rng: np.random.Generator, truth: np.ndarray, frame_count: int, settings: CrowdSettings
) -> np.ndarray:
    """Simulate a detector: jittering boxes, low confidence on occluded people, and false detections.

    Returns:
        Rows as in `Crowd.detected_boxes`.
    """
    occluded_share = _compute_occluded_share(truth) if settings.has_occlusion else np.zeros(len(truth))
    confidence = np.clip(rng.normal(0.78, 0.08, len(truth)) - 0.7 * occluded_share, 0.02, 0.97)
    is_detected = (rng.random(len(truth)) > settings.miss_rate) & (occluded_share < 0.7) & (confidence > 0.1)
    jitter_px = settings.jitter * (1 + 2 * occluded_share) * (truth[:, 5] - truth[:, 3])
    jittered_boxes = truth[:, 2:6] + rng.normal(0, 1, (len(truth), 4)) * jitter_px[:, None]
    detections = [np.column_stack([truth[:, 0], jittered_boxes, confidence])[is_detected]]
    for _ in range(settings.false_positive_count):
        corner = rng.uniform((0, 0), (settings.width_px - 60, settings.height_px - 120))
        frames = np.flatnonzero(rng.random(frame_count) < 0.15)
        corners = np.concatenate([corner, corner + np.array([50, 110])]) + rng.normal(0, 2, (len(frames), 4))
        detections.append(np.column_stack([frames, corners, rng.uniform(0.1, 0.45, len(frames))]))
    boxes = np.concatenate(detections)
    return boxes[np.lexsort((-boxes[:, 5], boxes[:, 0]))]


def _compute_occluded_share(truth: np.ndarray) -> np.ndarray:
    """Compute the share of each box that is covered by the nearer box with the largest overlap, shape (n,)."""
    occluded_share = np.zeros(len(truth))
    edges = np.searchsorted(truth[:, 0], np.arange(truth[:, 0].max() + 2)) if len(truth) else np.zeros(1, int)
    for begin, end in itertools.pairwise(edges):
        boxes = truth[begin:end, 2:6]
        overlap = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(
            boxes[:, None, :2], boxes[None, :, :2]
        )
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        covered_share = overlap.clip(0).prod(axis=2) / area[:, None]
        is_nearer = boxes[None, :, 3] > boxes[:, None, 3]
        occluded_share[begin:end] = np.where(is_nearer, covered_share, 0).max(axis=1, initial=0)
    return occluded_share
