"""Tracks that people have edited in CVAT or another tool, read back, and the corrections that they amount to."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from resources.errors import PipelineError
from resources.exports.annotations import Box, RecordingAnnotations
from resources.exports.image_datasets import DETECTED
from resources.exports.track_files import TRACK_NUMBER
from resources.geometry.box_overlap import iou

_MIN_IOU, _MIN_SHARE = 0.5, 0.5  # a track of a file is that of the recording with which it overlaps so much, so often
_SAME_PX = 0.05  # files round edges
_EDGES = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")


@dataclass
class FileTrack:
    """A track of a file.

    Attributes:
        number: Its number in the recording; None if the file does not tell.
        boxes: Class and corners in pixels of the normalized video, by the frame's index from 0.
    """

    number: int | None
    boxes: dict[int, tuple[str, tuple[float, float, float, float]]] = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        """The class of most boxes."""
        return Counter(name for name, _ in self.boxes.values()).most_common(1)[0][0]


@dataclass(frozen=True)
class FileTracks:
    """What a file has of one recording.

    Attributes:
        tracks: The tracks.
        class_names: Classes that the file lists, as of others it has no tracks; None if it lists none.
        frame_indices: Frames that the file has; None for all.
    """

    tracks: Sequence[FileTrack]
    class_names: frozenset[str] | None = None
    frame_indices: frozenset[int] | None = None

    def may_have(self, boxes: Sequence[Box]) -> bool:
        """Whether a track with these boxes was exported, so that a person has deleted it if the file lacks it."""
        return any(
            (self.class_names is None or box.class_name in self.class_names)
            and (self.frame_indices is None or box.frame_index in self.frame_indices)
            and not box.is_interpolated
            for box in boxes
        )


def read_annotation_file(file: Path, recording_id: str | None) -> dict[str, FileTracks] | None:
    """Read the tracks of a CVAT (.xml), COCO (.json) or MOT (.txt) file.

    Args:
        file: The file.
        recording_id: The recording of a CVAT or MOT file; None takes the name of its task, or of its sequence folder.

    Returns:
        The tracks by recording; None if the file is no such file.

    Raises:
        PipelineError: The file is incomplete or damaged.
    """
    try:
        if file.suffix.lower() == ".xml":
            return _read_cvat(file, recording_id)
        if file.suffix.lower() == ".txt":
            return {recording_id or _sequence_name(file): _read_mot(file)}
        if file.suffix.lower() == ".json":
            content = json.loads(file.read_text(encoding="utf-8-sig"))
            is_coco = isinstance(content, Mapping) and {"images", "annotations", "categories"} <= content.keys()
            return _read_coco(content, file) if is_coco else None
    except OSError as error:
        raise PipelineError(f"The file {file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, LookupError, TypeError, OverflowError, ElementTree.ParseError) as error:
        raise PipelineError(f"The file {file} is damaged, or is no file of CVAT, COCO or MOT: {error!r}.") from error
    return None


def _sequence_name(file: Path) -> str:
    """The folder of a MOT sequence, which contains gt/gt.txt."""
    folder = file.resolve().parent
    return (folder.parent if folder.name in ("gt", "det") else folder).name


def _read_cvat(file: Path, recording_id: str | None) -> dict[str, FileTracks]:
    root = ElementTree.parse(file).getroot()
    name = recording_id or root.findtext("meta/task/name") or root.findtext("meta/job/name") or file.stem
    tracks: dict[int | str, FileTrack] = {}
    for position, element in enumerate(root.iter("track")):
        first = element.find(f"box/attribute[@name='{TRACK_NUMBER}']")
        number = int(first.text or 0) if first is not None else 0
        track = tracks.setdefault(number or f"new {position}", FileTrack(number or None))
        for box in element.iter("box"):
            if box.get("outside") != "1":
                left, top, right, bottom = (float(box.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
                track.boxes[int(box.attrib["frame"])] = (element.attrib["label"], (left, top, right, bottom))
    labels = frozenset(label.text or "" for label in root.iterfind("meta//labels/label/name"))
    return {name: FileTracks([track for track in tracks.values() if track.boxes], labels or None)}


def _read_mot(file: Path) -> FileTracks:
    labels_file = file.with_name("labels.txt")
    labels = labels_file.read_text(encoding="utf-8").splitlines() if labels_file.exists() else []
    tracks: dict[int, FileTrack] = {}
    for line in filter(str.strip, file.read_text().splitlines()):
        frame, number, left, top, width, height, _, label, *_ = (float(value) for value in line.split(","))
        name = labels[int(label) - 1] if 1 <= label <= len(labels) else ""
        corners = (left - 1, top - 1, left - 1 + width, top - 1 + height)
        tracks.setdefault(int(number), FileTrack(int(number))).boxes[int(frame) - 1] = (name, corners)
    return FileTracks(list(tracks.values()), frozenset(labels) or None)


def _read_coco(content: Mapping[str, Any], file: Path) -> dict[str, FileTracks]:
    info = content.get("info")
    if isinstance(info, Mapping) and info.get("boxes") == DETECTED:
        raise PipelineError(
            f"The file {file} has detections as the model gave them, not the boxes of tracks: export coco with "
            "--corrected, and edit that."
        )
    names = {category["id"]: category["name"] for category in content["categories"]}
    images = {image["id"]: image for image in content["images"]}
    if any("frame_index" not in image or "recording_id" not in image for image in images.values()):
        raise PipelineError(
            f"The file {file} has images without recording_id and frame_index, which cv-assets export coco writes."
        )
    recordings: dict[str, dict[int, FileTrack]] = {image["recording_id"]: {} for image in images.values()}
    for annotation in content["annotations"]:
        if annotation.get("track_id") is None:
            continue
        image, number = images[annotation["image_id"]], int(annotation["track_id"])
        left, top, width, height = map(float, annotation["bbox"])
        track = recordings[image["recording_id"]].setdefault(number, FileTrack(number))
        track.boxes[image["frame_index"]] = (
            names[annotation["category_id"]],
            (left, top, left + width, top + height),
        )
    frames: dict[str, set[int]] = {name: set() for name in recordings}
    for image in images.values():
        frames[image["recording_id"]].add(image["frame_index"])
    return {
        name: FileTracks(list(tracks.values()), frozenset(names.values()), frozenset(frames[name]))
        for name, tracks in recordings.items()
    }


@dataclass(frozen=True)
class FileCorrections:
    """What a file amounts to.

    Attributes:
        rows: Corrections, with the columns of the table `corrections`.
        left_out: Changes that no correction expresses, each in words.
    """

    rows: Sequence[Mapping[str, Any]]
    left_out: Sequence[str]


def find_corrections(recording: RecordingAnnotations, content: FileTracks) -> FileCorrections:
    """Compare the tracks of a file with those of a recording.

    Args:
        recording: The recording, with its tracks as corrected so far.
        content: What the file has of it; a track of the recording that it may have, and lacks, is rejected.
    """
    present, tracks = recording.tracks(), content.tracks
    matches = _match(present, tracks)
    deleted = filter(lambda number: content.may_have(present[number]), present.keys() - matches.keys())
    rows: list[dict[str, Any]] = [{"action": "reject", "track_id": number} for number in deleted]
    left_out = []
    for number, track in matches.items():
        boxes = {box.frame_index: box for box in present[number]}
        if (
            track.class_name
            and track.class_name != Counter(box.class_name for box in boxes.values()).most_common(1)[0][0]
        ):
            rows.append({"action": "relabel", "track_id": number, "class_name": track.class_name})
        for frame_index in sorted(boxes.keys() & track.boxes.keys()):
            corners = track.boxes[frame_index][1]
            # What is no number is not the same, either, and is refused as a correction.
            if not all(abs(a - b) <= _SAME_PX for a, b in zip(corners, boxes[frame_index].xyxy, strict=True)):
                edges = dict(zip(_EDGES, corners, strict=True))
                time_s = float(recording.times_s[frame_index])
                rows.append({"action": "move", "track_id": number, "time_s": time_s, **edges})
        exported = boxes.keys() if content.frame_indices is None else boxes.keys() & content.frame_indices
        if missing := exported - track.boxes.keys():
            left_out.append(f"track {number} has {len(missing)} boxes fewer, such as that of frame {min(missing)}")
        if added := track.boxes.keys() - boxes.keys():
            left_out.append(f"track {number} has {len(added)} boxes more, such as that of frame {min(added)}")
    matched = {id(track) for track in matches.values()}
    for track in tracks:
        if id(track) not in matched:
            left_out.append(f"a new object ({track.class_name or 'without class'}) from frame {min(track.boxes)}")
    rows.sort(key=lambda row: row["track_id"])
    return FileCorrections([{"recording_id": recording.recording_id, **row} for row in rows], left_out)


def _match(present: Mapping[int, Sequence[Box]], tracks: Sequence[FileTrack]) -> dict[int, FileTrack]:
    """Tracks of the file by the number of the recording's track: by their own number, else by their overlap."""
    matches = {track.number: track for track in tracks if track.number in present}
    shares: list[tuple[float, int, int]] = []
    for position, track in enumerate(tracks):
        if track.number in matches:
            continue
        for number, boxes in present.items():
            common = [box for box in boxes if box.frame_index in track.boxes]
            if number not in matches and common:
                own = np.array([box.xyxy for box in common])
                other = np.array([track.boxes[box.frame_index][1] for box in common])
                shares.append((float((iou(own, other) >= _MIN_IOU).mean()), number, position))
    used = set[int]()
    for share, number, position in sorted(shares, reverse=True):
        if share >= _MIN_SHARE and number not in matches and position not in used:
            matches[number] = tracks[position]
            used.add(position)
    return dict(sorted((number, track) for number, track in matches.items() if number is not None))
