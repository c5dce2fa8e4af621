"""Faces and texts in the frames of a video, found in the pictures themselves, and the boxes that cover them."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from resources.camera_clock import parse_clock
from resources.config.detection_config import DetectionSettings
from resources.exports.annotations import Box
from resources.geometry.box_overlap import iou_matrix
from resources.inference.detector import Detector, Models
from resources.inference.text_reader import read_text

FACE, PLATE = "face", "plate"
"""What can be covered besides the classes of the detector."""
SEEN_FACE = 0.3
"""Confidence from which a face counts as seen; those of a lower one are covered, too."""
SEEN_CHARACTERS = 4
"""Length from which a text counts as read; shorter ones are covered, too."""
VEHICLES = frozenset(
    ("bicycle", "motorcycle", "motorbike", "car", "van", "bus", "truck", "lorry", "train", "tram", "vehicle", "trailer")
)
_COVERED_FACE, _FACE_NMS_IOU, _MAX_FACE_INPUT_PX = 0.15, 0.5, 960
_FACE_RATE_FPS = 8  # at which faces are searched; between two frames, all that lies between both faces is covered
_VEHICLE_TEXT_S, _FRAME_TEXT_S = 0.4, 1.0  # between frames in which text is read
_MIN_VEHICLE_PX, _VEHICLE_MARGIN = 24, 0.1
_MIN_LINK_IOU, _LINK_GROWTH = 0.05, 0.5
_CARRIED_SHARE = 0.7  # of a text that lies inside the box of an object, and moves with it
_CLOCK = re.compile(r"(20\d\d[-/.]\d\d[-/.]\d\d)?\s*(\d{1,2}:\d\d(:\d\d)?([.,]\d+)?)?")


@dataclass(frozen=True)
class Sighting:
    """A face or a text in one frame.

    Attributes:
        frame_index: From 0.
        kind: `face` or `plate`.
        xyxy: Corners in pixels.
        confidence: Confidence of the model.
        text: The letters and digits of a text, in capital letters; empty for a face.
        is_in_vehicle: Whether a text lies inside a vehicle.
    """

    frame_index: int
    kind: str
    xyxy: tuple[float, float, float, float]
    confidence: float
    text: str = ""
    is_in_vehicle: bool = False

    @property
    def is_seen(self) -> bool:
        """Whether the face or text counts as seen, and is not only covered to be on the safe side."""
        return len(self.text) >= SEEN_CHARACTERS if self.kind == PLATE else self.confidence >= SEEN_FACE


class SightingFinder:
    """Finds faces and texts in frames.

    Args:
        kinds: What is found: `face`, `plate` or both.
        size_px: Width and height of the frames.
        rate_fps: Frame rate of the video.
        carriers: The boxes of all objects, by the frame's index; text is read inside vehicles more often.
        models: Loads the detector of faces.
        face_step: Faces are searched in every frame of this number; None is eight times a second.

    Attributes:
        face_step: The number.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        size_px: tuple[int, int],
        rate_fps: float,
        carriers: Mapping[int, Sequence[Box]],
        models: Models,
        face_step: int | None = None,
    ) -> None:
        self.face_step = face_step or default_face_step(rate_fps)
        self._carriers, self._reads_text = carriers, PLATE in kinds
        self._vehicle_step = max(1, round(_VEHICLE_TEXT_S * rate_fps))
        self._frame_step = max(1, round(_FRAME_TEXT_S * rate_fps))
        self._faces = load_face_detector(models, size_px) if FACE in kinds else None

    def find(
        self, images: Iterable[tuple[int, np.ndarray]], first_face_frame: int = 0, first_text_frame: int = 0
    ) -> Iterator[list[Sighting]]:
        """Find faces and texts in some frames.

        Args:
            images: Index and uint8 BGR picture of each frame.
            first_face_frame: A frame in which faces are searched; it decides in which others they are.
            first_text_frame: The same of texts.

        Yields:
            The sightings of each frame, in order.
        """
        indices: list[int] = []
        texts: dict[int, list[Sighting]] = {}

        def has_faces(frame_index: int) -> bool:
            return (frame_index - first_face_frame) % self.face_step == 0

        def read() -> Iterator[np.ndarray | None]:
            for frame_index, image in images:
                if self._reads_text:
                    texts[frame_index] = self._read_texts(frame_index, image, frame_index - first_text_frame)
                indices.append(frame_index)
                yield image if has_faces(frame_index) else None

        if self._faces is None:
            for _ in read():
                yield texts.pop(indices[-1], [])
            return
        for position, found in enumerate(self._faces.detect(read())):
            frame_index = indices[position]
            faces = [
                Sighting(frame_index, FACE, _corners(xyxy), float(confidence))
                for xyxy, confidence in zip(found.xyxy, found.confidence, strict=True)
                if has_faces(frame_index)
            ]
            yield faces + texts.pop(frame_index, [])

    def _read_texts(self, frame_index: int, image: np.ndarray, offset: int) -> list[Sighting]:
        sightings = []
        vehicles = [box for box in self._carriers.get(frame_index, ()) if box.class_name in VEHICLES]
        if offset % self._vehicle_step == 0:
            for vehicle in vehicles:
                sightings += _read_part(frame_index, image, vehicle.xyxy)
        if offset % self._frame_step == 0:
            in_frame = _read_part(frame_index, image, (0, 0, image.shape[1], image.shape[0]))
            sightings += [
                Sighting(
                    frame_index, PLATE, line.xyxy, line.confidence, line.text,
                    any(_share_inside(line.xyxy, vehicle.xyxy) >= _CARRIED_SHARE for vehicle in vehicles),
                )
                for line in in_frame
            ]  # fmt: skip
        return sightings


