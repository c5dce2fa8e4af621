"""Reads the stored boxes of a recording from the tables, as privacy copies need them: all that may show an object."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from resources.clips.privacy_copy import PrivacyPlan
from resources.clips.sightings import FACE, PLATE
from resources.errors import RecordingError
from resources.exports.annotations import Box
from resources.schema.columns import Table
from resources.schema.correction_tables import CORRECTED_BOXES
from resources.schema.model_tables import DETECTIONS
from resources.schema.track_tables import TRACK_BOXES
from resources.storage.delta_store import Store
from resources.storage.stage_runs import decode_input_versions, newest_stage_runs

_STAGES = ("normalized_video", DETECTIONS.name, "tracks", "corrected_tracks")
"""Stages of the video and its boxes, each computed from the one before it."""
_CORNERS = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")


def read_privacy_plan(
    store: Store, recording_id: str, cover: Sequence[str], new_names: Mapping[str, str]
) -> PrivacyPlan:
    """Read what a privacy copy of a recording covers.

    These are the tracks of the tracker, the tracks as people have corrected them, and all other detections of any
    confidence, also those in tracks of another class.

    Args:
        store: The tables.
        recording_id: The recording.
        cover: Classes, and `face` and `plate`.
        new_names: Names of classes in the tracks, by the model's names; both names of a class cover it.

    Raises:
        RecordingError: There are no boxes yet, or those of an earlier normalized video.
    """
    if {*cover} - {FACE}:
        _check_boxes(store, recording_id)
    names = dict.fromkeys(cover)
    names |= dict.fromkeys(new_name for name, new_name in new_names.items() if name in cover)
    names |= dict.fromkeys(name for name, new_name in new_names.items() if new_name in cover)
    tracked = _read(store, TRACK_BOXES, recording_id, "track_id", "detection_index")
    covered_tracked = _select(tracked, names)
    corrected = _read(store, CORRECTED_BOXES, recording_id, "track_id", "detection_index")
    detections = _select(_read(store, DETECTIONS, recording_id, "detection_index"), names)
    # Those in tracks of another class and in unsure ones, too: the class of a track is that of most of its detections.
    in_covered_tracks = set(_detection_keys(covered_tracked))
    is_rest = [key not in in_covered_tracks for key in _detection_keys(detections)]
    track_of = dict(zip(_detection_keys(tracked), tracked["track_id"].to_pylist(), strict=True))
    numbers = [track_of.get(key) for key in _detection_keys(detections)]
    detections = detections.append_column("track_id", pa.array(numbers, pa.int32()))
    carriers: dict[int, list[Box]] = {}
    for box in _boxes(tracked) if PLATE in cover else ():
        carriers.setdefault(box.frame_index, []).append(box)
    box_sets = (
        _boxes(detections.filter(pa.array(is_rest, pa.bool_()))),
        _boxes(covered_tracked),
        _boxes(_select(corrected, names)),
    )
    return PrivacyPlan(box_sets, carriers, tuple(names))


def _check_boxes(store: Store, recording_id: str) -> None:
    """Check that the stored boxes are those of the stored video: without them, a copy would cover nothing or elsewhere.

    Raises:
        RecordingError: They are not.
    """
    columns = ("recording_id", "stage", "data_version", "input_versions")
    rows = newest_stage_runs(store, [recording_id], columns=columns, only_materialized=True).to_pylist()
    runs = {row["stage"]: row for row in rows}
    for stage_before, stage in itertools.pairwise(("", *_STAGES)):
        if stage not in runs:
            raise RecordingError(f"The recording has no {stage} yet, so that what is covered is not known: process it.")
        inputs = decode_input_versions(runs[stage]["input_versions"]).values()
        if stage_before and runs[stage_before]["data_version"] not in inputs:
            raise RecordingError(
                f"The {stage} are of an earlier {stage_before}, so that other places would be covered: process the "
                "recording again."
            )


def _select(rows: pa.Table, names: Iterable[str]) -> pa.Table:
    """The rows of some classes."""
    return rows.filter(pc.is_in(rows["class_name"], pa.array(list(names), pa.string())))


def _read(store: Store, table: Table, recording_id: str, *columns: str) -> pa.Table:
    return store.read(table, [recording_id], ["frame_index", "class_name", *_CORNERS, *columns])


def _detection_keys(rows: pa.Table) -> list[tuple[int, int | None]]:
    return list(zip(rows["frame_index"].to_pylist(), rows["detection_index"].to_pylist(), strict=True))


def _boxes(rows: pa.Table) -> list[Box]:
    numbers = rows["track_id"].to_pylist() if "track_id" in rows.column_names else [None] * rows.num_rows
    corners = zip(*(rows[name].to_pylist() for name in _CORNERS), strict=True)
    return [
        Box(frame_index, track_id, class_name, None, xyxy)
        for frame_index, track_id, class_name, xyxy in zip(
            rows["frame_index"].to_pylist(), numbers, rows["class_name"].to_pylist(), corners, strict=True
        )
    ]
