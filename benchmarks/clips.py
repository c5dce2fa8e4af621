"""Clips and privacy copies: `python -m benchmarks.clips` measures their speed, and what privacy copies still show."""

import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np
from av.video.frame import VideoFrame

from benchmarks.report import (
    CORPUS,
    Case,
    describe_machine,
    exact_case,
    figure_case,
    min_case,
    min_ratio_case,
    print_table,
)
from cli.options import end_process
from demo.drawn_scenes.plates import (
    PLATE_HEIGHT_PX,
    PLATE_RATE_FPS,
    PLATE_WIDTH_PX,
    draw_plated_car,
    plated_car_box,
)
from demo.drawn_scenes.random_scenes import random_scene
from demo.drawn_scenes.rendering import draw_frame
from resources.clips.clip_writer import CRF, PRESET, encode_frames, write_clip
from resources.clips.overlay import ClipPainter, Overlay
from resources.clips.privacy_copy import CopyAudit, PrivacyPlan, count_visible_faces, write_privacy_copy
from resources.clips.sightings import FACE, PLATE, Sighting, SightingFinder
from resources.config.camera_config import CameraSettings
from resources.config.media_config import VideoSettings
from resources.exports.annotations import Box, RecordingAnnotations
from resources.inference.detector import Models
from resources.media.frame_reader import decode_frames, read_images
from resources.media.normalize import normalize

_WIDTH_PX, _HEIGHT_PX, _RATE_FPS, _FRAMES = 1920, 1080, 25, 250
_FIRST = 10  # of the encoded clips: no keyframe, so that nothing can be copied
_PERSON = "person"
_REPEATS = 2


def clip_cases(video: Path, boxes: Sequence[Box]) -> Iterator[Case]:
    """Clips of 1080p25 with everything drawn, against the same cut without drawing, and copied ones."""
    times_s = np.arange(_FRAMES) / _RATE_FPS
    rate_fps = Fraction(_RATE_FPS)
    recording = RecordingAnnotations("scene", None, _WIDTH_PX, _HEIGHT_PX, rate_fps, times_s, boxes)
    flags: dict[str, Any] = dict.fromkeys(("has_boxes", "has_trails", "has_labels", "has_zones", "has_clock"), True)
    camera = CameraSettings.model_validate(
        {
            "zones": [{"name": "left", "points": [[0.1, 0.1], [0.4, 0.1], [0.4, 0.9], [0.1, 0.9]]}],
            "lines": [{"name": "middle", "points": [[0.5, 0], [0.5, 1]]}],
        }
    )
    painter = ClipPainter(Overlay(**flags), recording, {}, camera, None, "UTC")
    frames, output = range(_FIRST, _FRAMES), video.with_name("clip.mp4")
    duration_s = len(frames) / _RATE_FPS
    drawn_s = _measure(lambda: write_clip(video, frames, rate_fps, output, painter.draw))
    plain_s = _measure(lambda: _cut_without_drawing(video, frames, output))
    case = f"clip of 1080p25, {len(boxes) / _FRAMES:.1f} boxes per frame"
    yield min_case(f"{case}: vs real time", duration_s / drawn_s, "x", 1.5)
    yield min_ratio_case(
        f"{case}: vs PyAV without drawing", duration_s / drawn_s, duration_s / plain_s, "x real time", 0.5
    )
    program = shutil.which("ffmpeg")
    if program is not None:
        ffmpeg_s = _measure(lambda: _cut_with_ffmpeg(program, video, output))
        yield min_ratio_case(
            f"{case}: vs ffmpeg without drawing", duration_s / drawn_s, duration_s / ffmpeg_s, "x real time", 0.5
        )
    copied_s = _measure(lambda: write_clip(video, range(_FRAMES), rate_fps, output, None))
    yield min_case("clip copied: vs real time", _FRAMES / _RATE_FPS / copied_s, "x", 50)