def default_face_step(rate_fps: float) -> int:
    """Every how manieth frame is searched for faces."""
    return max(1, round(rate_fps / _FACE_RATE_FPS))


def load_face_detector(models: Models, size_px: tuple[int, int]) -> Detector:
    """Load the bundled detector of faces for frames of some size."""
    settings = DetectionSettings(
        weights="centerface",
        min_confidence=_COVERED_FACE,
        nms_iou=_FACE_NMS_IOU,
        precision="f32",
        device="cpu",
        image_size_px=min(_MAX_FACE_INPUT_PX, -(-max(size_px) // 32) * 32),
    )
    return models.detector(settings, *size_px, "cpu")


def _read_part(frame_index: int, image: np.ndarray, xyxy: Sequence[float]) -> list[Sighting]:
    """Read the texts in a part of a picture, such as a vehicle with a margin; the clock of the camera is left out."""
    height_px, width_px = image.shape[:2]
    x_px, y_px = _VEHICLE_MARGIN * (xyxy[2] - xyxy[0]), _VEHICLE_MARGIN * (xyxy[3] - xyxy[1])
    left, top = max(0, int(xyxy[0] - x_px)), max(0, int(xyxy[1] - y_px))
    part = image[top : min(height_px, int(xyxy[3] + y_px) + 1), left : min(width_px, int(xyxy[2] + x_px) + 1)]
    if min(part.shape[:2]) < _MIN_VEHICLE_PX:
        return []
    sightings = []
    for line in read_text(part):
        text = "".join(character for character in line.text.upper() if character.isalnum())
        is_clock = bool(_CLOCK.fullmatch(line.text.strip())) or parse_clock(line.text) is not None
        if len(text) < 2 or is_clock:
            continue
        corners = _corners(line.xyxy + np.array([left, top, left, top]))
        sightings.append(Sighting(frame_index, PLATE, corners, line.confidence, text, is_in_vehicle=True))
    return sightings


def boxes_of_sightings(
    sightings: Sequence[Sighting], carriers: Mapping[int, Sequence[Box]], hold_frames: int
) -> list[Box]:
    """Boxes that cover sightings, with a track for each face and text.

    A text inside the box of a tracked object is covered wherever that object is: between two frames in which it was
    read, both places on the object are, and before the first and after the last the nearest.

    Args:
        sightings: Faces and texts, ascending by frame.
        carriers: The boxes of all objects, by the frame's index.
        hold_frames: Frames after which a face or text that is found again nearby is another one.
    """
    carried: dict[int, list[tuple[int, np.ndarray]]] = {}
    free: list[Sighting] = []
    for sighting in sightings:
        carrier = _carrier(sighting, carriers) if sighting.kind == PLATE else None
        if carrier is None or carrier.track_id is None:
            free.append(sighting)
        else:
            place = _place_on(np.array(_grow_text(sighting)), carrier)
            carried.setdefault(carrier.track_id, []).append((sighting.frame_index, place))
    tracks = _link(free, hold_frames)
    boxes = [
        Box(sighting.frame_index, number, sighting.kind, sighting.confidence, _covering_corners(sighting))
        for number, track in enumerate(tracks)
        for sighting in track
    ]
    return boxes + _carried_boxes(carried, carriers, len(tracks))


def _carried_boxes(
    carried: Mapping[int, Sequence[tuple[int, np.ndarray]]], carriers: Mapping[int, Sequence[Box]], first_number: int
) -> list[Box]:
    """The boxes of texts in every frame of the objects on which they are."""
    tracks: dict[int, list[Box]] = {number: [] for number in carried}
    for of_frame in carriers.values():
        for box in of_frame:
            if box.track_id in tracks:
                tracks[box.track_id].append(box)
    boxes = []
    for number, (track_id, places) in enumerate(carried.items(), first_number):
        carrier = np.array([box.xyxy for box in tracks[track_id]])
        frames, starts = np.unique([frame for frame, _ in places], return_index=True)
        corners = np.stack([place for _, place in places])
        low, high = np.minimum.reduceat(corners[:, :2], starts), np.maximum.reduceat(corners[:, 2:], starts)
        shown = [box.frame_index for box in tracks[track_id]]
        before = np.maximum(np.searchsorted(frames, shown, "right") - 1, 0)
        after = np.minimum(np.searchsorted(frames, shown), len(frames) - 1)
        origin, size = carrier[:, :2], carrier[:, 2:] - carrier[:, :2]
        start = origin + np.minimum(low[before], low[after]) * size
        end = origin + np.maximum(high[before], high[after]) * size
        boxes += [
            Box(frame_index, number, PLATE, None, _corners(xyxy))
            for frame_index, xyxy in zip(shown, np.concatenate([start, end], axis=1), strict=True)
        ]
    return boxes


def _link(sightings: Sequence[Sighting], hold_frames: int) -> list[list[Sighting]]:
    """Join sightings of one kind that overlap from frame to frame, the best overlap first."""
    finished: list[list[Sighting]] = []
    active: list[list[Sighting]] = []
    by_frame: dict[int, list[Sighting]] = {}
    for sighting in sightings:
        by_frame.setdefault(sighting.frame_index, []).append(sighting)
    for frame_index, new in sorted(by_frame.items()):
        finished += [track for track in active if frame_index - track[-1].frame_index > 2 * hold_frames]
        active = [track for track in active if frame_index - track[-1].frame_index <= 2 * hold_frames]
        if active:
            ious = iou_matrix(
                np.array([_grown(track[-1].xyxy) for track in active]), np.array([_grown(one.xyxy) for one in new])
            )
            ious *= np.array([[track[-1].kind == one.kind for one in new] for track in active])
        pairs: dict[int, int] = {}
        while active and ious.max() >= _MIN_LINK_IOU:
            track, column = map(int, np.unravel_index(ious.argmax(), ious.shape))
            pairs[column] = track
            ious[track, :] = ious[:, column] = 0
        started = []
        for position, sighting in enumerate(new):
            if position in pairs:
                active[pairs[position]].append(sighting)
            else:
                started.append([sighting])
        active += started
    return finished + active


def _carrier(sighting: Sighting, carriers: Mapping[int, Sequence[Box]]) -> Box | None:
    """The smallest object on which a text is; None without one."""
    around = [
        box
        for box in carriers.get(sighting.frame_index, ())
        if _share_inside(sighting.xyxy, _grown(box.xyxy, 2 * _VEHICLE_MARGIN)) >= _CARRIED_SHARE
    ]
    return min(around, key=lambda box: (box.xyxy[2] - box.xyxy[0]) * (box.xyxy[3] - box.xyxy[1]), default=None)


def _place_on(xyxy: np.ndarray, carrier: Box) -> np.ndarray:
    """Corners in shares of the object's box."""
    origin = np.array(carrier.xyxy[:2])
    size = np.maximum(np.array(carrier.xyxy[2:]) - origin, 1.0)
    return np.asarray((xyxy - np.tile(origin, 2)) / np.tile(size, 2))


def _covering_corners(sighting: Sighting) -> tuple[float, float, float, float]:
    return _grow_text(sighting) if sighting.kind == PLATE else sighting.xyxy


def _grow_text(sighting: Sighting) -> tuple[float, float, float, float]:
    """A text with a margin of half its height, because readers find the middle of a line best."""
    left, top, right, bottom = sighting.xyxy
    margin = (bottom - top) / 2
    return left - margin, top - margin, right + margin, bottom + margin


def _grown(xyxy: Sequence[float], share: float = _LINK_GROWTH) -> tuple[float, float, float, float]:
    x_px, y_px = share / 2 * (xyxy[2] - xyxy[0]), share / 2 * (xyxy[3] - xyxy[1])
    return xyxy[0] - x_px, xyxy[1] - y_px, xyxy[2] + x_px, xyxy[3] + y_px


def _share_inside(inner: Sequence[float], outer: Sequence[float]) -> float:
    """Share of the area of a box that lies inside another one."""
    width = min(inner[2], outer[2]) - max(inner[0], outer[0])
    height = min(inner[3], outer[3]) - max(inner[1], outer[1])
    area = max((inner[2] - inner[0]) * (inner[3] - inner[1]), 1e-9)
    return max(0.0, width) * max(0.0, height) / area


def _corners(xyxy: np.ndarray) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(value) for value in xyxy)
    return left, top, right, bottom
