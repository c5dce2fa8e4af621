"""The scores and sums of the benchmarks, against cases computed by hand."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.report import exact_case, max_case, max_ratio_case, min_case, min_ratio_case
from benchmarks.scale import pauses_before_runs
from benchmarks.track_metrics import mean_scores, score_tracks
from benchmarks.track_sequences import read_mot_sequences, read_sequence_with_pictures
from benchmarks.tracking import track_with_ours, track_with_peer
from resources.config.camera_config import CameraSettings
from resources.geometry.zone_geometry import anchor_points, find_line_crossings

BOX = (0.0, 0.0, 10.0, 20.0)


def rows(*objects: tuple[int, range]) -> np.ndarray:
    """Objects that stand still, as (number, frames) each; those with the same last digit stand in the same place."""
    return np.array(
        [
            [frame_index, number, *(np.array(BOX) + 100 * (number % 10))]
            for number, frame_indices in objects
            for frame_index in frame_indices
        ],
        float,
    )


def test_tracks_equal_to_the_truth_score_one() -> None:
    truth = rows((1, range(10)), (2, range(3, 9)))
    scores = score_tracks(truth, truth)
    assert (scores.hota, scores.idf1, scores.mota) == pytest.approx((1, 1, 1))
    assert (scores.switches, scores.false_positives, scores.false_negatives, scores.track_count) == (0, 0, 0, 2)


def test_a_track_broken_in_two_is_scored_as_by_hand() -> None:
    # 10 frames, tracked as 6 and 4: every box is right, so DetA = 1; each of the 6 boxes has association 6 / 10 and
    # each of the 4 has 4 / 10: AssA = (36 + 16) / 100; one switch; IDF1 = 2 * 6 / 20.
    scores = score_tracks(rows((1, range(10))), rows((1, range(6)), (11, range(6, 10))))
    assert scores.hota == pytest.approx(np.sqrt(0.52))
    assert scores.idf1 == pytest.approx(0.6)
    assert scores.mota == pytest.approx(0.9)
    assert scores.switches == 1


def test_missed_and_false_boxes_are_scored_as_by_hand() -> None:
    # Of 10 true boxes 8 are tracked, and 4 tracked ones have no true box: DetA = 8 / 14, AssA = 8 / 10.
    scores = score_tracks(rows((1, range(10))), rows((1, range(8)), (5, range(4))))
    assert scores.hota == pytest.approx(np.sqrt(8 / 14 * 8 / 10))
    assert scores.idf1 == pytest.approx(16 / 22)
    assert scores.mota == pytest.approx(1 - 6 / 10)
    assert (scores.false_positives, scores.false_negatives) == (4, 2)


def test_a_box_that_is_too_wide_counts_up_to_its_iou() -> None:
    truth, wide = rows((1, range(4))), rows((1, range(4)))
    wide[:, 4] += 10 / 3  # a third wider: IoU 0.75, which meets 15 of the 19 thresholds
    assert score_tracks(truth, wide).hota == pytest.approx(15 / 19)


@pytest.mark.slow
def test_real_sequences_are_tracked_as_well_as_promised(corpus: Path) -> None:
    crowds = read_mot_sequences()
    scores = mean_scores([score_tracks(crowd.truth, track_with_ours(crowd)[0]) for crowd in crowds.values()])
    assert scores.hota >= 0.5 and scores.idf1 >= 0.68 and scores.mota >= 0.57


@pytest.mark.slow
def test_a_real_sequence_is_tracked_better_than_by_the_peers_and_counted_within_one(corpus: Path) -> None:
    sequence = read_sequence_with_pictures()
    assert sequence is not None
    crowd, images = sequence
    tracks = track_with_ours(crowd)[0]
    ours = score_tracks(crowd.truth, tracks)
    for peer in ("bytetrack", "botsort"):
        peer_scores = score_tracks(crowd.truth, track_with_peer(peer, crowd, images)[0])
        assert ours.hota >= peer_scores.hota
        assert ours.idf1 >= peer_scores.idf1
    tracks = tracks[np.lexsort((tracks[:, 0], tracks[:, 1]))]
    middle_line = np.array([[320.0, 480.0], [320.0, 0.0]])
    margin_px = CameraSettings().hysteresis * (tracks[:, 5] - tracks[:, 3])
    sign = find_line_crossings(tracks[:, 1], anchor_points(tracks[:, 2:], "bottom_centre"), margin_px, middle_line).sign
    assert abs((sign > 0).sum() - 4) <= 1  # to the right
    assert abs((sign < 0).sum() - 1) <= 1


def test_a_run_waits_from_when_a_slot_was_free() -> None:
    with_one_slot = [(0.0, 10.0), (12.0, 20.0), (25.0, 30.0)]
    assert pauses_before_runs(with_one_slot, 1) == [2, 5]
    # The third takes the slot of the second, which ended first; the fourth that of the third.
    with_two_slots = [(0.0, 20.0), (1.0, 8.0), (9.0, 15.0), (18.0, 30.0)]
    assert pauses_before_runs(with_two_slots, 2) == [1, 3]


def test_a_case_is_met_up_to_its_goal() -> None:
    assert min_ratio_case("a", 3.0, 2.0, "frames/s", 1.5).met
    assert not min_ratio_case("a", 3.0, 2.0, "frames/s", 1.6).met
    assert max_ratio_case("a", 3.0, 2.0, "s", 1.5).met
    assert not max_ratio_case("a", 3.0, 2.0, "s", 1.4).met
    assert min_case("a", 0.98, "share", 0.98).met and not min_case("a", 0.97, "share", 0.98).met
    assert max_case("a", 5.0, "s", 5.0).met and not max_case("a", 5.1, "s", 5.0).met
    assert exact_case("a", 3, 3).met and not exact_case("a", 2, 3).met
