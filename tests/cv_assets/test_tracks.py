"""Tracks from stored detections: made of drawn crowds and of boxes with known answers."""

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.track_metrics import score
from cv_assets.tracks import corners, follow, track_rows
from demo.crowd import Crowd, CrowdSettings, draw_crowd
from resources.schema import DETECTIONS, TRACK_BOXES, TRACKS, broken_rules
from resources.settings import TrackSettings
from resources.tracking import Tracker


def boxes_of(frames: Sequence[int], **changed: Any) -> pa.Table:
    """Rows of detections with a track: a 10 x 20 box that moves 3 px to the right and 4 px down each frame."""
    rows = [
        {
            "recording_id": "r",
            "frame_index": frame,
            "detection_index": 0,
            "time_s": frame / 10,
            "captured_at_utc": None,
            "class_id": 2,
            "class_name": "car",
            "confidence": 0.8,
            "x_min_px": 3.0 * frame,
            "y_min_px": 4.0 * frame,
            "x_max_px": 3.0 * frame + 10,
            "y_max_px": 4.0 * frame + 20,
            "track_id": 7,
            **changed,
        }
        for frame in frames
    ]
    schema = pa.schema([*DETECTIONS.arrow_schema, pa.field("track_id", pa.int32())])
    names = [name for name in schema.names if name in rows[0]]
    return pa.Table.from_pylist(rows, schema=pa.schema([schema.field(name) for name in names]))


def frames_of(count: int) -> pa.Table:
    """Rows of frames of a recording of 10 frames a second."""
    captured = pa.nulls(count, pa.timestamp("us", tz="UTC"))
    frame_index = np.arange(count, dtype=np.int32)
    return pa.table({"frame_index": frame_index, "time_s": frame_index / 10, "captured_at_utc": captured})


def test_tracks_sum_up_their_boxes() -> None:
    tracks, boxes = track_rows(boxes_of(range(5, 16)), frames_of(16), 10, TrackSettings())
    track = tracks.to_pylist()[0]
    assert (track["track_id"], track["class_name"], track["box_count"]) == (1, "car", 11)
    assert (track["start_s"], track["end_s"]) == pytest.approx((0.5, 1.6))
    assert track["path_px"] == pytest.approx(50)  # ten steps of 3, 4, 5
    assert track["mean_speed_px_s"] == pytest.approx(50)
    assert [track[f"{end}_{axis}_px"] for end in ("first", "last") for axis in "xy"] == [20, 30, 50, 70]
    assert boxes.num_rows == 11


def test_a_track_has_the_class_of_most_confidence_everywhere() -> None:
    mixed = pa.concat_tables([boxes_of(range(6)), boxes_of(range(6, 10), class_id=5, class_name="bus", confidence=0.3)])
    tracks, boxes = track_rows(mixed, frames_of(10), 10, TrackSettings())
    assert tracks["class_name"].to_pylist() == ["car"]
    assert set(boxes["class_name"].to_pylist()) == {"car"}


def test_momentary_tracks_and_untracked_boxes_are_dropped() -> None:
    short = pa.concat_tables([boxes_of([3, 90]), boxes_of(range(9), track_id=0)])
    tracks, boxes = track_rows(short, frames_of(91), 10, TrackSettings(min_duration_s=0.5))
    assert (tracks.num_rows, boxes.num_rows) == (0, 0)


def test_tracks_that_are_never_sure_are_dropped() -> None:
    unsure = boxes_of(range(9), confidence=0.4)
    assert track_rows(unsure, frames_of(9), 10, TrackSettings())[0].num_rows == 0
    assert track_rows(unsure, frames_of(9), 10, TrackSettings(min_best_confidence=0.4))[0].num_rows == 1


def test_short_gaps_are_filled_and_long_ones_stay_open() -> None:
    seen = boxes_of([0, 1, 2, 6, 7, 30, 31, 32])
    tracks, boxes = track_rows(seen, frames_of(33), 10, TrackSettings(interpolate_s=0.5))
    assert boxes["frame_index"].to_pylist() == [*range(8), 30, 31, 32]
    filled = boxes.filter(boxes["is_interpolated"]).to_pylist()
    assert [row["frame_index"] for row in filled] == [3, 4, 5]
    assert [row["time_s"] for row in filled] == pytest.approx([0.3, 0.4, 0.5])
    assert [row["x_min_px"] for row in filled] == pytest.approx([9, 12, 15])  # 3 px a frame
    assert {row["confidence"] for row in filled} == {row["detection_index"] for row in filled} == {None}
    assert tracks["box_count"].to_pylist() == [8]  # what was seen
    assert not broken_rules(TRACK_BOXES, boxes)
    assert not broken_rules(TRACKS, tracks)


