"""Tracks computed from detections: of drawn crowds with known tracks, and of single objects with known movement."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.track_metrics import score_tracks
from cv_assets.tracks import assign_track_ids, track_rows
from demo.crowd import CrowdSettings, simulate_crowd
from resources.config.tracking_config import TrackSettings
from resources.schema.row_checks import broken_rules
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.tracking.tracker import Tracker
from tests.builders.track_rows import frame_rows, moving_detections, track_crowd


def test_a_track_summarizes_its_boxes() -> None:
    tracks, boxes = track_rows(moving_detections(range(5, 16)), frame_rows(16), 10, TrackSettings())
    track = tracks.to_pylist()[0]
    assert (track["track_id"], track["class_name"], track["box_count"]) == (1, "car", 11)
    assert (track["start_s"], track["end_s"]) == pytest.approx((0.5, 1.6))
    assert track["path_px"] == pytest.approx(50)  # ten steps of 3, 4, 5
    assert track["mean_speed_px_s"] == pytest.approx(50)
    assert [track[f"{end}_{axis}_px"] for end in ("first", "last") for axis in "xy"] == [20, 30, 50, 70]
    assert boxes.num_rows == 11


def test_a_track_has_the_class_with_the_largest_sum_of_confidences() -> None:
    mixed = pa.concat_tables(
        [moving_detections(range(6)), moving_detections(range(6, 10), class_id=5, class_name="bus", confidence=0.3)]
    )
    tracks, boxes = track_rows(mixed, frame_rows(10), 10, TrackSettings())
    assert tracks["class_name"].to_pylist() == ["car"]
    assert set(boxes["class_name"].to_pylist()) == {"car"}


def test_short_tracks_and_boxes_without_a_track_are_dropped() -> None:
    short = pa.concat_tables([moving_detections([3, 90]), moving_detections(range(9), track_id=0)])
    tracks, boxes = track_rows(short, frame_rows(91), 10, TrackSettings(min_duration_s=0.5))
    assert (tracks.num_rows, boxes.num_rows) == (0, 0)


def test_tracks_without_a_confident_box_are_dropped() -> None:
    low_confidence = moving_detections(range(9), confidence=0.4)
    assert track_rows(low_confidence, frame_rows(9), 10, TrackSettings())[0].num_rows == 0
    assert track_rows(low_confidence, frame_rows(9), 10, TrackSettings(min_best_confidence=0.4))[0].num_rows == 1


def test_boxes_are_interpolated_over_short_gaps_only() -> None:
    detections = moving_detections([0, 1, 2, 6, 7, 30, 31, 32])
    tracks, boxes = track_rows(detections, frame_rows(33), 10, TrackSettings(interpolate_s=0.5))
    assert boxes["frame_index"].to_pylist() == [*range(8), 30, 31, 32]
    interpolated = boxes.filter(boxes["is_interpolated"]).to_pylist()
    assert [row["frame_index"] for row in interpolated] == [3, 4, 5]
    assert [row["time_s"] for row in interpolated] == pytest.approx([0.3, 0.4, 0.5])
    assert [row["x_min_px"] for row in interpolated] == pytest.approx([9, 12, 15])  # 3 px a frame
    assert {row["confidence"] for row in interpolated} == {row["detection_index"] for row in interpolated} == {None}
    assert tracks["box_count"].to_pylist() == [8]  # interpolated boxes do not count
    assert not broken_rules(TRACK_BOXES, boxes)
    assert not broken_rules(TRACKS, tracks)


def test_fragments_are_stitched_if_the_setting_allows() -> None:
    fragments = pa.concat_tables([moving_detections(range(10)), moving_detections(range(20, 30), track_id=9)])
    apart = track_rows(fragments, frame_rows(35), 10, TrackSettings(stitch_s=0))[0]
    assert apart["box_count"].to_pylist() == [10, 10]
    joined = track_rows(fragments, frame_rows(35), 10, TrackSettings(stitch_s=2))[0]
    assert joined["box_count"].to_pylist() == [20]
    elsewhere = pa.concat_tables(
        [moving_detections(range(10)), moving_detections(range(20, 30), track_id=9, x_max_px=5.0)]
    )
    assert track_rows(elsewhere, frame_rows(35), 10, TrackSettings(stitch_s=2))[0].num_rows == 2


def test_no_detections_give_no_tracks() -> None:
    no_detections = moving_detections([0]).slice(0, 0)
    tracks, boxes = track_rows(no_detections, frame_rows(5), 10, TrackSettings(stitch_s=1))
    assert (tracks.num_rows, boxes.num_rows) == (0, 0)
    for method in ("motion", "bytetrack"):
        assert len(assign_track_ids(no_detections, 10, TrackSettings(method=method))) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("crowd_settings", "min_idf1"),
    [
        pytest.param(CrowdSettings(person_count=6, has_occlusion=False), 0.97, id="no occlusion"),
        pytest.param(CrowdSettings(person_count=10), 0.93, id="occlusion"),
        pytest.param(CrowdSettings(person_count=10, rate_fps=5, duration_s=30), 0.85, id="5 fps"),
        pytest.param(
            CrowdSettings(person_count=8, miss_rate=0.2, rate_fps=12.5), 0.9, id="a fifth of the boxes missed"
        ),
    ],
)
def test_drawn_crowds_are_tracked_at_least_as_well_as_by_bytetrack(
    crowd_settings: CrowdSettings, min_idf1: float
) -> None:
    crowds = [simulate_crowd(seed, crowd_settings) for seed in range(100, 106)]
    own_scores = [score_tracks(crowd.truth, track_crowd(crowd, TrackSettings())) for crowd in crowds]
    assert np.mean([scores.idf1 for scores in own_scores]) > min_idf1
    bytetrack = TrackSettings(method="bytetrack")
    bytetrack_scores = [score_tracks(crowd.truth, track_crowd(crowd, bytetrack)) for crowd in crowds]
    assert np.mean([scores.hota for scores in own_scores]) >= np.mean([scores.hota for scores in bytetrack_scores])


@pytest.mark.parametrize("seed", range(5))
def test_a_tracker_restored_from_a_pickle_gives_the_same_tracks(seed: int) -> None:
    crowd = simulate_crowd(seed, CrowdSettings(duration_s=8))
    expected = assign_track_ids(crowd.detections(), crowd.settings.rate_fps, TrackSettings())
    tracker, track_ids = Tracker(TrackSettings(), 1 / crowd.settings.rate_fps), []
    for frame_index in np.unique(crowd.detected_boxes[:, 0]):
        boxes = crowd.detected_boxes[crowd.detected_boxes[:, 0] == frame_index]
        time_s = frame_index / crowd.settings.rate_fps
        track_ids.append(tracker.update(time_s, boxes[:, 1:5], boxes[:, 5], np.zeros(len(boxes), np.int64)))
        if frame_index % 37 == 20:
            tracker = pickle.loads(pickle.dumps(tracker))
    assert np.array_equal(np.concatenate(track_ids), expected)
    assert expected.max() >= 5


def test_the_tracker_can_skip_frames_without_boxes() -> None:
    xyxy, confidence, class_id = np.array([[10.0, 10, 50, 90]]), np.array([0.9]), np.array([0])
    no_boxes = (np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))
    every_frame, frames_with_boxes = Tracker(TrackSettings(), 0.1), Tracker(TrackSettings(), 0.1)
    for frame_index in range(40):
        time_s, moved = frame_index / 10, xyxy + 3 * frame_index
        if frame_index in range(12, 20):
            every_frame.update(time_s, *no_boxes)
            continue
        track_ids = every_frame.update(time_s, moved, confidence, class_id)
        assert np.array_equal(track_ids, frames_with_boxes.update(time_s, moved, confidence, class_id))
        assert track_ids.tolist() == [1]
