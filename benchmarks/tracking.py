"""Tracking and counting: accuracy against the truth and time per frame, beside the trackers of Ultralytics.

`python -m benchmarks.tracking` prints the table and the cases. The true sequence is read from the corpus that
CV_ASSETS_CORPUS names; without one, only drawn crowds are scored. All trackers see the same detections.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa

from benchmarks.report import CORPUS, Case, alone, compared, machine, show
from benchmarks.track_metrics import Scores, score
from cv_assets.tracks import corners, follow, track_rows
from cv_assets.zone_events import find_zone_events
from demo.crowd import Crowd, CrowdSettings, draw_crowd
from resources.inference.detector import Models
from resources.schema import FRAMES, RECORDINGS, TRACK_BOXES
from resources.settings import CameraSettings, DetectionSettings, Settings, TrackSettings
from resources.storage import Store

PEERS = ("bytetrack", "botsort")
_DRAWN = {
    "25 frames/s": CrowdSettings(walker_count=10),
    "dense": CrowdSettings(walker_count=25, duration_s=15),
    "5 frames/s": CrowdSettings(walker_count=14, duration_s=40, rate_fps=5),
    "a fifth missed": CrowdSettings(walker_count=12, duration_s=30, rate_fps=12.5, miss_rate=0.2),
}
_SEEDS = range(20, 24)

Pictures = list[np.ndarray] | None


class _Results:
    """The boxes of one frame as Ultralytics' trackers read them."""

    def __init__(self, xyxy: np.ndarray, conf: np.ndarray) -> None:
        self.xyxy, self.conf, self.cls = xyxy, conf, np.zeros(len(conf), np.float32)

    @property
    def xywh(self) -> np.ndarray:
        """Centre and size, shape (n, 4)."""
        return np.concatenate([(self.xyxy[:, :2] + self.xyxy[:, 2:]) / 2, self.xyxy[:, 2:] - self.xyxy[:, :2]], axis=1)

    def __getitem__(self, kept: np.ndarray) -> "_Results":
        return _Results(self.xyxy[kept], self.conf[kept])

    def __len__(self) -> int:
        return len(self.conf)


def peer_tracks(name: str, crowd: Crowd, pictures: Pictures = None) -> tuple[np.ndarray, float]:
    """Tracks of a tracker of Ultralytics with its own defaults, and its milliseconds per frame.

    Args:
        name: bytetrack or botsort.
        crowd: What is seen.
        pictures: For the camera-motion compensation of botsort; None leaves it out.
    """
    from ultralytics.trackers.track import TRACKER_MAP
    from ultralytics.utils import YAML, IterableSimpleNamespace
    from ultralytics.utils.checks import check_yaml

    chosen = IterableSimpleNamespace(**YAML.load(check_yaml(f"{name}.yaml")))
    if pictures is None and name == "botsort":
        chosen.gmc_method = "none"
    tracker = TRACKER_MAP[chosen.tracker_type](args=chosen)
    frame_count = round(crowd.settings.duration_s * crowd.settings.rate_fps)
    seen = crowd.seen.astype(np.float32)
    edges = np.searchsorted(seen[:, 0], np.arange(frame_count + 1))
    found: list[list[float]] = []
    started = time.perf_counter()
    for frame in range(frame_count):
        rows = seen[edges[frame] : edges[frame + 1]]
        picture = pictures[frame] if pictures else None
        matched = tracker.update(_Results(rows[:, 1:5], rows[:, 5]), picture)
        found += [[frame, float(row[4]), *map(float, row[:4])] for row in matched]
    milliseconds = (time.perf_counter() - started) / frame_count * 1000
    return np.array(found).reshape(-1, 6), milliseconds


def our_tracks(crowd: Crowd) -> tuple[np.ndarray, float]:
    """Rows of track_boxes as the stage makes them, and the milliseconds per frame that following took."""
    rate_fps = crowd.settings.rate_fps
    frame_count = round(crowd.settings.duration_s * rate_fps)
    frame_index = np.arange(frame_count, dtype=np.int32)
    captured = pa.nulls(frame_count, pa.timestamp("us", tz="UTC"))
    frames = pa.table({"frame_index": frame_index, "time_s": frame_index / rate_fps, "captured_at_utc": captured})
    detections = crowd.detections()
    started = time.perf_counter()
    track_id = follow(detections, rate_fps, TrackSettings())
    milliseconds = (time.perf_counter() - started) / frame_count * 1000
    boxes = track_rows(detections.append_column("track_id", pa.array(track_id)), frames, rate_fps, TrackSettings())[1]
    rows = np.column_stack([boxes["frame_index"].to_numpy(), boxes["track_id"].to_numpy(), corners(boxes)])
    return rows, milliseconds


