"""Crowds without pictures: people walking before a fixed camera, what is true of them, and what a detector would say.

A crowd is numbers alone, so hundreds of them are drawn in seconds; tracking and counting are tested on them. Positions
are in pixels from the top left corner.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from resources.schema import DETECTIONS


@dataclass(frozen=True)
class CrowdSettings:
    """What the crowd does and how well it is seen.

    Attributes:
        duration_s: Length.
        rate_fps: Frames per second.
        walker_count: People, spread over the whole length.
        width_px: Width of the picture.
        height_px: Height of the picture.
        jitter: Standard deviation of each edge of a detected box, as a share of the box's height.
        miss_rate: Share of boxes that the detector misses at random.
        false_count: Places where it now and then sees somebody who is not there.
        has_occlusion: Whether people hide those behind them.
        has_moods: Whether people turn round, stand about and swerve; otherwise they go straight on.
    """

    duration_s: float = 20.0
    rate_fps: float = 25.0
    walker_count: int = 8
    width_px: int = 1280
    height_px: int = 720
    jitter: float = 0.015
    miss_rate: float = 0.05
    false_count: int = 2
    has_occlusion: bool = True
    has_moods: bool = True


@dataclass(frozen=True)
class Crowd:
    """A drawn crowd.

    Attributes:
        settings: What was drawn.
        truth: Rows of (frame_index, walker, x_min_px, y_min_px, x_max_px, y_max_px), float, sorted by frame.
        seen: Rows of (frame_index, x_min_px, y_min_px, x_max_px, y_max_px, confidence), float, sorted by frame.
    """

    settings: CrowdSettings
    truth: np.ndarray
    seen: np.ndarray

    def detections(self, recording_id: str = "crowd") -> pa.Table:
        """The seen boxes as rows of `detections`, all of class person."""
        count = len(self.seen)
        frame_index = self.seen[:, 0].astype(np.int32)
        first = np.searchsorted(frame_index, frame_index)
        columns = {
            "recording_id": pa.repeat(recording_id, count),
            "frame_index": frame_index,
            "detection_index": (np.arange(count) - first).astype(np.int32),
            "source_frame_index": frame_index,
            "time_s": frame_index / self.settings.rate_fps,
            "captured_at_utc": pa.nulls(count, pa.timestamp("us", tz="UTC")),
            "class_id": np.zeros(count, np.int32),
            "class_name": pa.repeat("person", count),
            "confidence": self.seen[:, 5],
            "x_min_px": self.seen[:, 1],
            "y_min_px": self.seen[:, 2],
            "x_max_px": self.seen[:, 3],
            "y_max_px": self.seen[:, 4],
            "is_reused": np.zeros(count, bool),
            "model_id": pa.repeat("drawn", count),
            "engine_name": pa.repeat("drawn", count),
        }
        return pa.table(columns).select(DETECTIONS.arrow_schema.names).cast(DETECTIONS.arrow_schema)


def draw_crowd(seed: int, settings: CrowdSettings | None = None) -> Crowd:
    """Draw a crowd; equal arguments give equal crowds."""
    chosen = settings or CrowdSettings()
    rng = np.random.default_rng((3, seed))
    frame_count = round(chosen.duration_s * chosen.rate_fps)
    truth = np.concatenate([_walk(rng, walker, frame_count, chosen) for walker in range(1, chosen.walker_count + 1)])
    truth = truth[np.lexsort((truth[:, 1], truth[:, 0]))]
    boxes = np.clip(truth[:, 2:6], 0, [chosen.width_px, chosen.height_px] * 2)
    is_inside = (boxes[:, 2] - boxes[:, 0] > 0.4 * (truth[:, 4] - truth[:, 2])) & (boxes[:, 3] > boxes[:, 1])
    truth = np.column_stack([truth[:, :2], boxes])[is_inside]
    return Crowd(chosen, truth, _seen(rng, truth, frame_count, chosen))


def draw_crossings(seed: int, settings: CrowdSettings | None = None) -> tuple[Crowd, int, int]:
    """Draw people who do all that people do at a line from top to bottom through the middle of the picture.

    They cross it, turn round before it, cross and come back, and stand on it before going on or back.

    Returns:
        The crowd, how many times the line is crossed from left to right, and how many times from right to left.
    """
    chosen = settings or CrowdSettings(walker_count=4, duration_s=16.0)
    rng = np.random.default_rng((4, seed))
    frame_count = round(chosen.duration_s * chosen.rate_fps)
    frames = np.arange(frame_count)
    rightwards = leftwards = 0
    walks = []
    for walker in range(1, chosen.walker_count + 1):
        # Each has a distance of their own from the camera, so that people who pass hide each other for a while.
        share = (walker - rng.uniform(0.2, 0.8)) / chosen.walker_count
        base_y, tall = (0.4 + 0.55 * share) * chosen.height_px, (0.15 + 0.25 * share) * chosen.height_px
        side = rng.choice((-1, 1))
        ways = {
            "cross": [1.0],
            "turn before": [-0.35, -1.0],
            "there and back": [0.5, -1.0],
            "on": [0, 1.0],
            "off": [0, -1.0],
        }
        way = str(rng.choice(list(ways), p=[0.4, 0.15, 0.15, 0.15, 0.15]))
        ends_across = way in ("cross", "on")
        goes, comes = int(ends_across or way == "there and back"), int(way == "there and back")
        rightwards += goes if side < 0 else comes
        leftwards += comes if side < 0 else goes
        far = rng.uniform(1.5, 2.5)
        places = [-far, *(place * (far if abs(place) == 1 else 1) for place in ways[way])]
        speed, start_s = rng.uniform(0.5, 1.0), rng.uniform(0, 0.2 * chosen.duration_s)
        times = [0.0, start_s]
        path = [places[0], places[0]]
        for place in places[1:]:
            times.append(times[-1] + abs(place - path[-1]) / speed)
            path.append(place)
            if place == 0:
                times.append(times[-1] + rng.uniform(1, 3))
                path.append(place)
        x = chosen.width_px / 2 - side * tall * np.interp(frames / chosen.rate_fps, times, path)
        wide = tall * rng.uniform(0.33, 0.42)
        number, ground = np.full(frame_count, walker), np.full(frame_count, base_y)
        walks.append(np.column_stack([frames, number, x - wide / 2, ground - tall, x + wide / 2, ground]))
    truth = np.concatenate(walks)
    truth = truth[np.lexsort((truth[:, 1], truth[:, 0]))]
    return Crowd(chosen, truth, _seen(rng, truth, frame_count, chosen)), rightwards, leftwards


def _walk(rng: np.random.Generator, walker: int, frame_count: int, settings: CrowdSettings) -> np.ndarray:
    """One person's boxes, inside the picture or not."""
    dt = 1 / settings.rate_fps
    base_y = rng.uniform(0.45, 0.98) * settings.height_px
    tall = (0.18 + 0.35 * (base_y / settings.height_px - 0.45)) * settings.height_px * rng.uniform(0.9, 1.1)
    direction = rng.choice((-1, 1))
    speed = rng.uniform(0.4, 1.2) * tall
    pace = np.full(frame_count, float(direction))
    if settings.has_moods:
        mood, moment = rng.choice(["on", "on", "turn", "stand"]), rng.integers(0, frame_count)
        pause = int(rng.uniform(1, 4) * settings.rate_fps)
        if mood == "turn":
            pace[moment:] *= -1
        elif mood == "stand":
            pace[moment : moment + pause] = 0
        pace = pace + 0.15 * np.cumsum(rng.normal(0, np.sqrt(dt), frame_count)) * (pace != 0)
    passing = rng.integers(0, frame_count)
    x = np.cumsum(pace) * speed * dt
    x += rng.uniform(0, settings.width_px) - x[passing]
    sway = 0.06 * tall * np.cumsum(rng.normal(0, np.sqrt(dt), frame_count)) * settings.has_moods
    y = base_y + sway
    wide = tall * rng.uniform(0.33, 0.45) * (1 + 0.12 * np.sin(2 * np.pi * 0.9 * dt * np.arange(frame_count)))
    frames = np.arange(frame_count)
    return np.column_stack([frames, np.full(frame_count, walker), x - wide / 2, y - tall, x + wide / 2, y])


