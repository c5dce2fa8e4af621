"""The bundled detector beside yolo11n: `python -m benchmarks.bundled_detector` measures these cases alone.

What matters on a machine without other weights is how many of the persons and cars a larger model would find.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import click
import numpy as np

from benchmarks.report import CORPUS, Case, describe_machine, figure_case, min_case, print_table
from cli.options import end_process
from resources.config.detection_config import DetectionSettings
from resources.geometry.box_overlap import iou_matrix
from resources.inference.detection_arrays import Detections
from resources.inference.detector import Models
from resources.media.frame_reader import Image

PEER_WEIGHTS = CORPUS / "weights" / "yolo11n.pt"
CLASSES = ("person", "car")
FRAMES_PER_RECORDING = 40
_PEER_CONFIDENCE, _CONFIDENCE, _MIN_IOU = 0.5, 0.3, 0.5
_VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi")


def sample_frames(video: Path, count: int) -> list[Image]:
    """Decode frames that are spread over a whole video, as uint8 BGR of shape (height_px, width_px, 3)."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        frame_count = stream.frames or int(float(stream.duration or 0) * (stream.time_base or 0) * _rate(stream))
        indices = {*np.linspace(0, max(0, frame_count - 1), count).round().astype(int).tolist()}
        return [
            frame.to_ndarray(format="bgr24") for index, frame in enumerate(container.decode(stream)) if index in indices
        ]


def _rate(stream: av.VideoStream) -> Fraction:
    return stream.average_rate or Fraction(25)


def count_matches(ours: Detections, peers: Detections, class_id: int) -> tuple[int, int]:
    """Count the confident boxes of the peer of one class in a frame, and those of them that are detected here, too."""
    boxes = peers.xyxy[(peers.class_id == class_id) & (peers.confidence >= _PEER_CONFIDENCE)]
    candidates = ours.xyxy[(ours.class_id == class_id) & (ours.confidence >= _CONFIDENCE)]
    if not len(boxes) or not len(candidates):
        return 0, len(boxes)
    return int((iou_matrix(boxes, candidates).max(axis=1) >= _MIN_IOU).sum()), len(boxes)


def compare_detectors(videos: Sequence[Path], ours: str, peer: Path) -> dict[str, tuple[int, int]]:
    """Count, by class, the boxes of the peer that are detected here, too, and all of its boxes."""
    models, counts = Models(), {name: (0, 0) for name in CLASSES}
    for video in videos:
        images = sample_frames(video, FRAMES_PER_RECORDING)
        height_px, width_px = images[0].shape[:2]
        found, expected = (
            list(
                models.detector(DetectionSettings(weights=weights, precision="f32"), width_px, height_px, "cpu").detect(
                    iter(images)
                )
            )
            for weights in (ours, str(peer))
        )
        class_ids = {
            name: class_id for class_id, name in models.weights(DetectionSettings(weights=ours)).class_names.items()
        }
        for name in CLASSES:
            for frame, peer_frame in zip(found, expected, strict=True):
                matched, total = count_matches(frame, peer_frame, class_ids[name])
                counts[name] = (counts[name][0] + matched, counts[name][1] + total)
    return counts


def bundled_detector_cases() -> Iterator[Case]:
    """Share of yolo11n's persons and cars that the bundled detector finds in all recordings of the corpus."""
    if not PEER_WEIGHTS.exists():
        click.echo(f"No weights {PEER_WEIGHTS}: the comparison of the bundled detector is skipped.")
        return
    folders = (CORPUS / "recordings", CORPUS / "ground_truth")
    videos = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in _VIDEO_SUFFIXES)
    counts = compare_detectors(videos, "nanodet", PEER_WEIGHTS)
    for name, (matched, total) in counts.items():
        yield figure_case(f"NanoDet-g finds of {total} {name}s of yolo11n", matched / max(1, total))
    matched, total = (sum(pair[index] for pair in counts.values()) for index in (0, 1))
    yield min_case("NanoDet-g finds of yolo11n's persons and cars", matched / max(1, total), "share", 0.5)


if __name__ == "__main__":
    click.echo(f"Measuring on {describe_machine()}")
    print_table(list(bundled_detector_cases()))
    end_process(0)
