"""Tracking and counting: accuracy against the ground truth and time per frame, beside the trackers of Ultralytics.

`python -m benchmarks.tracking` prints tables of scores and the cases; groups of them can be named: `real`, `pictures`,
`drawn`, `speed`, `counting`. `real ours` leaves out the peers: a few seconds, to compare variants. Real sequences are
read from the corpus that CV_ASSETS_CORPUS names; without one, only drawn crowds are scored. All trackers get the same
detections, none gets appearance (ReID), and camera motion from pictures (GMC) only the peers on the sequence with
pictures.
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa

from benchmarks.report import CORPUS, Case, describe_machine, max_case, min_case, min_ratio_case, print_table
from benchmarks.track_metrics import Scores, mean_scores, score_tracks
from benchmarks.track_sequences import read_mot_sequences, read_sequence_with_pictures
from cli.options import end_process
from cv_assets.tracks import corners, track_detections
from cv_assets.zone_events import find_zone_events
from demo.crowd import Crowd, CrowdSettings, simulate_crowd
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.config.tracking_config import TrackSettings
from resources.schema.recording_tables import FRAMES, RECORDING_CONTENTS, RECORDINGS
from resources.schema.track_tables import TRACK_BOXES
from resources.storage.delta_store import Store

PEERS = ("bytetrack", "botsort", "ocsort", "deepocsort", "fasttrack", "tracktrack")
REAL_GOALS = {"hota": 0.475, "idf1": 0.65, "mota": 0.53}
"""Means over the real sequences."""
_MAX_HOTA_LOSS = 0.025
"""A sequence may be this much worse than with the best peer."""
_PICTURES_GOALS = {"hota": 0.50, "idf1": 0.69, "mota": 0.55}
_DRAWN_CROWDS = {
    "25 frames/s": CrowdSettings(person_count=10),
    "dense": CrowdSettings(person_count=25, duration_s=15),
    "5 frames/s": CrowdSettings(person_count=14, duration_s=40, rate_fps=5),
    "a fifth missed": CrowdSettings(person_count=12, duration_s=30, rate_fps=12.5, miss_rate=0.2),
}
_SEEDS = range(20, 24)

Images = list[np.ndarray] | None


class _Results:
    """The boxes of one frame in the form that Ultralytics' trackers read."""

    def __init__(self, xyxy: np.ndarray, conf: np.ndarray) -> None:
        self.xyxy, self.conf, self.cls = xyxy, conf, np.zeros(len(conf), np.float32)

    @property
    def xywh(self) -> np.ndarray:
        """Centre and size, shape (n, 4)."""
        return np.concatenate([(self.xyxy[:, :2] + self.xyxy[:, 2:]) / 2, self.xyxy[:, 2:] - self.xyxy[:, :2]], axis=1)

    def __getitem__(self, rows: np.ndarray) -> "_Results":
        return _Results(self.xyxy[rows], self.conf[rows])

    def __len__(self) -> int:
        return len(self.conf)


def track_with_peer(name: str, crowd: Crowd, images: Images = None) -> tuple[np.ndarray, float]:
    """Track a crowd with a tracker of Ultralytics and its own defaults.

    Args:
        name: One of PEERS.
        crowd: The detections.
        images: The frames, for the compensation of camera motion; None switches that off.

    Returns:
        Rows of (frame_index, track, x_min, y_min, x_max, y_max), and the milliseconds per frame.
    """
    from ultralytics.trackers.track import TRACKER_MAP
    from ultralytics.utils import YAML, IterableSimpleNamespace
    from ultralytics.utils.checks import check_yaml

    options = IterableSimpleNamespace(**YAML.load(check_yaml(f"{name}.yaml")))
    if images is None and hasattr(options, "gmc_method"):
        options.gmc_method = "none"
    tracker = TRACKER_MAP[options.tracker_type](args=options)
    frame_count = round(crowd.settings.duration_s * crowd.settings.rate_fps)
    boxes = crowd.detected_boxes.astype(np.float32)
    edges = np.searchsorted(boxes[:, 0], np.arange(frame_count + 1))
    rows: list[list[float]] = []
    started_s = time.perf_counter()
    for frame_index in range(frame_count):
        frame_boxes = boxes[edges[frame_index] : edges[frame_index + 1]]
        image = images[frame_index] if images else None
        tracked_boxes = tracker.update(_Results(frame_boxes[:, 1:5], frame_boxes[:, 5]), image)
        rows += [[frame_index, float(box[4]), *map(float, box[:4])] for box in tracked_boxes]
    frame_ms = (time.perf_counter() - started_s) / frame_count * 1000
    return np.array(rows).reshape(-1, 6), frame_ms


