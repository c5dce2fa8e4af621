"""Writes a copy of a whole video in which classes, faces and number plates are unreadable, and audits the copy.

The audit looks at the copy itself: whether every stored box is one colour there, and what a fresh search for faces and
texts still finds. What it finds is covered, too, and the copy is written again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from resources.clips.clip_writer import write_clip
from resources.clips.frame_canvas import COVER_YUV, FrameCanvas, plane_area
from resources.clips.redaction import HOLD_S, Area, CoveredAreas, pad_boxes, redacted_areas
from resources.clips.sightings import FACE, PLATE, Sighting, SightingFinder, boxes_of_sightings, default_face_step
from resources.exports.annotations import Box
from resources.geometry.box_overlap import iou_matrix
from resources.inference.detector import Models
from resources.media.frame_reader import decode_frames, number_frames, read_images
from resources.media.progress import ReportProgress

SAME_FACE_IOU = 0.3
"""Overlap from which a face on the copy is one of the original's."""
_MAX_ROUNDS = 3  # in which what the audit still sees is covered
_EDGE_PX = 2  # of a box with its margin, in which the encoder may mix it with what lies around it
_AUDIT_TEXT_OFFSET_S = 0.2  # from the frames in which the texts of the original are read
_COLOUR_TOLERANCE = 16  # of 255, by which the encoder changes a colour


@dataclass(frozen=True)
class PrivacyPlan:
    """What a privacy copy covers.

    Attributes:
        box_sets: Boxes of the recording, each set with track numbers of its own.
        carriers: The boxes of all objects by the frame's index, on which texts move.
        cover: The classes, and `face` and `plate`.
    """

    box_sets: Sequence[Sequence[Box]]
    carriers: Mapping[int, Sequence[Box]]
    cover: Sequence[str]

    @property
    def kinds(self) -> list[str]:
        """What is searched in the frames: `face`, `plate`, both or nothing."""
        return [kind for kind in (FACE, PLATE) if kind in self.cover]

    def covered_boxes(self) -> Iterator[Box]:
        """The stored boxes of the covered classes."""
        for boxes in self.box_sets:
            yield from (box for box in boxes if box.class_name in self.cover)

    def areas_of_boxes(self, frame_count: int, rate_fps: float) -> CoveredAreas:
        """The areas of each frame that cover the stored boxes."""
        areas = CoveredAreas()
        for boxes in self.box_sets:
            redacted_areas(boxes, self.cover, frame_count, rate_fps, areas)
        return areas


@dataclass(frozen=True)
class CopyAudit:
    """What the audit of a privacy copy has found.

    Attributes:
        frame_count: Frames of the copy.
        box_count: Stored boxes of the covered classes.
        visible_box_count: Those of them that are not one colour on the copy.
        face_count: Faces that are seen in the searched frames of the original.
        visible_face_count: Faces that are seen on the copy, in other frames, where the original has one.
        text_count: Texts that are read on the original inside vehicles.
        visible_text_count: Texts that are read on the copy inside vehicles, and that the original has.
        still_seen: All faces and texts that are seen on the copy, also where the original has none.
        rounds: How often the copy was written.
    """

    frame_count: int
    box_count: int
    visible_box_count: int
    face_count: int
    visible_face_count: int
    text_count: int
    visible_text_count: int
    still_seen: Sequence[Sighting]
    rounds: int

    @property
    def visible_count(self) -> int:
        """Number of boxes, faces and texts of the original that the copy still shows."""
        return self.visible_box_count + self.visible_face_count + self.visible_text_count


def find_areas(
    video: Path,
    frame_indices: Sequence[int],
    rate_fps: Fraction,
    frame_count: int,
    size_px: tuple[int, int],
    plan: PrivacyPlan,
    models: Models,
    advance: Callable[[], None] = lambda: None,
) -> tuple[CoveredAreas, list[Sighting]]:
    """Find what is covered in each frame: the stored boxes, and faces and texts that are searched in some frames.

    Args:
        video: The normalized video.
        frame_indices: The frames that are searched, ascending.
        rate_fps: Frame rate.
        frame_count: Number of frames of the recording.
        size_px: Width and height of the video.
        plan: What is covered.
        models: Loads the detector of faces.
        advance: Called for every frame.

    Returns:
        The areas by the frame's index, and the faces and texts.
    """
    sightings = _search(video, frame_indices, rate_fps, size_px, plan, models, advance)
    rate = float(rate_fps)
    boxes = boxes_of_sightings(sightings, plan.carriers, round(HOLD_S * rate))
    areas = plan.areas_of_boxes(frame_count, rate)
    return redacted_areas(boxes, (FACE, PLATE), frame_count, rate, areas), sightings


