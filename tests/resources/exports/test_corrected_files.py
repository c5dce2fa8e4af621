"""Tracks of files that were exported in part: only what a person has deleted is rejected."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from resources.errors import PipelineError
from resources.exports.annotations import Box, RecordingAnnotations
from resources.exports.corrected_files import FileTracks, find_corrections, read_annotation_file
from resources.exports.image_datasets import DETECTED, TRACKED, write_coco
from resources.exports.track_files import write_cvat, write_mot

CAR = [Box(frame, 1, "car", 0.9, (10.0, 10.0, 20.0, 20.0)) for frame in range(40)]
PERSON = [Box(frame, 2, "person", 0.9, (50.0, 10.0, 60.0, 30.0)) for frame in range(3, 6)]


def recording_of(*boxes: Box) -> RecordingAnnotations:
    ordered = sorted(boxes, key=lambda box: (box.frame_index, box.track_id or 0))
    return RecordingAnnotations("walk", "gate", 128, 96, Fraction(10), np.arange(40) / 10, ordered)


WHOLE = recording_of(*CAR, *PERSON)


def corrections(content: FileTracks) -> list[tuple[str, int]]:
    result = find_corrections(WHOLE, content)
    assert not result.left_out
    return [(row["action"], row["track_id"]) for row in result.rows]


@pytest.mark.parametrize("output_format", ["cvat", "mot"])
def test_tracks_of_classes_that_were_not_exported_are_not_rejected(tmp_path: Path, output_format: str) -> None:
    if output_format == "cvat":
        write_cvat(tmp_path, [recording_of(*PERSON)], ["person"])
        file = tmp_path / "walk.xml"
    else:
        write_mot(tmp_path, [recording_of(*PERSON)], ["person"])
        file = tmp_path / "walk" / "gt" / "gt.txt"
    content = read_annotation_file(file, None)
    assert content is not None and corrections(content["walk"]) == []


def test_a_track_that_was_exported_and_deleted_is_rejected(tmp_path: Path) -> None:
    write_cvat(tmp_path, [recording_of(*CAR)], ["car", "person"])
    content = read_annotation_file(tmp_path / "walk.xml", None)
    assert content is not None and corrections(content["walk"]) == [("reject", 2)]


def test_tracks_between_the_exported_frames_are_not_rejected(tmp_path: Path) -> None:
    write_coco(tmp_path, [WHOLE], ["car", "person"], 10, None, boxes_are=TRACKED)
    content = read_annotation_file(tmp_path / "annotations.json", None)
    assert content is not None and corrections(content["walk"]) == []


def test_detections_are_no_tracks(tmp_path: Path) -> None:
    write_coco(tmp_path, [WHOLE], ["car", "person"], 1, None, boxes_are=DETECTED)
    file = tmp_path / "annotations.json"
    with pytest.raises(PipelineError, match=r"has detections as the model gave them, .* export coco with --corrected"):
        read_annotation_file(file, None)
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"info": None}))  # as another tool writes it
    assert read_annotation_file(file, None) is not None
