"""The scores and sums of the benchmarks, against cases computed by hand."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.scale import pauses_before
from benchmarks.track_metrics import score
from benchmarks.tracking import PEERS, our_tracks, peer_tracks, true_sequence
from resources.settings import CameraSettings
from resources.zones import anchors, crossings

BOX = (0.0, 0.0, 10.0, 20.0)


def rows(*objects: tuple[int, range]) -> np.ndarray:
    """Objects that stand still: (number, frames) each; those of equal last digit stand in the same place."""
    return np.array(
        [[frame, number, *(np.array(BOX) + 100 * (number % 10))] for number, frames in objects for frame in frames],
        float,
    )


def test_what_is_right_scores_one() -> None:
    truth = rows((1, range(10)), (2, range(3, 9)))
    found = score(truth, truth)
    assert (found.hota, found.idf1, found.mota) == pytest.approx((1, 1, 1))
    assert (found.switches, found.false_positives, found.false_negatives, found.track_count) == (0, 0, 0, 2)


def test_a_track_broken_in_two_is_scored_as_by_hand() -> None:
    # 10 frames, found as tracks of 6 and 4: every box is right, so DetA = 1; each of the 6 boxes has association
    # 6 / 10 and each of the 4 has 4 / 10: AssA = (36 + 16) / 100; one switch; IDF1 = 2 * 6 / 20.
    found = score(rows((1, range(10))), rows((1, range(6)), (11, range(6, 10))))
    assert found.hota == pytest.approx(np.sqrt(0.52))
    assert found.idf1 == pytest.approx(0.6)
    assert found.mota == pytest.approx(0.9)
    assert found.switches == 1


def test_missed_and_false_boxes_are_scored_as_by_hand() -> None:
    # Of 10 true boxes 8 are found, and 4 found ones are nobody's: DetA = 8 / 14, AssA = 8 / 10.
    found = score(rows((1, range(10))), rows((1, range(8)), (5, range(4))))
    assert found.hota == pytest.approx(np.sqrt(8 / 14 * 8 / 10))
    assert found.idf1 == pytest.approx(16 / 22)
    assert found.mota == pytest.approx(1 - 6 / 10)
    assert (found.false_positives, found.false_negatives) == (4, 2)


def test_a_loose_box_counts_up_to_its_overlap() -> None:
    truth, loose = rows((1, range(4))), rows((1, range(4)))
    loose[:, 4] += 10 / 3  # a third wider: IoU 0.75, which meets 15 of the 19 thresholds
    assert score(truth, loose).hota == pytest.approx(15 / 19)


def test_a_real_sequence_is_followed_better_than_by_the_peers_and_counted_within_one(corpus: Path) -> None:
    real = true_sequence()
    assert real is not None
    crowd, pictures = real
    tracks = our_tracks(crowd)[0]
    ours = score(crowd.truth, tracks)
    for peer in PEERS:
        theirs = score(crowd.truth, peer_tracks(peer, crowd, pictures)[0])
        assert ours.hota >= theirs.hota
        assert ours.idf1 >= theirs.idf1
    tracks = tracks[np.lexsort((tracks[:, 0], tracks[:, 1]))]
    up_the_middle = np.array([[320.0, 480.0], [320.0, 0.0]])
    margin = CameraSettings().hysteresis * (tracks[:, 5] - tracks[:, 3])
    sign = crossings(tracks[:, 1], anchors(tracks[:, 2:], "bottom_centre"), margin, up_the_middle).sign
    assert abs((sign > 0).sum() - 4) <= 1  # to the right
    assert abs((sign < 0).sum() - 1) <= 1


def test_a_run_waits_from_when_a_place_was_free() -> None:
    one_at_a_time = [(0.0, 10.0), (12.0, 20.0), (25.0, 30.0)]
    assert pauses_before(one_at_a_time, 1) == [2, 5]
    # The third takes the place of the second, which ended first; the fourth that of the third.
    two_at_a_time = [(0.0, 20.0), (1.0, 8.0), (9.0, 15.0), (18.0, 30.0)]
    assert pauses_before(two_at_a_time, 2) == [1, 3]