def true_sequence() -> tuple[Crowd, Pictures] | None:
    """TUD-Campus: its truth, what our detector sees of it, and its pictures; None where there is no corpus."""
    folder = CORPUS / "ground_truth" / "TUD-Campus"
    if not folder.exists():
        return None
    import av

    with av.open(str(folder / "TUD-Campus.mp4")) as container:
        pictures = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    height_px, width_px = pictures[0].shape[:2]
    chosen = DetectionSettings(weights=str(CORPUS / "weights" / "yolo11n.pt"), class_names=("person",))
    detector = Models().detector(chosen, width_px, height_px, "cpu")
    seen = [
        np.column_stack([np.full(len(boxes), index), boxes.xyxy, boxes.confidence])
        for index, boxes in enumerate(detector.detect(iter(pictures)))
    ]
    listed = np.loadtxt(folder / "gt.txt", delimiter=",")
    corner = listed[:, 2:4] - 1  # MOT counts frames and pixels from 1
    truth = np.column_stack([listed[:, 0] - 1, listed[:, 1], corner, corner + listed[:, 4:6]])
    truth = truth[np.lexsort((truth[:, 1], truth[:, 0]))]
    settings = CrowdSettings(len(pictures) / 25, 25, 8, width_px, height_px)
    return Crowd(settings, truth, np.concatenate(seen)), pictures


def accuracy() -> Iterator[Case]:
    """HOTA and IDF1 beside the better of the peers; prints the whole table."""
    click.echo(f"{'sequence':<24}{'tracker':<12}{'HOTA':>7}{'IDF1':>7}{'MOTA':>7}{'switches':>10}{'tracks':>8}")
    scenes: dict[str, list[tuple[Crowd, Pictures]]] = {}
    real = true_sequence()
    if real is None:
        click.echo(f"No corpus at {CORPUS}: TUD-Campus is left out.")
    else:
        scenes["TUD-Campus"] = [real]
    for name, settings in _DRAWN.items():
        scenes[f"drawn, {name}"] = [(draw_crowd(seed, settings), None) for seed in _SEEDS]
    for name, crowds in scenes.items():
        trackers: dict[str, Callable[[Crowd, Pictures], np.ndarray]] = {
            "ours": lambda crowd, _: our_tracks(crowd)[0],
            **{peer: lambda c, pictures, peer=peer: peer_tracks(peer, c, pictures)[0] for peer in PEERS},  # type: ignore[misc]
        }
        found = {
            tracker: [score(crowd.truth, track(crowd, pictures)) for crowd, pictures in crowds]
            for tracker, track in trackers.items()
        }
        for tracker, scores in found.items():
            click.echo(_line(name, tracker, scores))
        for measure in ("hota", "idf1"):
            means = {tracker: float(np.mean([getattr(s, measure) for s in ours])) for tracker, ours in found.items()}
            best = max(means[peer] for peer in PEERS)
            yield compared(f"{name}: {measure.upper()} vs the better peer", means["ours"], best, "share", 1.0)


def _line(name: str, tracker: str, scores: list[Scores]) -> str:
    shares = "".join(f"{100 * np.mean([getattr(s, m) for s in scores]):>7.1f}" for m in ("hota", "idf1", "mota"))
    counts = [np.mean([getattr(s, m) for s in scores]) for m in ("switches", "track_count")]
    return f"{name:<24}{tracker:<12}{shares}{counts[0]:>10.1f}{counts[1]:>8.1f}"