def track_with_ours(crowd: Crowd, settings: TrackSettings | None = None) -> tuple[np.ndarray, float]:
    """Track a crowd as the stage does.

    Returns:
        Rows of (frame_index, track, x_min, y_min, x_max, y_max), and the milliseconds per frame of everything that the
        stage computes.
    """
    rate_fps = crowd.settings.rate_fps
    frame_count = round(crowd.settings.duration_s * rate_fps)
    frame_index = np.arange(frame_count, dtype=np.int32)
    frames = pa.table({"frame_index": frame_index, "time_s": frame_index / rate_fps})
    detections = crowd.detections()
    started_s = time.perf_counter()
    boxes = track_detections(detections, frames, rate_fps, settings or TrackSettings())[1]
    frame_ms = (time.perf_counter() - started_s) / frame_count * 1000
    rows = np.column_stack([boxes["frame_index"].to_numpy(), boxes["track_id"].to_numpy(), corners(boxes)])
    return rows, frame_ms


def score_group(
    sequences: Mapping[str, Sequence[tuple[Crowd, Images]]], peers: Sequence[str]
) -> dict[str, dict[str, Scores]]:
    """Score our tracker and its peers on sequences, and print a line for each.

    Args:
        sequences: Crowds by name; the scores of a name are means over its crowds.
        peers: Trackers of Ultralytics.

    Returns:
        Scores by sequence and tracker.
    """
    click.echo(
        f"{'sequence':<24}{'tracker':<12}{'HOTA':>7}{'DetA':>7}{'AssA':>7}{'IDF1':>7}{'MOTA':>7}{'FP':>7}{'FN':>7}"
        f"{'switches':>10}{'tracks':>8}{'ms/frame':>10}"
    )
    scores: dict[str, dict[str, Scores]] = {}
    for name, crowds in sequences.items():
        for tracker in ("ours", *peers):
            results = [
                track_with_ours(crowd) if tracker == "ours" else track_with_peer(tracker, crowd, images)
                for crowd, images in crowds
            ]
            mean = mean_scores(
                [score_tracks(crowd.truth, rows) for (crowd, _), (rows, _) in zip(crowds, results, strict=True)]
            )
            scores.setdefault(name, {})[tracker] = mean
            click.echo(_table_line(name, tracker, mean) + f"{np.mean([frame_ms for _, frame_ms in results]):>10.2f}")
    return scores


def _table_line(name: str, tracker: str, scores: Scores) -> str:
    shares = "".join(f"{100 * getattr(scores, metric):>7.1f}" for metric in ("hota", "det_a", "ass_a", "idf1", "mota"))
    errors = f"{scores.false_positives:>7.0f}{scores.false_negatives:>7.0f}{scores.switches:>10.1f}"
    return f"{name:<24}{tracker:<12}{shares}{errors}{scores.track_count:>8.1f}"