def _seen(rng: np.random.Generator, truth: np.ndarray, frame_count: int, settings: CrowdSettings) -> np.ndarray:
    """What a detector would find: shaky boxes, unsure where people are half hidden, and now and then nobody's."""
    hidden = _hidden_share(truth) if settings.has_occlusion else np.zeros(len(truth))
    confidence = np.clip(rng.normal(0.78, 0.08, len(truth)) - 0.7 * hidden, 0.02, 0.97)
    is_seen = (rng.random(len(truth)) > settings.miss_rate) & (hidden < 0.7) & (confidence > 0.1)
    tall = truth[:, 5] - truth[:, 3]
    shaky = truth[:, 2:6] + rng.normal(0, 1, (len(truth), 4)) * (settings.jitter * (1 + 2 * hidden) * tall)[:, None]
    found = [np.column_stack([truth[:, 0], shaky, confidence])[is_seen]]
    for _ in range(settings.false_count):
        place = rng.uniform((0, 0), (settings.width_px - 60, settings.height_px - 120))
        frames = np.flatnonzero(rng.random(frame_count) < 0.15)
        corners = np.concatenate([place, place + np.array([50, 110])]) + rng.normal(0, 2, (len(frames), 4))
        found.append(np.column_stack([frames, corners, rng.uniform(0.1, 0.45, len(frames))]))
    boxes = np.concatenate(found)
    return boxes[np.lexsort((-boxes[:, 5], boxes[:, 0]))]


def _hidden_share(truth: np.ndarray) -> np.ndarray:
    """Share of each box that boxes with a lower ground line cover, at most one of them counted; shape (rows,)."""
    hidden = np.zeros(len(truth))
    edges = np.searchsorted(truth[:, 0], np.arange(truth[:, 0].max() + 2)) if len(truth) else np.zeros(1, int)
    for begin, end in itertools.pairwise(edges):
        boxes = truth[begin:end, 2:6]
        shared = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        covered = shared.clip(0).prod(axis=2) / area[:, None]
        is_nearer = boxes[None, :, 3] > boxes[:, None, 3]
        hidden[begin:end] = np.where(is_nearer, covered, 0).max(axis=1, initial=0)
    return hidden