def privacy_cases(scene: Path, scene_boxes: Sequence[Box], folder: Path) -> Iterator[Case]:
    """Privacy copies of real faces, of drawn plates and of drawn people: their speed and what they still show."""
    people = CORPUS / "recordings" / "asl_help.mkv"
    if people.exists():
        video = normalize(people, folder / "people.mp4", VideoSettings())
        size_px = (video.width_px, video.height_px)
        count, rate_fps = len(video.frames), video.rate_fps
        yield from _copy_cases("asl_help.mkv, faces", folder / "people.mp4", rate_fps, count, size_px, _plan([], FACE))
        original, copy = (
            _find_all_faces(folder / name, rate_fps, size_px) for name in ("people.mp4", "people.copy.mp4")
        )
        seen_count = sum(sighting.is_seen for sighting in original)
        yield min_case("asl_help.mkv: faces in all frames of the original", seen_count, "", 1)
        yield exact_case("asl_help.mkv: of them still seen on the copy", count_visible_faces(original, copy, 1), 0)
    else:
        click.echo("No corpus of recordings: the case of real faces is left out.")
    count, rate_fps, size_px = 75, Fraction(PLATE_RATE_FPS), (PLATE_WIDTH_PX, PLATE_HEIGHT_PX)
    random = np.random.default_rng(0)
    street = random.integers(100, 140, (PLATE_HEIGHT_PX, PLATE_WIDTH_PX, 3), np.uint8)
    images = (draw_plated_car(index, street.copy()) for index in range(count))
    encode_frames(_to_frames(images), rate_fps, folder / "plates.mp4")
    # The track starts late, ends early and has a gap.
    boxes = [Box(index, 1, "car", 0.9, plated_car_box(index)) for index in range(10, 65) if not 30 <= index < 50]
    plan = _plan(boxes, PLATE)
    yield from _copy_cases("drawn plate, track with gap", folder / "plates.mp4", rate_fps, count, size_px, plan)
    size_px, rate_fps = (_WIDTH_PX, _HEIGHT_PX), Fraction(_RATE_FPS)
    yield from _copy_cases("1080p25, people", scene, rate_fps, _FRAMES, size_px, _plan(scene_boxes, _PERSON))
    plan = _plan([box for box in scene_boxes if box.frame_index < _FRAMES // 5], _PERSON, FACE)
    yield from _copy_cases("1080p25, people and faces", scene, rate_fps, _FRAMES // 5, size_px, plan)


def _copy_cases(
    case: str, video: Path, rate_fps: Fraction, frame_count: int, size_px: tuple[int, int], plan: PrivacyPlan
) -> Iterator[Case]:
    """Speed and audit of one privacy copy."""
    started_s = time.monotonic()
    audit = write_privacy_copy(video, rate_fps, frame_count, size_px, video.with_suffix(".copy.mp4"), plan, Models())
    elapsed_s = time.monotonic() - started_s
    yield figure_case(f"{case}: copy and audit, x real time", frame_count / float(rate_fps) / elapsed_s)
    yield from _audit_cases(case, audit)


def _audit_cases(case: str, audit: CopyAudit) -> Iterator[Case]:
    for what, count, visible_count in (
        ("boxes", audit.box_count, audit.visible_box_count),
        ("faces", audit.face_count, audit.visible_face_count),
        ("texts", audit.text_count, audit.visible_text_count),
    ):
        if count:
            yield exact_case(f"{case}: {count} {what}, still seen", visible_count, 0)
    yield figure_case(f"{case}: seen that the original has not", len(audit.still_seen))


def _find_all_faces(video: Path, rate_fps: Fraction, size_px: tuple[int, int]) -> list[Sighting]:
    """Search faces in every frame, also in those that a copy does not search."""
    finder = SightingFinder([FACE], size_px, float(rate_fps), {}, Models(), face_step=1)
    frames = finder.find(enumerate(read_images(video, None, rate_fps)))
    return [sighting for of_frame in frames for sighting in of_frame]


def _plan(boxes: Sequence[Box], *cover: str) -> PrivacyPlan:
    carriers: dict[int, list[Box]] = {}
    for box in boxes:
        carriers.setdefault(box.frame_index, []).append(box)
    return PrivacyPlan([boxes], carriers, cover)


def draw_scene(video: Path) -> list[Box]:
    """Draw a scene as a normalized video; returns its true boxes."""
    scene = random_scene(
        5, _FRAMES / _RATE_FPS, max_objects=12, width_px=_WIDTH_PX, height_px=_HEIGHT_PX, frame_rate=_RATE_FPS
    )
    boxes: list[Box] = []

    def draw() -> Iterator[np.ndarray]:
        for index in range(_FRAMES):
            image, truth = draw_frame(scene, index / _RATE_FPS)
            for box in truth:
                corners = float(box.x_min_px), float(box.y_min_px), float(box.x_max_px), float(box.y_max_px)
                boxes.append(Box(index, box.object_id, box.class_name, 0.9, corners))
            yield image

    encode_frames(_to_frames(draw()), Fraction(_RATE_FPS), video)
    return boxes


def _to_frames(images: Iterator[np.ndarray]) -> Iterator[VideoFrame]:
    for image in images:
        yield VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p")


def _cut_without_drawing(video: Path, frame_indices: Sequence[int], output: Path) -> None:
    """Decode and encode with the same settings; no frame leaves FFmpeg's memory."""
    rate_fps = Fraction(_RATE_FPS)
    with closing(decode_frames(video, frame_indices, rate_fps)) as frames:
        encode_frames(frames, rate_fps, output)


def _cut_with_ffmpeg(program: str, video: Path, output: Path) -> None:
    start_s = str(_FIRST / _RATE_FPS)
    encoder = ["-c:v", "libx264", "-preset", PRESET, "-crf", CRF, "-g", str(_RATE_FPS), "-bf", "0"]
    command = [program, "-v", "error", "-y", "-ss", start_s, "-i", str(video), *encoder, "-movflags", "+faststart"]
    subprocess.run([*command, str(output)], check=True)


def _measure(work: Callable[[], object]) -> float:
    """Shortest duration of a few repetitions."""
    durations = []
    for _ in range(_REPEATS):
        started_s = time.monotonic()
        work()
        durations.append(time.monotonic() - started_s)
    return min(durations)


def clips_cases(scratch: Path) -> Iterator[Case]:
    """All cases."""
    scene = scratch / "scene.mp4"
    boxes = draw_scene(scene)
    yield from clip_cases(scene, boxes)
    yield from privacy_cases(scene, boxes, scratch)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    click.echo(f"Measuring on {describe_machine()}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        measured = []
        for case in clips_cases(Path(name)):
            click.echo(f"{case.case}: {case.ours:.3f} {case.unit}", err=True)
            measured.append(case)
        print_table(measured)
    end_process(0)
