"""What each correction makes of single tracks, and which rows it marks as corrected."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from resources.corrections.correction_log import Correction
from resources.corrections.recording_edits import RecordingEdits
from resources.schema.correction_tables import CORRECTED_BOXES, CORRECTED_TRACKS
from resources.schema.row_checks import broken_rules
from resources.storage.delta_store import Store
from tests.builders.damaged_tracks import track_rows
from tests.builders.track_rows import moving_track_boxes

RIGHTWARDS_PX = np.arange(50, 250, 5).tolist()  # 40 boxes at 10 fps


def edits_of(*boxes: pa.Table, **columns: Any) -> RecordingEdits:
    """The tracks of some boxes; columns replace the values of `tracks`."""
    rows = pa.concat_tables(boxes)
    tracks = track_rows(rows, 10.0)
    for name, value in columns.items():
        position = tracks.schema.get_field_index(name)
        tracks = tracks.set_column(position, tracks.schema.field(name), pa.array([value] * tracks.num_rows))
    return RecordingEdits("r", tracks, rows)


def correction(edits: RecordingEdits, action: str, number: int, other: int | None = None, **values: Any) -> Correction:
    cut_s = values.get("time_s") if action in ("split", "swap") else None
    made = Correction("r", action, "ann", track_id=number, track_places=edits.editor.places(number, cut_s), **values)
    if other is None:
        return made
    return replace(made, other_track_id=other, other_track_places=edits.editor.places(other, cut_s))


def stored_rows(edits: RecordingEdits, store: Store) -> tuple[list[dict[str, Any]], pa.Table]:
    """Rows of corrected_tracks by number, and of corrected_boxes; checks the rules of both tables."""
    tracks, boxes = edits.rows(10.0, store)
    assert broken_rules(CORRECTED_TRACKS, tracks) == broken_rules(CORRECTED_BOXES, boxes) == []
    return tracks.sort_by("track_id").to_pylist(), boxes


def test_an_accepted_track_is_no_longer_doubtful_and_its_boxes_are_those_of_the_tracker(store: Store) -> None:
    edits = edits_of(moving_track_boxes(RIGHTWARDS_PX), link_confidence=0.7, is_doubtful=True)
    edits.editor.edit(correction(edits, "accept", 1))
    (track,), boxes = stored_rows(edits, store)
    assert (track["state"], track["is_doubtful"], track["link_confidence"]) == ("accepted", False, 0.7)
    assert not any(boxes["is_corrected"].to_pylist())


def test_only_the_moved_box_is_marked_as_corrected(store: Store) -> None:
    edits = edits_of(moving_track_boxes(RIGHTWARDS_PX, is_interpolated=True, confidence=None))
    box: dict[str, Any] = {"x_min_px": 1.0, "y_min_px": 2.0, "x_max_px": 30.0, "y_max_px": 60.0}
    edits.editor.edit(correction(edits, "move", 1, time_s=1.0, **box))
    (track,), boxes = stored_rows(edits, store)
    moved = [row for row in boxes.to_pylist() if row["is_corrected"]]
    assert [(row["frame_index"], row["is_interpolated"], row["x_max_px"]) for row in moved] == [(10, False, 30.0)]
    assert (track["state"], track["box_count"]) == ("changed", 1)


def test_in_a_frame_with_boxes_of_both_merged_tracks_the_more_confident_one_stays(store: Store) -> None:
    late = moving_track_boxes(RIGHTWARDS_PX, track_id=2, confidence=0.5).slice(30)
    edits = edits_of(moving_track_boxes(RIGHTWARDS_PX[:35]), late)
    edits.editor.edit(correction(edits, "merge", 2, 1))
    (merged, removed), boxes = stored_rows(edits, store)
    assert (merged["track_id"], merged["state"], merged["last_frame_index"]) == (1, "changed", 39)
    assert (removed["track_id"], removed["state"]) == (2, "removed")
    assert boxes["frame_index"].to_pylist() == list(range(40))
    assert boxes["tracker_track_id"].to_pylist() == [1] * 35 + [2] * 5
    assert boxes["is_corrected"].to_pylist() == [False] * 35 + [True] * 5


def test_a_class_that_the_model_lacks_gets_a_number_of_its_own(store: Store) -> None:
    edits = edits_of(moving_track_boxes(RIGHTWARDS_PX), moving_track_boxes(RIGHTWARDS_PX, track_id=2, class_name="dog"))
    edits.editor.edit(correction(edits, "relabel", 1, class_name="wheelchair"))
    (track,), boxes = stored_rows(edits, store)
    assert (track["class_id"], track["class_name"], track["class_share"]) == (1, "wheelchair", None)
    assert all(boxes["is_corrected"].to_pylist())


@pytest.mark.parametrize("action", ["reject", "relabel", "accept", "attribute"])
def test_a_correction_of_a_track_that_is_gone_is_listed_and_changes_nothing(store: Store, action: str) -> None:
    before = edits_of(moving_track_boxes(RIGHTWARDS_PX))
    edit = correction(before, action, 1, class_name="bus")
    rerun = edits_of(moving_track_boxes([x_px + 200 for x_px in RIGHTWARDS_PX]))
    (result,) = rerun.editor.apply([edit])
    assert (result.state, result.reason) == ("no_match", "Only 0 of 32 places of the track have a track now.")
    assert stored_rows(rerun, store)[0] == []


def test_all_parts_of_a_rejected_object_are_removed_and_a_longer_track_loses_only_the_part(store: Store) -> None:
    edit = correction(edits_of(moving_track_boxes(RIGHTWARDS_PX)), "reject", 1)
    parts = edits_of(
        moving_track_boxes(RIGHTWARDS_PX).slice(0, 18), moving_track_boxes(RIGHTWARDS_PX, track_id=2).slice(20)
    )
    assert [result.state for result in parts.editor.apply([edit])] == ["applied"]
    assert parts.editor.tracks == {}
    longer = edits_of(moving_track_boxes([*RIGHTWARDS_PX, *range(250, 550, 5)]))
    assert [result.state for result in longer.editor.apply([edit])] == ["applied"]
    (removed, rest), _ = stored_rows(longer, store)
    assert (removed["track_id"], removed["state"]) == (1, "removed")
    assert (rest["track_id"], rest["state"]) == (2, "changed")
    assert 39 <= rest["first_frame_index"] <= 42