def speed() -> Iterator[Case]:
    """Milliseconds per frame at about 20 and 100 boxes a frame."""
    for boxes, goal_ms, size in ((20, 1.0, (1280, 720)), (100, 4.0, (3840, 2160))):
        drawn = CrowdSettings(8.0, 25.0, 2 * boxes, *size, miss_rate=0.0, has_occlusion=False, has_moods=False)
        crowd = draw_crowd(1, drawn)
        # As many boxes a frame as asked, the surest.
        rank = np.arange(len(crowd.seen)) - np.searchsorted(crowd.seen[:, 0], crowd.seen[:, 0])
        crowd = Crowd(drawn, crowd.truth, crowd.seen[rank < boxes])
        told = f"tracking {len(crowd.seen) / 200:.0f} boxes a frame"
        ours = min(our_tracks(crowd)[1] for _ in range(3))
        yield alone(told, ours, "ms/frame", at_most=goal_ms)
        for peer in PEERS:
            theirs = min(peer_tracks(peer, crowd)[1] for _ in range(2))
            yield compared(f"{told}: frames/s vs {peer}", 1000 / ours, 1000 / theirs, "frames/s", 1.0)


def an_hour(store: Store, box_count: int = 500_000, frame_count: int = 90_000) -> CameraSettings:
    """Store a recording of one hour with many tracks; returns what is drawn for its camera."""
    rng = np.random.default_rng(0)
    length = 200
    tracks = box_count // length
    along = np.tile(np.arange(length), tracks)
    frame = np.repeat(rng.integers(0, frame_count - length, tracks), length) + along
    x = np.repeat(rng.uniform(0, 1200, tracks), length) + along * np.repeat(rng.uniform(-5, 5, tracks), length)
    y = np.repeat(rng.uniform(300, 700, tracks), length) + rng.normal(0, 1, box_count)
    started = datetime(2026, 3, 1, 8, tzinfo=UTC)
    captured = np.datetime64("2026-03-01T08:00:00", "us") + (frame * 40_000).astype("timedelta64[us]")
    boxes: dict[str, Any] = {
        "recording_id": pa.repeat("hour", box_count),
        "track_id": np.repeat(np.arange(1, tracks + 1), length),
        "frame_index": frame,
        "time_s": frame / 25,
        "captured_at_utc": pa.array(captured).cast(pa.timestamp("us", tz="UTC")),
        "detection_index": np.zeros(box_count, np.int32),
        "is_interpolated": np.zeros(box_count, bool),
        "class_id": np.zeros(box_count, np.int32),
        "class_name": pa.repeat("person", box_count),
        "confidence": np.full(box_count, 0.8),
        **{"x_min_px": x - 20, "y_min_px": y - 100, "x_max_px": x + 20, "y_max_px": y},
    }
    store.replace(TRACK_BOXES, ["hour"], pa.table(boxes))
    index = np.arange(frame_count)
    known = {"recording_id": pa.repeat("hour", frame_count), "frame_index": index, "time_s": index / 25}
    zeros = pa.array(np.zeros(frame_count))
    frames: dict[str, Any] = {
        column.name: pa.nulls(frame_count, column.type) if column.nullable else known.get(column.name, zeros)
        for column in FRAMES.columns
    }
    store.replace(FRAMES, ["hour"], pa.table(frames))
    row = dict.fromkeys(RECORDINGS.arrow_schema.names) | {
        **{"recording_id": "hour", "camera": "gate", "source_path": "hour", "fingerprint": "hour", "status": "ok"},
        **{"size_bytes": 1, "mtime_utc": started, "started_at_utc": started, "rate_fps": 25.0},
        **{"duration_s_from_content": 3600.0, "frame_count": frame_count, "width_px": 1280, "height_px": 720},
    }
    store.replace(RECORDINGS, ["hour"], pa.Table.from_pylist([row], schema=RECORDINGS.arrow_schema))
    square = [[0.2, 0.3], [0.6, 0.3], [0.6, 1], [0.2, 1]]
    lines = [{"name": f"line {n}", "points": [[0.2 * n, 1], [0.2 * n + 0.05, 0.5], [0.2 * n, 0]]} for n in (1, 2, 3)]
    return CameraSettings.model_validate({"zones": [{"name": "yard", "points": square}], "lines": lines})


def counting() -> Iterator[Case]:
    """Seconds that a moved line costs for an hour's recording, tables read and written."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        settings = Settings(cameras={"gate": an_hour(store)})
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            find_zone_events("hour", store, settings)
            seconds.append(time.perf_counter() - started)
    yield alone("a moved line, 1 h with 500k boxes", min(seconds), "s", at_most=5.0)


def tracking() -> Iterator[Case]:
    """Every case of this file."""
    yield from accuracy()
    yield from speed()
    yield from counting()


if __name__ == "__main__":
    click.echo(f"Measuring on {machine()}")
    show(list(tracking()))
