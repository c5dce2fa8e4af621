"""Privacy copies: no frame shows what is covered, and the audit finds what is not."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from demo.drawn_scenes.plates import draw_plated_car, plated_car_box
from resources.clips.clip_writer import encode_frames
from resources.clips.privacy_copy import (
    PrivacyPlan,
    count_visible_faces,
    describe_visible,
    find_visible_boxes,
    write_privacy_copy,
)
from resources.clips.sightings import FACE, PLATE, Sighting, SightingFinder
from resources.config.media_config import VideoSettings
from resources.exports.annotations import Box
from resources.inference.detection_arrays import Detections
from resources.inference.detector import Models
from resources.media.frame_reader import read_images
from resources.media.normalize import normalize

WIDTH_PX, HEIGHT_PX, FRAMES, RATE = 320, 192, 60, 20


def write_frames(path: Path, images: Iterable[np.ndarray], rate: int = RATE) -> None:
    frames = (av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p") for image in images)
    encode_frames(frames, Fraction(rate), path)


def corners_at(frame: int) -> tuple[float, float, float, float]:
    """A square that crosses the picture."""
    return (4.0 * frame, 60.0, 4.0 * frame + 40, 100.0)


def draw_square(frame: int) -> np.ndarray:
    image = np.full((HEIGHT_PX, WIDTH_PX, 3), 90, np.uint8)
    left, top, right, bottom = map(int, corners_at(frame))
    image[top:bottom, left:right] = (0, 0, 255)
    return image


def red_frames(path: Path) -> list[int]:
    """Frames in which some pixel is red."""
    with av.open(str(path)) as container:
        images = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    return [number for number, image in enumerate(images) if (image[..., 0] - image[..., 1]).max() > 60]


def plan_of(boxes: Sequence[Box], cover: Sequence[str]) -> PrivacyPlan:
    carriers: dict[int, list[Box]] = {}
    for box in boxes:
        carriers.setdefault(box.frame_index, []).append(box)
    return PrivacyPlan([boxes], carriers, cover)


def test_no_frame_shows_an_object_whose_boxes_lack_its_start_its_end_and_some_between(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.mp4", map(draw_square, range(FRAMES)))
    with_box = [*range(15, 25), *range(40, 48)]
    boxes = [Box(frame, 1, "person", 0.9, corners_at(frame)) for frame in with_box]
    assert red_frames(tmp_path / "a.mp4") == list(range(FRAMES))
    audit = write_privacy_copy(
        tmp_path / "a.mp4", Fraction(RATE), FRAMES, (WIDTH_PX, HEIGHT_PX), tmp_path / "copy.mp4",
        plan_of(boxes, ["person"]), Models(),
    )  # fmt: skip
    assert red_frames(tmp_path / "copy.mp4") == []
    assert (audit.box_count, audit.visible_count, audit.still_seen) == (18, 0, [])
    with av.open(str(tmp_path / "copy.mp4")) as container:
        assert len(container.streams) == 1
    assert len(find_visible_boxes(tmp_path / "a.mp4", Fraction(RATE), boxes)) == 18


class StubbornDetector:
    """Finds a face at the same place of every picture, also where it is covered."""

    def detect(self, images: Iterable[np.ndarray]) -> Iterator[Detections]:
        for _ in images:
            yield Detections(np.array([[60.0, 60, 90, 100]]), np.array([0.8]), np.array([0]))


class StubbornModels:
    def detector(self, *_: Any) -> StubbornDetector:
        return StubbornDetector()


def test_a_face_that_the_audit_still_finds_is_named(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.mp4", map(draw_square, range(10)))
    audit = write_privacy_copy(
        tmp_path / "a.mp4", Fraction(RATE), 10, (WIDTH_PX, HEIGHT_PX), tmp_path / "copy.mp4",
        plan_of([], [FACE]), StubbornModels(),  # type: ignore[arg-type]
    )  # fmt: skip
    # At 20 frames per second, every second one is searched, and the others are audited.
    assert (audit.face_count, audit.visible_face_count, audit.rounds) == (5, 5, 3)
    assert describe_visible(audit, RATE).startswith("5 faces of the original are still seen (face at ")


def find_all_faces(video: Path, rate_fps: Fraction, size_px: tuple[int, int]) -> list[Sighting]:
    finder = SightingFinder([FACE], size_px, float(rate_fps), {}, Models(), face_step=1)
    return [
        sighting for of_frame in finder.find(enumerate(read_images(video, None, rate_fps))) for sighting in of_frame
    ]


@pytest.mark.long
def test_no_face_of_a_real_recording_is_seen_on_its_copy(corpus: Path, tmp_path: Path) -> None:
    video = normalize(corpus / "recordings" / "asl_help.mkv", tmp_path / "a.mp4", VideoSettings())
    size_px = (video.width_px, video.height_px)
    audit = write_privacy_copy(
        tmp_path / "a.mp4", video.rate_fps, len(video.frames), size_px, tmp_path / "copy.mp4",
        plan_of([], [FACE]), Models(),
    )  # fmt: skip
    assert audit.face_count >= 14  # of 58 frames, each fourth
    assert (audit.visible_face_count, list(audit.still_seen)) == (0, [])
    # In every frame, also those in which the copy has not searched.
    original, copy = (find_all_faces(tmp_path / name, video.rate_fps, size_px) for name in ("a.mp4", "copy.mp4"))
    assert sum(sighting.is_seen for sighting in original) >= 50
    assert count_visible_faces(original, copy, 1) == 0


@pytest.mark.long
def test_no_plate_is_read_on_a_copy_and_the_clock_of_the_camera_stays(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    from resources.inference.text_reader import read_text

    images = (draw_plated_car(frame, np.full((480, 854, 3), 120, np.uint8)) for frame in range(75))
    write_frames(tmp_path / "a.mp4", images, 25)
    boxes = [Box(frame, 1, "car", 0.9, plated_car_box(frame)) for frame in range(10, 65) if frame not in range(30, 50)]
    audit = write_privacy_copy(
        tmp_path / "a.mp4", Fraction(25), 75, (854, 480), tmp_path / "copy.mp4", plan_of(boxes, [PLATE]), Models()
    )
    assert audit.text_count > 0
    assert (audit.visible_text_count, list(audit.still_seen)) == (0, [])
    with av.open(str(tmp_path / "copy.mp4")) as container:
        copied = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    for number in range(0, 75, 6):  # also where the track has not begun, in its gap and after its end
        texts = [line.text for line in read_text(np.asarray(copied[number]))]
        assert not any("74" in text and "82" in text for text in texts)
        assert any("2026" in text for text in texts)


def test_what_the_encoder_leaves_beside_strong_edges_is_not_taken_for_a_visible_box(tmp_path: Path) -> None:
    """Of these boxes, 38 were refused when a single pixel counted."""
    rng = np.random.default_rng(0)
    tiles = (rng.integers(0, 2, (FRAMES, HEIGHT_PX // 8, WIDTH_PX // 8, 3)) * 255).astype(np.uint8)
    write_frames(tmp_path / "video.mp4", (np.kron(image, np.ones((8, 8, 1), np.uint8)) for image in tiles))
    boxes = []
    for track_id in range(12):
        size_px = (8, 20, 40)[track_id % 3]
        start, step = rng.uniform(40, 100, 2), rng.uniform(-0.6, 1.0, 2)
        for frame in range(FRAMES):
            left, top = start + frame * step
            boxes.append(Box(frame, track_id, "person", 0.9, (left, top, left + size_px, top + size_px)))
    plan, copy = plan_of(boxes, ["person"]), tmp_path / "copy.mp4"
    frame_px = (WIDTH_PX, HEIGHT_PX)
    audit = write_privacy_copy(tmp_path / "video.mp4", Fraction(RATE), FRAMES, frame_px, copy, plan, Models())
    assert (audit.box_count, audit.visible_box_count) == (720, 0)
    assert len(find_visible_boxes(tmp_path / "video.mp4", Fraction(RATE), boxes)) == 720
