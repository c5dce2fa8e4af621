"""Exports with a label per picture: COCO, the same as FiftyOne imports it, and YOLO."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from resources.exports.annotations import KEYPOINT_NAMES, Box, RecordingAnnotations

_VISIBLE_CONFIDENCE = 0.5  # keypoints of lower confidence are labelled, but not visible
TRACKED, DETECTED = "tracks", "detections"
"""What the boxes of a COCO file are."""
WriteImages = Callable[[RecordingAnnotations, Sequence[int], Sequence[Path]], None]
"""Writes frames of a recording into files."""


def write_coco(
    folder: Path,
    recordings: Iterable[RecordingAnnotations],
    classes: Sequence[str],
    every: int,
    write_images: WriteImages | None,
    *,
    boxes_are: str,
    labels_name: str = "annotations.json",
    images_name: str = "images",
) -> int:
    """Write a COCO dataset: boxes, masks and keypoints, with an image per exported frame, also of empty ones.

    Args:
        folder: An empty folder.
        recordings: The recordings.
        classes: All classes; their categories are numbered from 1 in this order.
        every: Take each frame whose index is a multiple of this.
        write_images: None writes the labels alone.
        boxes_are: TRACKED or DETECTED, which is noted in the file.
        labels_name: Name of the JSON file.
        images_name: Name of the folder of the images.

    Returns:
        The number of boxes.
    """
    category_ids = {name: number for number, name in enumerate(classes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    keypoint_counts = dict[str, int]()
    for recording in recordings:
        boxes = recording.boxes_by_frame()
        frame_indices = range(0, len(recording.times_s), every)
        names = [f"{recording.recording_id}/{frame_index:06d}.jpg" for frame_index in frame_indices]
        if write_images:
            _write_images(folder / images_name, recording, frame_indices, names, write_images)
        for frame_index, name in zip(frame_indices, names, strict=True):
            image_id = len(images) + 1
            images.append(
                {
                    "id": image_id,
                    "file_name": name,
                    "width": recording.width_px,
                    "height": recording.height_px,
                    "recording_id": recording.recording_id,
                    "frame_index": frame_index,
                    "time_s": float(recording.times_s[frame_index]),
                }
            )
            for box in boxes.get(frame_index, ()):
                count = max(keypoint_counts.get(box.class_name, 0), len(box.keypoints))
                keypoint_counts[box.class_name] = count
                annotations.append(_coco_annotation(box, len(annotations) + 1, image_id, category_ids))
    content = {
        "info": {
            "description": "Boxes in pixels of the normalized video, from the top left. frame_index counts from 0, "
            "ids of images, annotations and categories from 1.",
            "version": "1.0",
            "boxes": boxes_are,
        },
        "licenses": [],
        "categories": [_coco_category(name, category_ids[name], keypoint_counts.get(name, 0)) for name in classes],
        "images": images,
        "annotations": annotations,
    }
    (folder / labels_name).write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    return len(annotations)


def _coco_annotation(box: Box, number: int, image_id: int, category_ids: Mapping[str, int]) -> dict[str, Any]:
    left, top, right, bottom = box.xyxy
    width, height = right - left, bottom - top
    annotation: dict[str, Any] = {
        "id": number,
        "image_id": image_id,
        "category_id": category_ids[box.class_name],
        "bbox": [left, top, width, height],
        "area": width * height if box.area_px is None else box.area_px,
        "segmentation": [list(box.polygon_px)] if len(box.polygon_px) >= 6 else [],
        "iscrowd": 0,
        "attributes": {"is_interpolated": box.is_interpolated, "is_corrected": box.is_corrected},
    }
    if box.track_id is not None:
        annotation["track_id"] = box.track_id
    if box.confidence is not None:
        annotation["score"] = box.confidence
    if box.keypoints:
        annotation["keypoints"] = [
            value
            for x, y, confidence in box.keypoints
            for value in (x, y, 2 if confidence >= _VISIBLE_CONFIDENCE else 1)
        ]
        annotation["num_keypoints"] = len(box.keypoints)
        annotation["keypoint_scores"] = [confidence for *_, confidence in box.keypoints]
    return annotation


def _coco_category(name: str, number: int, keypoint_count: int) -> dict[str, Any]:
    category: dict[str, Any] = {"id": number, "name": name, "supercategory": ""}
    if keypoint_count:
        is_person = keypoint_count == len(KEYPOINT_NAMES)
        category["keypoints"] = list(KEYPOINT_NAMES) if is_person else [f"{index}" for index in range(keypoint_count)]
        category["skeleton"] = []
    return category


def write_yolo(
    folder: Path,
    recordings: Iterable[RecordingAnnotations],
    classes: Sequence[str],
    every: int,
    write_images: WriteImages,
) -> int:
    """Write a dataset for training with Ultralytics: images, labels and data.yaml.

    Where the boxes of the recordings have masks, the labels are their outlines, as the task segment takes them.

    Args:
        folder: An empty folder.
        recordings: The recordings.
        classes: All classes, numbered from 0 in this order.
        every: Take each frame whose index is a multiple of this.
        write_images: Writes the images, without which there is no dataset.

    Returns:
        The number of boxes.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    count = 0
    for recording in recordings:
        boxes = recording.boxes_by_frame()
        frame_indices = range(0, len(recording.times_s), every)
        names = [f"{recording.recording_id}-{frame_index:06d}" for frame_index in frame_indices]
        _write_images(folder / "images" / "train", recording, frame_indices, [f"{n}.jpg" for n in names], write_images)
        labels = folder / "labels" / "train"
        labels.mkdir(parents=True, exist_ok=True)
        for frame_index, name in zip(frame_indices, names, strict=True):
            lines = [_yolo_line(box, numbers[box.class_name], recording) for box in boxes.get(frame_index, ())]
            count += len(lines)
            (labels / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    content = {"train": "images/train", "val": "images/train", "names": dict(enumerate(classes))}
    note = "# Names of images end with the frame's index, from 0. val is train: split the files to judge a model.\n"
    (folder / "data.yaml").write_text(note + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return count


def _yolo_line(box: Box, number: int, recording: RecordingAnnotations) -> str:
    width, height = recording.width_px, recording.height_px
    if len(box.polygon_px) >= 6:
        sizes = (width, height) * (len(box.polygon_px) // 2)
        values = [min(max(value / size, 0.0), 1.0) for value, size in zip(box.polygon_px, sizes, strict=True)]
    else:
        left, right = (min(max(x / width, 0.0), 1.0) for x in box.xyxy[::2])
        top, bottom = (min(max(y / height, 0.0), 1.0) for y in box.xyxy[1::2])
        values = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    return " ".join((str(number), *(f"{value:.7f}" for value in values)))


def _write_images(
    folder: Path,
    recording: RecordingAnnotations,
    frame_indices: Sequence[int],
    names: Sequence[str],
    write_images: WriteImages,
) -> None:
    files = [folder / name for name in names]
    for parent in {file.parent for file in files}:
        parent.mkdir(parents=True, exist_ok=True)
    write_images(recording, frame_indices, files)