def real_cases(peers: Sequence[str] = PEERS) -> Iterator[Case]:
    """Real sequences with public detections and no pictures: means, and each beside its best peer."""
    sequences = read_mot_sequences()
    if not sequences:
        click.echo(f"No corpus at {CORPUS}: the real sequences are skipped.")
        return
    click.echo("Real sequences, public detections, no pictures: GMC off, ReID off.")
    scores = score_group({name: [(crowd, None)] for name, crowd in sequences.items()}, peers)
    for tracker in ("ours", *peers):
        click.echo(_table_line("mean", tracker, mean_scores([scores[name][tracker] for name in scores])))
    mean = mean_scores([scores[name]["ours"] for name in scores])
    for metric, goal in REAL_GOALS.items():
        yield min_case(f"{len(scores)} real sequences: mean {metric.upper()}", getattr(mean, metric), "share", goal)
    for name, by_tracker in scores.items():
        best = max((by_tracker[peer].hota for peer in peers), default=0.0)
        if peers:
            yield min_case(f"{name}: HOTA - best peer's", by_tracker["ours"].hota - best, "share", -_MAX_HOTA_LOSS)


def pictures_cases() -> Iterator[Case]:
    """TUD-Campus with our own detections; the peers see its pictures."""
    sequence = read_sequence_with_pictures()
    if sequence is None:
        click.echo(f"No corpus at {CORPUS}: TUD-Campus is skipped.")
        return
    click.echo("TUD-Campus, our detections: GMC as in the peer's defaults, ReID off.")
    scores = score_group({"TUD-Campus": [sequence]}, PEERS)
    for metric, goal in _PICTURES_GOALS.items():
        yield min_case(f"TUD-Campus: {metric.upper()}", getattr(scores["TUD-Campus"]["ours"], metric), "share", goal)
    yield from _peer_cases(scores)


def drawn_cases() -> Iterator[Case]:
    """Drawn crowds beside the peers."""
    click.echo("Drawn crowds: GMC off, ReID off.")
    crowds = {
        f"drawn, {name}": [(simulate_crowd(seed, settings), None) for seed in _SEEDS]
        for name, settings in _DRAWN_CROWDS.items()
    }
    yield from _peer_cases(score_group(crowds, PEERS))


def _peer_cases(scores: Mapping[str, Mapping[str, Scores]]) -> Iterator[Case]:
    """HOTA and IDF1 compared with the best of the peers."""
    for name, by_tracker in scores.items():
        for metric in ("hota", "idf1"):
            best = max(getattr(by_tracker[peer], metric) for peer in PEERS)
            ours = getattr(by_tracker["ours"], metric)
            yield min_ratio_case(f"{name}: {metric.upper()} vs the best peer", ours, best, "share", 1.0)


def speed_cases() -> Iterator[Case]:
    """Milliseconds per frame at about 20 and 100 boxes a frame."""
    for box_count, goal_ms, size_px in ((20, 1.5, (1280, 720)), (100, 5.0, (3840, 2160))):
        settings = CrowdSettings(
            8.0, 25.0, 2 * box_count, *size_px, miss_rate=0.0, has_occlusion=False, has_random_motion=False
        )
        crowd = simulate_crowd(1, settings)
        # At most that many boxes a frame, the most confident.
        frame_index = crowd.detected_boxes[:, 0]
        rank = np.arange(len(frame_index)) - np.searchsorted(frame_index, frame_index)
        crowd = Crowd(settings, crowd.truth, crowd.detected_boxes[rank < box_count])
        case = f"tracking {len(crowd.detected_boxes) / 200:.0f} boxes a frame"
        ours_ms = min(track_with_ours(crowd)[1] for _ in range(3))
        yield max_case(case, ours_ms, "ms/frame", goal_ms)
        for peer in ("bytetrack", "botsort"):
            peer_ms = min(track_with_peer(peer, crowd)[1] for _ in range(2))
            yield min_ratio_case(f"{case}: frames/s vs {peer}", 1000 / ours_ms, 1000 / peer_ms, "frames/s", 1.0)