def write_privacy_copy(
    video: Path,
    rate_fps: Fraction,
    frame_count: int,
    size_px: tuple[int, int],
    output: Path,
    plan: PrivacyPlan,
    models: Models,
    progress: ReportProgress = lambda done, total, image=None: None,
) -> CopyAudit:
    """Write the privacy copy of a normalized video, and audit it; what is still seen is covered in a further round.

    Args:
        video: The normalized video.
        rate_fps: Its frame rate.
        frame_count: Number of its frames.
        size_px: Its width and height.
        output: The MP4 file, which has no sound and no metadata of the original.
        plan: What is covered.
        models: Loads the detector of faces.
        progress: Takes the number of frames that were searched, written or audited.

    Raises:
        RecordingError: The video ends before its last frame.
    """
    frames, rate = range(frame_count), float(rate_fps)
    done, total = 0, frame_count * (3 if plan.kinds else 1)  # frames that are searched, written and audited

    def advance() -> None:
        nonlocal done
        done = min(done + 1, total)
        progress(done, total)

    areas, original = find_areas(video, frames, rate_fps, frame_count, size_px, plan, models, advance)
    for rounds in range(1, _MAX_ROUNDS + 1):
        write_clip(video, frames, rate_fps, output, _cover_areas(areas, advance))
        visible_boxes = find_visible_boxes(output, rate_fps, list(plan.covered_boxes()))
        found = _search(output, frames, rate_fps, size_px, plan, models, advance, is_audit=True)
        still_seen = [sighting for sighting in found if sighting.is_seen]
        audit = CopyAudit(
            frame_count=frame_count,
            box_count=sum(1 for _ in plan.covered_boxes()),
            visible_box_count=len(visible_boxes),
            face_count=sum(sighting.kind == FACE and sighting.is_seen for sighting in original),
            visible_face_count=count_visible_faces(original, still_seen, default_face_step(rate)),
            text_count=sum(sighting.is_in_vehicle and sighting.is_seen for sighting in original),
            visible_text_count=count_visible_texts(original, still_seen),
            still_seen=still_seen,
            rounds=rounds,
        )
        if not still_seen:
            break
        boxes = boxes_of_sightings(found, plan.carriers, round(HOLD_S * rate))
        redacted_areas(boxes, (FACE, PLATE), frame_count, rate, areas)
    return audit


