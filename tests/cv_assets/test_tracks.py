"""Tracks computed from detections: of drawn crowds with known tracks, and of single objects with known movement."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks.track_metrics import score_tracks
from cv_assets.detection_filter import DetectionFilter
from cv_assets.tracks import RecordingTracks, corners, open_source, track_detections
from demo.crowd import Crowd, CrowdSettings, simulate_crossings, simulate_crowd
from resources.config.tracking_config import TrackSettings
from resources.schema.model_tables import DETECTIONS
from resources.schema.row_checks import broken_rules
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.storage.delta_store import Store
from resources.tracking.association import Association
from resources.tracking.detection_source import DetectionSource
from resources.tracking.tracker import Tracker
from tests.builders.own_stage_files import complete_rows
from tests.builders.track_rows import frame_rows, moving_detections, track_associated, track_crowd

_TRACK_ORDER = [("track_id", "ascending"), ("frame_index", "ascending")]


def fragments(gap_s: float, offset_px: float = 0.0) -> pa.Table:
    """Detections of two parts of a track, with a gap between them after which the object is somewhat out of its way."""
    first_frame = 20 + round(10 * gap_s)
    parts = [moving_detections(range(20))]
    for frame_index in range(first_frame, first_frame + 20):
        x_px = 3.0 * frame_index + offset_px
        parts.append(moving_detections([frame_index], track_id=9, x_min_px=x_px, x_max_px=x_px + 10))
    return pa.concat_tables(parts)


def test_a_track_summarizes_its_boxes() -> None:
    tracks, boxes = track_associated(moving_detections(range(5, 25)), 25, TrackSettings())
    track = tracks.to_pylist()[0]
    assert (track["track_id"], track["class_name"], track["box_count"]) == (1, "car", 20)
    assert (track["start_s"], track["end_s"]) == pytest.approx((0.5, 2.5))
    # Smoothing moves the first and last boxes a little.
    assert track["path_px"] == pytest.approx(95, rel=0.02)  # nineteen steps of 3, 4, 5
    assert track["mean_speed_px_s"] == pytest.approx(50, rel=0.02)
    ends_px = [track[f"{end}_{axis}_px"] for end in ("first", "last") for axis in "xy"]
    assert ends_px == pytest.approx([20, 30, 77, 106], abs=1)
    assert (track["link_confidence"], track["is_doubtful"]) == (None, None)
    assert boxes.num_rows == 20


def test_a_track_has_the_class_with_the_largest_sum_of_confidences() -> None:
    mixed = pa.concat_tables(
        [moving_detections(range(6)), moving_detections(range(6, 10), class_id=5, class_name="bus", confidence=0.3)]
    )
    tracks, boxes = track_associated(mixed, 10, TrackSettings(min_duration_s=0.2))
    assert tracks["class_name"].to_pylist() == ["car"]
    assert set(boxes["class_name"].to_pylist()) == {"car"}


def test_short_tracks_and_boxes_without_a_track_are_dropped() -> None:
    short = pa.concat_tables([moving_detections([3, 90]), moving_detections(range(9), track_id=0)])
    tracks, boxes = track_associated(short, 91, TrackSettings(min_duration_s=0.5))
    assert (tracks.num_rows, boxes.num_rows) == (0, 0)


def test_tracks_without_a_confident_box_are_dropped() -> None:
    low_confidence = moving_detections(range(9), confidence=0.4)
    assert track_associated(low_confidence, 9, TrackSettings())[0].num_rows == 0
    assert track_associated(low_confidence, 9, TrackSettings(min_best_confidence=0.4))[0].num_rows == 1


def test_a_track_of_unusually_unconfident_boxes_must_be_longer() -> None:
    usual = moving_detections(range(60), confidence=0.9)

    def kept_count(box_count: int, confidence: float) -> int:
        place = {"track_id": 9, "x_min_px": 300.0, "x_max_px": 310.0}
        other = moving_detections(range(20, 20 + box_count), confidence=confidence, **place)
        rows: pa.Table = pa.concat_tables([usual, other])
        return int(track_associated(rows, 60, TrackSettings(link_s=0))[0].num_rows) - 1

    assert kept_count(6, 0.9) == 1
    assert kept_count(6, 0.6) == 0  # odds of 3 to 2 instead of 9 to 1: each box counts a sixth
    assert kept_count(30, 0.6) == 1


def test_boxes_in_a_gap_are_estimated_and_marked() -> None:
    detections = moving_detections([*range(20), *range(24, 44)])
    tracks, boxes = track_associated(detections, 44, TrackSettings())
    assert boxes["frame_index"].to_pylist() == list(range(44))
    interpolated = boxes.filter(boxes["is_interpolated"]).to_pylist()
    assert [row["frame_index"] for row in interpolated] == [20, 21, 22, 23]
    assert [row["time_s"] for row in interpolated] == pytest.approx([2.0, 2.1, 2.2, 2.3])
    assert [row["x_min_px"] for row in interpolated] == pytest.approx([60, 63, 66, 69], abs=0.5)  # 3 px a frame
    assert {row["confidence"] for row in interpolated} == {row["detection_index"] for row in interpolated} == {None}
    assert {row["link_confidence"] for row in interpolated} == {None}  # one part: no link
    assert tracks["box_count"].to_pylist() == [40]  # interpolated boxes do not count
    assert not broken_rules(TRACK_BOXES, boxes)
    assert not broken_rules(TRACKS, tracks)


def test_a_gap_is_left_open_where_the_position_is_too_uncertain() -> None:
    detections = moving_detections([*range(20), *range(80, 100)])  # association never leaves such a gap
    boxes = track_associated(detections, 100, TrackSettings())[1].filter(pc.field("is_interpolated"))
    assert boxes.num_rows < 40
    assert not {49, 50} & set(boxes["frame_index"].to_pylist())


def test_parts_of_a_track_are_linked_and_the_link_is_scored() -> None:
    apart = track_associated(fragments(1.0), 60, TrackSettings(link_s=0))[0]
    assert apart["box_count"].to_pylist() == [20, 20]
    tracks, boxes = track_associated(fragments(1.0), 60, TrackSettings())
    assert tracks["box_count"].to_pylist() == [40]
    confidence = tracks["link_confidence"][0].as_py()
    assert confidence > 0.8 and not tracks["is_doubtful"][0].as_py()
    assert boxes["frame_index"].to_pylist() == list(range(50))
    filled = boxes.filter(boxes["is_interpolated"])
    assert filled["link_confidence"].to_pylist() == [confidence] * 10
    assert boxes["link_confidence"].null_count == 40
    assert not broken_rules(TRACK_BOXES, boxes)


def test_parts_are_not_linked_over_too_long_a_gap_or_too_far_apart() -> None:
    assert track_associated(fragments(3.5), 90, TrackSettings())[0].num_rows == 2
    assert track_associated(fragments(1.0, offset_px=60.0), 60, TrackSettings())[0].num_rows == 2
    assert track_associated(fragments(1.0), 60, TrackSettings(min_link_confidence=1.0))[0].num_rows == 2


def test_no_detections_give_no_tracks() -> None:
    no_detections = moving_detections([0]).slice(0, 0)
    for method in ("motion", "bytetrack"):
        tracks, boxes = track_detections(no_detections, frame_rows(5), 10, TrackSettings(method=method))
        assert (tracks.num_rows, boxes.num_rows) == (0, 0)


@pytest.mark.parametrize("seed", range(2))
def test_a_recording_tracked_in_stretches_has_the_same_tracks(seed: int) -> None:
    crowd = simulate_crowd(seed, CrowdSettings(duration_s=40))
    time_s = np.arange(1000) / 25
    whole = RecordingTracks(DetectionSource.of_table(crowd.detections(), time_s, 25), TrackSettings())
    parts = RecordingTracks(DetectionSource.of_table(crowd.detections(), time_s, 25, 900), TrackSettings())
    expected, boxes = (pa.concat_tables(tracks.boxes()).sort_by(_TRACK_ORDER) for tracks in (whole, parts))
    assert np.array_equal(parts.track_id, whole.track_id)
    for name in ("track_id", "frame_index", "detection_index", "is_interpolated"):
        assert boxes[name].to_pylist() == expected[name].to_pylist()
    assert np.abs(corners(boxes) - corners(expected)).max() < 1
    summaries, expected_summaries = parts.summaries(), whole.summaries()
    assert summaries["box_count"].to_pylist() == expected_summaries["box_count"].to_pylist()
    assert summaries["path_px"].to_pylist() == pytest.approx(expected_summaries["path_px"].to_pylist(), rel=0.01)


def test_detections_of_a_long_recording_are_read_in_stretches(store: Store) -> None:
    crowd = simulate_crowd(3, CrowdSettings(duration_s=20))
    store.replace(DETECTIONS, ["crowd"], crowd.detections())
    frames = pa.table({"time_s": np.arange(500) / 25, "is_duplicated": np.zeros(500, bool)})
    source = open_source("crowd", store, DetectionFilter(), frames, 25, None, stretch_rows=300)
    stretches = list(source.stretches())
    assert len(stretches) > 3
    rows = pa.concat_tables([source.read(*stretch) for stretch in stretches])
    assert rows["confidence"].to_pylist() == crowd.detections()["confidence"].to_pylist()


def test_of_frames_that_repeat_one_another_the_first_with_detections_counts(store: Store) -> None:
    detections = moving_detections([0, 1, 2, 4, 5])  # frame 3 was not analysed, as at a lower rate
    store.replace(DETECTIONS, ["r"], complete_rows(DETECTIONS, *detections.drop_columns("track_id").to_pylist()))
    is_duplicated = np.array([False, True, True, False, True, True])
    frames = pa.table({"time_s": np.arange(6) / 10, "is_duplicated": is_duplicated})
    for stretch_rows in (1, 100):
        source = open_source("r", store, DetectionFilter(), frames, 10, None, stretch_rows)
        assert source.read(0, 6)["frame_index"].to_pylist() == [0, 4]
        assert source.first_row.tolist() == [0, 1, 1, 1, 1, 2, 2]
        assert source.frame_span.tolist() == [3, 0, 0, 1, 2, 0]


def test_objects_go_on_while_the_frame_before_a_gap_is_repeated(store: Store) -> None:
    """People cross the picture while the source stops for 0.4 s every two seconds."""
    crowd, _, _ = simulate_crossings(1000)
    shown, is_duplicated = np.arange(400), np.arange(400) % 50 >= 40
    shown[is_duplicated] -= shown[is_duplicated] % 50 - 39
    boxes = [crowd.detected_boxes[crowd.detected_boxes[:, 0] == frame] for frame in shown]
    repeated = [np.column_stack([np.full(len(rows), frame), rows[:, 1:]]) for frame, rows in enumerate(boxes)]
    detections = Crowd(crowd.settings, crowd.truth, np.concatenate(repeated)).detections()
    store.replace(DETECTIONS, ["crowd"], detections)
    frames = pa.table({"time_s": np.arange(400) / 25, "is_duplicated": is_duplicated})
    tracks = RecordingTracks(open_source("crowd", store, DetectionFilter(), frames, 25, None), TrackSettings())
    rows = pa.concat_tables(tracks.boxes()).sort_by(_TRACK_ORDER)
    assert tracks.summaries().num_rows == len(np.unique(crowd.truth[:, 1]))
    in_gaps = np.flatnonzero(is_duplicated[rows["frame_index"].to_numpy()])
    assert len(in_gaps) > 200
    assert set(rows.take(in_gaps)["is_interpolated"].to_pylist()) == {True}
    xyxy = corners(rows)  # the picture stands still, and the boxes with it
    assert np.array_equal(xyxy[in_gaps], xyxy[in_gaps - 1])


def test_a_short_track_is_no_noise_at_a_lower_rate_of_the_model(store: Store) -> None:
    detections = moving_detections(range(30, 60, 10))  # for 3 s, at 10 frames/s of which 1 is analysed
    store.replace(DETECTIONS, ["r"], complete_rows(DETECTIONS, *detections.drop_columns("track_id").to_pylist()))
    frames = pa.table({"time_s": np.arange(90) / 10, "is_duplicated": np.zeros(90, bool)})
    source = open_source("r", store, DetectionFilter(), frames, 10, 1)
    assert source.interval_s == 1
    tracks = RecordingTracks(source, TrackSettings(min_duration_s=2.5), np.full(3, 1, np.int32))
    assert sum(rows.num_rows for rows in tracks.boxes()) > 3
    assert tracks.summaries()["box_count"].to_pylist() == [3]


def shaken_crowd(seed: int, step_px: float) -> Crowd:
    """A crowd seen by a camera that shakes."""
    crowd = simulate_crowd(seed, CrowdSettings(person_count=10))
    position_px = np.zeros((500, 2))
    rng = np.random.default_rng(seed)
    for frame_index in range(1, 500):
        position_px[frame_index] = 0.8 * position_px[frame_index - 1] + rng.normal(0, step_px, 2)
    moved = [
        np.column_stack([rows[:, :first], rows[:, first : first + 4] + np.tile(position_px[rows[:, 0].astype(int)], 2),
                         rows[:, first + 4 :]])
        for rows, first in ((crowd.truth, 2), (crowd.detected_boxes, 1))
    ]  # fmt: skip
    return Crowd(crowd.settings, *moved)


def test_a_shaking_camera_costs_little() -> None:
    scores = [
        np.mean([score_tracks(crowd.truth, track_crowd(crowd, TrackSettings())).hota for crowd in crowds])
        for crowds in ([simulate_crowd(seed, CrowdSettings(person_count=10)) for seed in range(2)],
                       [shaken_crowd(seed, 6.0) for seed in range(2)])
    ]  # fmt: skip
    assert scores[1] > scores[0] - 0.05


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
    crowds = [simulate_crowd(seed, crowd_settings) for seed in range(100, 103)]
    own_scores = [score_tracks(crowd.truth, track_crowd(crowd, TrackSettings())) for crowd in crowds]
    assert np.mean([scores.idf1 for scores in own_scores]) > min_idf1
    bytetrack = TrackSettings(method="bytetrack")
    bytetrack_scores = [score_tracks(crowd.truth, track_crowd(crowd, bytetrack)) for crowd in crowds]
    assert np.mean([scores.hota for scores in own_scores]) >= np.mean([scores.hota for scores in bytetrack_scores])


@pytest.mark.parametrize("seed", range(5))
def test_a_tracker_restored_from_a_pickle_gives_the_same_tracks(seed: int) -> None:
    crowd = simulate_crowd(seed, CrowdSettings(duration_s=8))
    detections = crowd.detections()
    frame_index, time_s, confidence, class_id = (
        detections[name].to_numpy() for name in ("frame_index", "time_s", "confidence", "class_id")
    )
    association = Association(TrackSettings(), crowd.settings.rate_fps, 1 / crowd.settings.rate_fps)
    expected = association.assign(frame_index, time_s, corners(detections), confidence, class_id, 200)
    tracker, track_ids = Tracker(TrackSettings(), 1 / crowd.settings.rate_fps), []
    for frame_index in np.unique(crowd.detected_boxes[:, 0]):
        boxes = crowd.detected_boxes[crowd.detected_boxes[:, 0] == frame_index]
        frame_s = frame_index / crowd.settings.rate_fps
        track_ids.append(tracker.update(frame_s, boxes[:, 1:5], boxes[:, 5], np.zeros(len(boxes), np.int64)))
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
        if frame_index in range(12, 16):
            every_frame.update(time_s, *no_boxes)
            continue
        track_ids = every_frame.update(time_s, moved, confidence, class_id)
        assert np.array_equal(track_ids, frames_with_boxes.update(time_s, moved, confidence, class_id))
        assert track_ids.tolist() == [1]