def test_fragments_are_stitched_where_the_settings_say_so() -> None:
    fragments = pa.concat_tables([boxes_of(range(10)), boxes_of(range(20, 30), track_id=9)])
    apart = track_rows(fragments, frames_of(35), 10, TrackSettings(stitch_s=0))[0]
    assert apart["box_count"].to_pylist() == [10, 10]
    joined = track_rows(fragments, frames_of(35), 10, TrackSettings(stitch_s=2))[0]
    assert joined["box_count"].to_pylist() == [20]
    elsewhere = pa.concat_tables([boxes_of(range(10)), boxes_of(range(20, 30), track_id=9, x_max_px=5.0)])
    assert track_rows(elsewhere, frames_of(35), 10, TrackSettings(stitch_s=2))[0].num_rows == 2


def test_no_boxes_give_no_tracks() -> None:
    nothing = boxes_of([0]).slice(0, 0)
    tracks, boxes = track_rows(nothing, frames_of(5), 10, TrackSettings(stitch_s=1))
    assert (tracks.num_rows, boxes.num_rows) == (0, 0)
    for method in ("motion", "bytetrack"):
        assert len(follow(nothing, 10, TrackSettings(method=method))) == 0


def tracked(crowd: Crowd, settings: TrackSettings) -> np.ndarray:
    """Rows of (frame_index, track, corners), as the scores want them."""
    found, rate_fps = crowd.detections(), crowd.settings.rate_fps
    frame_count = round(crowd.settings.duration_s * rate_fps)
    frames = frames_of(frame_count).set_column(1, "time_s", pa.array(np.arange(frame_count) / rate_fps))
    boxes = found.append_column("track_id", pa.array(follow(found, rate_fps, settings)))
    boxes = track_rows(boxes, frames, rate_fps, settings)[1]
    return np.column_stack([boxes["frame_index"].to_numpy(), boxes["track_id"].to_numpy(), corners(boxes)])


@pytest.mark.parametrize(
    ("drawn", "idf1"),
    [
        pytest.param(CrowdSettings(walker_count=6, has_occlusion=False), 0.97, id="in the open"),
        pytest.param(CrowdSettings(walker_count=10), 0.93, id="hiding each other"),
        pytest.param(CrowdSettings(walker_count=10, rate_fps=5, duration_s=30), 0.85, id="5 frames a second"),
        pytest.param(CrowdSettings(walker_count=8, miss_rate=0.2, rate_fps=12.5), 0.9, id="a fifth missed"),
    ],
)
def test_drawn_crowds_are_followed_better_than_by_bytetrack(drawn: CrowdSettings, idf1: float) -> None:
    crowds = [draw_crowd(seed, drawn) for seed in range(100, 106)]
    ours = [score(crowd.truth, tracked(crowd, TrackSettings())) for crowd in crowds]
    assert np.mean([scores.idf1 for scores in ours]) > idf1
    peers = [score(crowd.truth, tracked(crowd, TrackSettings(method="bytetrack"))) for crowd in crowds]
    assert np.mean([scores.hota for scores in ours]) >= np.mean([scores.hota for scores in peers])


@pytest.mark.parametrize("seed", range(5))
def test_a_resumed_recording_has_the_tracks_of_the_whole(seed: int) -> None:
    crowd = draw_crowd(seed, CrowdSettings(duration_s=8))
    found = crowd.detections()
    whole = follow(found, crowd.settings.rate_fps, TrackSettings())
    tracker, resumed = Tracker(TrackSettings(), 1 / crowd.settings.rate_fps), []
    for frame in np.unique(crowd.seen[:, 0]):
        rows = crowd.seen[crowd.seen[:, 0] == frame]
        time_s = frame / crowd.settings.rate_fps
        resumed.append(tracker.update(time_s, rows[:, 1:5], rows[:, 5], np.zeros(len(rows), np.int64)))
        if frame % 37 == 20:
            tracker = pickle.loads(pickle.dumps(tracker))
    assert np.array_equal(np.concatenate(resumed), whole)
    assert whole.max() >= 5


def test_frames_without_boxes_need_not_be_shown_to_the_tracker() -> None:
    box, sure, car = np.array([[10.0, 10, 50, 90]]), np.array([0.9]), np.array([0])
    one, other = Tracker(TrackSettings(), 0.1), Tracker(TrackSettings(), 0.1)
    nothing = (np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))
    for frame in range(40):
        is_seen = frame not in range(12, 20)
        numbers = one.update(frame / 10, *((box + 3 * frame, sure, car) if is_seen else nothing))
        if is_seen:
            assert np.array_equal(numbers, other.update(frame / 10, box + 3 * frame, sure, car))
            assert numbers.tolist() == [1]
