"""Sequences with known tracks: real ones in the text format of MOTChallenge, and a real one with its pictures.

MOTChallenge: Leal-Taixé et al., "MOTChallenge 2015: Towards a Benchmark for Multi-Target Tracking", 2015. A sequence is
a folder of seqinfo.ini, det.txt and gt.txt; frames and pixels count from 1 in the files and from 0 here.
"""

import configparser
from pathlib import Path

import av
import numpy as np

from benchmarks.report import CORPUS
from demo.crowd import Crowd, CrowdSettings
from resources.config.detection_config import DetectionSettings
from resources.inference.detector import Models


def read_mot_sequence(folder: Path) -> Crowd:
    """Read one sequence: its size, public detections and ground truth.

    Rows of the ground truth whose 7th column is 0 do not count (people who are hardly visible, pictures of people).
    """
    info = configparser.ConfigParser()
    info.read(folder / "seqinfo.ini")
    values = info["Sequence"]
    rate_fps, frame_count = float(values["frameRate"]), int(values["seqLength"])
    truth, detections = (np.loadtxt(folder / name, delimiter=",") for name in ("gt.txt", "det.txt"))
    truth = truth[truth[:, 6] != 0]
    truth = np.column_stack([truth[:, 0] - 1, truth[:, 1], _corners(truth)])
    detections = np.column_stack([detections[:, 0] - 1, _corners(detections), detections[:, 6]])
    size_px = int(values["imWidth"]), int(values["imHeight"])
    settings = CrowdSettings(frame_count / rate_fps, rate_fps, len(np.unique(truth[:, 1])), *size_px)
    return Crowd(
        settings,
        truth[np.lexsort((truth[:, 1], truth[:, 0]))],
        detections[np.lexsort((-detections[:, 5], detections[:, 0]))],
    )


def read_mot_sequences() -> dict[str, Crowd]:
    """All sequences of the corpus by name; empty without a corpus."""
    folders = sorted((CORPUS / "tracking").glob("*/seqinfo.ini"))
    return {file.parent.name: read_mot_sequence(file.parent) for file in folders}


def read_sequence_with_pictures() -> tuple[Crowd, list[np.ndarray]] | None:
    """TUD-Campus: its ground truth with the boxes of this project's detector, and its frames; None without a corpus."""
    folder = CORPUS / "ground_truth" / "TUD-Campus"
    if not folder.exists():
        return None
    with av.open(str(folder / "TUD-Campus.mp4")) as container:
        images = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    height_px, width_px = images[0].shape[:2]
    model_settings = DetectionSettings(weights=str(CORPUS / "weights" / "yolo11n.pt"), class_names=("person",))
    detector = Models().detector(model_settings, width_px, height_px, "cpu")
    detected_boxes = [
        np.column_stack([np.full(len(detections), index), detections.xyxy, detections.confidence])
        for index, detections in enumerate(detector.detect(iter(images)))
    ]
    rows = np.loadtxt(folder / "gt.txt", delimiter=",")
    truth = np.column_stack([rows[:, 0] - 1, rows[:, 1], _corners(rows)])
    truth = truth[np.lexsort((truth[:, 1], truth[:, 0]))]
    settings = CrowdSettings(len(images) / 25, 25, 8, width_px, height_px)
    return Crowd(settings, truth, np.concatenate(detected_boxes)), images


def _corners(mot_rows: np.ndarray) -> np.ndarray:
    """Corners of boxes, shape (n, 4), from the columns left, top, width and height of MOTChallenge."""
    top_left = mot_rows[:, 2:4] - 1
    return np.column_stack([top_left, top_left + mot_rows[:, 4:6]])