def _search(
    video: Path,
    frame_indices: Sequence[int],
    rate_fps: Fraction,
    size_px: tuple[int, int],
    plan: PrivacyPlan,
    models: Models,
    advance: Callable[[], None],
    *,
    is_audit: bool = False,
) -> list[Sighting]:
    """Search faces and texts in frames of a video, the audit in other ones; nothing if neither is covered."""
    if not plan.kinds:
        return []
    finder = SightingFinder(plan.kinds, size_px, float(rate_fps), plan.carriers, models)
    first_frames = (finder.face_step // 2, round(_AUDIT_TEXT_OFFSET_S * rate_fps)) if is_audit else (0, 0)
    sightings: list[Sighting] = []
    with closing(read_images(video, frame_indices, rate_fps, thread_count=1)) as images:
        for of_frame in finder.find(number_frames(images, frame_indices, video), *first_frames):
            sightings += of_frame
            advance()
    return sightings


def _cover_areas(
    areas: Mapping[int, Sequence[Area]], advance: Callable[[], None]
) -> Callable[[FrameCanvas, int], None]:
    def cover(canvas: FrameCanvas, frame_index: int) -> None:
        for area in areas.get(frame_index, ()):
            canvas.make_unreadable(area)
        advance()

    return cover


def find_visible_boxes(copy: Path, rate_fps: Fraction, boxes: Sequence[Box]) -> list[Box]:
    """Find the boxes that are not one colour on a copy with their margin, as the decoded pixels show.

    Args:
        copy: The copy.
        rate_fps: Its frame rate.
        boxes: Boxes that must be covered.
    """
    by_frame: dict[int, list[Box]] = {}
    for box in boxes:
        by_frame.setdefault(box.frame_index, []).append(box)
    visible: list[Box] = []
    frame_indices = sorted(by_frame)
    with closing(decode_frames(copy, frame_indices, rate_fps)) as frames:
        for frame_index, frame in zip(frame_indices, frames, strict=True):
            canvas = FrameCanvas.of(frame)
            visible += [box for box in by_frame[frame_index] if not _is_covered(canvas, box)]
    return visible


def _is_covered(canvas: FrameCanvas, box: Box) -> bool:
    """Whether a box with its margin has the colour of covered areas, without the edge that the encoder mixes."""
    import cv2

    left, top, right, bottom = pad_boxes(np.array(box.xyxy, float))
    height, width = canvas.planes[0].shape
    # An edge of the frame is no edge of the area.
    inner = (
        left + _EDGE_PX if left > 0 else left,
        top + _EDGE_PX if top > 0 else top,
        right - _EDGE_PX if right < width else right,
        bottom - _EDGE_PX if bottom < height else bottom,
    )
    for plane, value, scale in zip(canvas.planes, COVER_YUV, (1.0, 0.5, 0.5), strict=True):
        x_min, y_min, x_max, y_max = plane_area(inner, scale, plane.shape)
        part = plane[y_min:y_max, x_min:x_max]
        if part.size:
            # Single pixels may differ by more, as the encoder leaves them beside strong edges.
            difference = cv2.blur(np.abs(part.astype(np.float32) - value), (3, 3), borderType=cv2.BORDER_REPLICATE)
            if difference.max() > _COLOUR_TOLERANCE:
                return False
    return True


def count_visible_faces(original: Sequence[Sighting], copy: Sequence[Sighting], face_step: int) -> int:
    """Count the faces on a copy that overlap one that is seen on the original, in that frame or the nearest searched.

    Args:
        original: Faces of the original.
        copy: Faces of the copy.
        face_step: Faces were searched in every frame of this number.
    """
    by_frame: dict[int, list[Sighting]] = {}
    for sighting in original:
        if sighting.kind == FACE and sighting.is_seen:
            by_frame.setdefault(sighting.frame_index, []).append(sighting)
    count = 0
    for sighting in copy:
        near = range(sighting.frame_index - face_step + 1, sighting.frame_index + face_step)
        faces = [face for frame_index in near for face in by_frame.get(frame_index, ())]
        if faces and sighting.kind == FACE and sighting.is_seen:
            overlaps = iou_matrix(np.array([sighting.xyxy]), np.array([face.xyxy for face in faces]))
            count += bool(overlaps.max() >= SAME_FACE_IOU)
    return count


def count_visible_texts(original: Sequence[Sighting], copy: Sequence[Sighting]) -> int:
    """Count the texts that are read on a copy inside vehicles, and that were read on the original inside vehicles."""
    texts = {sighting.text for sighting in original if sighting.is_in_vehicle and sighting.is_seen}
    return sum(sighting.is_in_vehicle and sighting.is_seen and sighting.text in texts for sighting in copy)


def describe_visible(audit: CopyAudit, rate_fps: float) -> str:
    """Describe in a clause what a copy still shows of the original; it does show something."""
    counts = {
        "boxes": audit.visible_box_count,
        "faces": audit.visible_face_count,
        "texts": audit.visible_text_count,
    }
    parts = [f"{count} {name}" for name, count in counts.items() if count]
    places = [f"{sighting.kind} at {sighting.frame_index / rate_fps:.1f} s" for sighting in audit.still_seen[:3]]
    return f"{' and '.join(parts)} of the original are still seen" + (f" ({', '.join(places)})" if places else "")