def store_hour(store: Store, box_count: int = 500_000, frame_count: int = 90_000) -> CameraSettings:
    """Store a recording of one hour with many tracks; returns zones and lines for its camera."""
    rng = np.random.default_rng(0)
    track_length = 200
    track_count = box_count // track_length
    position = np.tile(np.arange(track_length), track_count)

    def per_track(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, track_length)

    frame_index = per_track(rng.integers(0, frame_count - track_length, track_count)) + position
    x = per_track(rng.uniform(0, 1200, track_count)) + position * per_track(rng.uniform(-5, 5, track_count))
    y = per_track(rng.uniform(300, 700, track_count)) + rng.normal(0, 1, box_count)
    started_at = datetime(2026, 3, 1, 8, tzinfo=UTC)
    boxes: dict[str, Any] = {
        "recording_id": pa.repeat("hour", box_count),
        "track_id": per_track(np.arange(1, track_count + 1)),
        "frame_index": frame_index,
        "time_s": frame_index / 25,
        "detection_index": np.zeros(box_count, np.int32),
        "is_interpolated": np.zeros(box_count, bool),
        "link_confidence": pa.nulls(box_count, pa.float64()),
        "class_id": np.zeros(box_count, np.int32),
        "class_name": pa.repeat("person", box_count),
        "confidence": np.full(box_count, 0.8),
        **{"x_min_px": x - 20, "y_min_px": y - 100, "x_max_px": x + 20, "y_max_px": y},
    }
    store.replace(TRACK_BOXES, ["hour"], pa.table(boxes))
    indices = np.arange(frame_count)
    values = {"recording_id": pa.repeat("hour", frame_count), "frame_index": indices, "time_s": indices / 25}
    zeros = pa.array(np.zeros(frame_count))
    frames: dict[str, Any] = {
        column.name: pa.nulls(frame_count, column.type) if column.nullable else values.get(column.name, zeros)
        for column in FRAMES.stored_columns
    }
    store.replace(FRAMES, ["hour"], pa.table(frames))
    header = dict.fromkeys(RECORDINGS.arrow_schema.names) | {
        **{"recording_id": "hour", "camera": "gate", "source_path": "hour", "fingerprint": "hour"},
        **{"size_bytes": 1, "mtime_utc": started_at},
    }
    store.replace(RECORDINGS, ["hour"], pa.Table.from_pylist([header], schema=RECORDINGS.arrow_schema))
    content = dict.fromkeys(RECORDING_CONTENTS.arrow_schema.names) | {
        **{"recording_id": "hour", "rate_fps": 25.0, "duration_s_from_content": 3600.0},
        **{"frame_count": frame_count, "width_px": 1280, "height_px": 720},
    }
    contents = pa.Table.from_pylist([content], schema=RECORDING_CONTENTS.arrow_schema)
    store.replace(RECORDING_CONTENTS, ["hour"], contents)
    square = [[0.2, 0.3], [0.6, 0.3], [0.6, 1], [0.2, 1]]
    lines = [{"name": f"line {n}", "points": [[0.2 * n, 1], [0.2 * n + 0.05, 0.5], [0.2 * n, 0]]} for n in (1, 2, 3)]
    return CameraSettings.model_validate({"zones": [{"name": "yard", "points": square}], "lines": lines})


def counting_cases() -> Iterator[Case]:
    """Seconds that a moved line costs for an hour's recording, tables read and written."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        settings = Settings(cameras={"gate": store_hour(store)})
        elapsed_s = []
        for _ in range(3):
            started_s = time.perf_counter()
            find_zone_events("hour", store, settings)
            elapsed_s.append(time.perf_counter() - started_s)
    yield max_case("a moved line, 1 h with 500k boxes", min(elapsed_s), "s", 5.0)


def tracking_cases(groups: Sequence[str] = ()) -> Iterator[Case]:
    """Every case of tracking and counting, or those of some groups."""
    cases = {
        "real": lambda: real_cases(() if "ours" in groups else PEERS),
        "pictures": pictures_cases,
        "drawn": drawn_cases,
        "speed": speed_cases,
        "counting": counting_cases,
    }
    for name, measure in cases.items():
        if name in groups or not groups:
            yield from measure()


if __name__ == "__main__":
    click.echo(f"Measuring on {describe_machine()}")
    print_table(list(tracking_cases(sys.argv[1:])))
    end_process(0)
