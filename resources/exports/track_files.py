"""Exports with the tracks of each recording: MOT, CVAT for video 1.1 and Label Studio."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from resources.exports.annotations import Box, RecordingAnnotations

TRACK_NUMBER = "track_id"
"""Attribute of a box in CVAT files: the number of its track."""


def write_mot(folder: Path, recordings: Iterable[RecordingAnnotations], classes: Sequence[str]) -> int:
    """Write each recording as a sequence of the MOT challenge: gt/gt.txt, gt/labels.txt and seqinfo.ini.

    Frames, tracks, classes and pixels count from 1, as MOT defines them: the pixel at the top left is (1, 1).

    Returns:
        The number of boxes.
    """
    numbers = {name: number for number, name in enumerate(classes, 1)}
    count = 0
    for recording in recordings:
        sequence = folder / recording.recording_id
        (sequence / "gt").mkdir(parents=True)
        with (sequence / "gt" / "gt.txt").open("w") as file:
            for box in recording.boxes:
                left, top, right, bottom = box.xyxy
                values = (left + 1, top + 1, right - left, bottom - top)
                confidence = 1 if box.confidence is None else box.confidence
                numeric = ",".join(f"{value:.6f}" for value in (*values, confidence))
                file.write(f"{box.frame_index + 1},{box.track_id},{numeric},{numbers[box.class_name]},1\n")
                count += 1
        (sequence / "gt" / "labels.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        (sequence / "seqinfo.ini").write_text(
            f"[Sequence]\nname={recording.recording_id}\nimDir=img1\nframeRate={float(recording.rate_fps):g}\n"
            f"seqLength={len(recording.times_s)}\nimWidth={recording.width_px}\nimHeight={recording.height_px}\n"
            "imExt=.jpg\n"
            "; frames, tracks, classes and pixels count from 1; frame 1 is frame_index 0\n"
        )
    return count


def write_cvat(folder: Path, recordings: Iterable[RecordingAnnotations], classes: Sequence[str]) -> int:
    """Write each recording as RECORDING.xml in the format "CVAT for video 1.1"; frames count from 0.

    Every box is a keyframe, and each stretch of a track ends with a box outside, so that CVAT interpolates nothing.

    Returns:
        The number of boxes.
    """
    count = 0
    for recording in recordings:
        root = ElementTree.Element("annotations")
        ElementTree.SubElement(root, "version").text = "1.1"
        _append_cvat_meta(ElementTree.SubElement(root, "meta"), recording, classes)
        for number, boxes in recording.tracks().items():
            # A track of CVAT has one label: where a person has relabelled a part, it goes on as another track.
            for label, part in itertools.groupby(boxes, key=lambda box: box.class_name):
                track = ElementTree.SubElement(root, "track", id=str(number), label=label, source="automatic")
                for box, is_outside in _with_ends(list(part), len(recording.times_s)):
                    count += not is_outside
                    _append_cvat_box(track, box, is_outside)
        tree = ElementTree.ElementTree(root)
        ElementTree.indent(tree)
        tree.write(folder / f"{recording.recording_id}.xml", encoding="utf-8", xml_declaration=True)
    return count


def _append_cvat_meta(meta: ElementTree.Element, recording: RecordingAnnotations, classes: Sequence[str]) -> None:
    task = ElementTree.SubElement(meta, "task")
    texts = {
        "name": recording.recording_id,
        "size": len(recording.times_s),
        "mode": "interpolation",
        "overlap": 0,
        "start_frame": 0,
        "stop_frame": max(0, len(recording.times_s) - 1),
        "frame_filter": "",
    }
    for name, value in texts.items():
        ElementTree.SubElement(task, name).text = str(value)
    labels = ElementTree.SubElement(task, "labels")
    for name in classes:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        attributes = ElementTree.SubElement(label, "attributes")
        # CVAT numbers tracks again; the attribute keeps their numbers.
        _append_attribute(attributes, TRACK_NUMBER, "False", "number", "0", "0;1000000000;1")
        for attribute in ("is_interpolated", "is_corrected"):
            _append_attribute(attributes, attribute, "True", "checkbox", "false", "false")
    size = ElementTree.SubElement(task, "original_size")
    ElementTree.SubElement(size, "width").text = str(recording.width_px)
    ElementTree.SubElement(size, "height").text = str(recording.height_px)


def _append_attribute(
    attributes: ElementTree.Element, name: str, mutable: str, input_type: str, default_value: str, values: str
) -> None:
    item = ElementTree.SubElement(attributes, "attribute")
    texts = {"name": name, "mutable": mutable, "input_type": input_type, "default_value": default_value}
    for key, text in (texts | {"values": values}).items():
        ElementTree.SubElement(item, key).text = text


def _append_cvat_box(track: ElementTree.Element, box: Box, is_outside: bool) -> None:
    attributes = {"frame": str(box.frame_index), "outside": str(int(is_outside)), "occluded": "0", "keyframe": "1"}
    attributes |= zip(("xtl", "ytl", "xbr", "ybr"), (f"{value:.4f}" for value in box.xyxy), strict=True)
    element = ElementTree.SubElement(track, "box", attributes | {"z_order": "0"})
    flags = {"is_interpolated": box.is_interpolated, "is_corrected": box.is_corrected}
    for name, value in ({TRACK_NUMBER: box.track_id} | flags).items():
        ElementTree.SubElement(element, "attribute", name=name).text = str(value).lower()


def _with_ends(boxes: Sequence[Box], frame_count: int) -> Iterator[tuple[Box, bool]]:
    """The boxes of a track, and after each stretch without a gap its last box once more, as outside."""
    for box, after in zip(boxes, (*boxes[1:], None), strict=True):
        yield box, False
        end_frame = box.frame_index + 1
        if end_frame < frame_count and (after is None or after.frame_index > end_frame):
            yield Box(end_frame, box.track_id, box.class_name, None, box.xyxy), True


def write_label_studio(folder: Path, recordings: Iterable[RecordingAnnotations], classes: Sequence[str]) -> int:
    """Write tasks.json for Label Studio, with the tracks of each recording as predictions; frames count from 1.

    Returns:
        The number of boxes.
    """
    count = 0
    tasks = []
    for recording in recordings:
        regions = []
        for number, boxes in recording.tracks().items():
            for label, part in itertools.groupby(boxes, key=lambda box: box.class_name):
                sequence = list(part)
                count += len(sequence)
                regions.append(_label_studio_region(recording, number, label, sequence))
        tasks.append(
            {
                "data": {"video": f"{recording.recording_id}.mp4", "recording_id": recording.recording_id},
                "predictions": [{"model_version": "cv-assets", "result": regions}],
            }
        )
    (folder / "tasks.json").write_text(json.dumps(tasks, separators=(",", ":"), ensure_ascii=False), encoding="utf-8")
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in classes)
    (folder / "labeling_config.xml").write_text(
        "<!-- Frames count from 1; positions are percent of the frame. -->\n"
        f'<View><Video name="video" value="$video"/><VideoRectangle name="box" toName="video"/>'
        f'<Labels name="label" toName="video">{labels}</Labels></View>\n',
        encoding="utf-8",
    )
    return count


def _label_studio_region(
    recording: RecordingAnnotations, number: int, label: str, boxes: Sequence[Box]
) -> dict[str, Any]:
    sequence = []
    for box, after in zip(boxes, (*boxes[1:], None), strict=True):
        left, top, right, bottom = box.xyxy
        sequence.append(
            {
                "frame": box.frame_index + 1,
                "time": float(recording.times_s[box.frame_index]),
                "enabled": after is not None and after.frame_index == box.frame_index + 1,  # shown until the next box
                "rotation": 0,
                "x": 100 * left / recording.width_px,
                "y": 100 * top / recording.height_px,
                "width": 100 * (right - left) / recording.width_px,
                "height": 100 * (bottom - top) / recording.height_px,
            }
        )
    value = {
        "framesCount": len(recording.times_s),
        "duration": len(recording.times_s) / float(recording.rate_fps),
        "sequence": sequence,
        "labels": [label],
    }
    return {
        "id": f"track-{number}-{boxes[0].frame_index}",
        "type": "videorectangle",
        "from_name": "box",
        "to_name": "video",
        "value": value,
        "meta": {"text": [f"track {number}"]},
    }
