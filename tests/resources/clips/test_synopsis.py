"""Synopses: every object is shown whole, at its place, with few overlaps, over what is behind it."""

import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from resources.clips.clip_writer import encode_frames
from resources.clips.recap import RECAP_RATE_FPS
from resources.clips.synopsis_frames import SynopsisPictures, median_background, synopsis_frames
from resources.clips.synopsis_plan import (
    SynopsisObject,
    build_object,
    default_length_s,
    is_in_background,
    overlap_share,
    place_objects,
)
from resources.exports.annotations import Box
from resources.media.frame_reader import sample_images

WIDTH_PX, HEIGHT_PX, RATE_FPS = 320, 200, 25
COLOURS = {1: (40, 40, 220), 2: (40, 220, 40)}


def walk(track_id: int, first_frame: int, count: int, y_px: float = 100.0, step_px: float = 4.0) -> list[Box]:
    """Boxes of an object that crosses the frame."""
    return [
        Box(first_frame + n, track_id, "car", 0.9, (step_px * n, y_px, step_px * n + 40, y_px + 30))
        for n in range(count)
    ]


def to_frame(image: np.ndarray) -> VideoFrame:
    frame = av.VideoFrame.from_ndarray(image, format="bgr24")
    return frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)


def build(track_id: int, first_frame: int, count: int, y_px: float = 100.0) -> SynopsisObject:
    return build_object("r", track_id, walk(track_id, first_frame, count, y_px), RATE_FPS, None)


def test_objects_of_one_path_follow_each_other() -> None:
    objects = [build(number, 200 * number, 60) for number in range(8)]
    frame_count = 4 * 60
    placed = place_objects(objects, frame_count, (WIDTH_PX, HEIGHT_PX))
    assert overlap_share(objects) == 1.0  # all at once
    assert overlap_share(placed) < 0.15
    starts = [item.start_frame for item in placed]
    assert all(0 <= start <= frame_count - 60 for start in starts)
    assert np.corrcoef(starts, range(8))[0, 1] > 0.9  # in their order
    for before, after in zip(objects, placed, strict=True):
        assert np.array_equal(before.frame_indices, after.frame_indices) and np.array_equal(before.boxes, after.boxes)


def test_objects_that_never_meet_are_shown_together() -> None:
    objects = [build(number, 1000 * number, 60, 10.0 + 60 * number) for number in range(3)]
    placed = place_objects(objects, 60, (WIDTH_PX, HEIGHT_PX))
    assert [item.start_frame for item in placed] == [0, 0, 0]
    assert overlap_share(placed) == 0


def test_an_object_has_a_frame_of_the_recording_per_frame_of_the_synopsis() -> None:
    boxes = [box for box in walk(1, 10, 50) if box.frame_index not in (20, 21)]
    item = build_object("r", 1, boxes, 12.5, None)
    assert item.frame_count == 100  # 4 s
    assert (item.frame_indices[0], item.frame_indices[-1]) == (10, 59)
    at_gap = item.boxes[np.searchsorted(item.frame_indices, 20)]
    assert at_gap.tolist() == pytest.approx([40, 100, 80, 130])
    assert build_object("r", 1, walk(1, 0, 5000, step_px=0.01), 25, None).frame_count == 500
    assert build_object("r", 1, walk(1, 0, 100), 25, 2.0).frame_count == 50
    assert default_length_s([item, item]) == 4.0


def test_what_stands_still_for_long_is_background() -> None:
    assert is_in_background(walk(1, 0, 50, step_px=0.1), 100)
    assert not is_in_background(walk(1, 0, 50, step_px=0.1), 1000)
    assert not is_in_background(walk(1, 0, 50), 100)


def test_frames_have_both_objects_at_their_places_over_the_background(tmp_path: Path) -> None:
    """Two squares cross an empty view at different times; the synopsis shows them at once."""
    view = np.random.default_rng(0).integers(90, 120, (HEIGHT_PX // 8, WIDTH_PX // 8, 3)).astype(np.uint8)
    view = view.repeat(8, axis=0).repeat(8, axis=1)
    tracks = {1: walk(1, 20, 60, 40.0), 2: walk(2, 150, 60, 140.0)}
    images = [view.copy() for _ in range(250)]
    for number, boxes in tracks.items():
        for box in boxes:
            left, top, right, bottom = (round(edge) for edge in box.xyxy)
            images[box.frame_index][top:bottom, left:right] = COLOURS[number]
    video = tmp_path / "video.mp4"
    encode_frames(map(to_frame, images), Fraction(RATE_FPS), video)
    objects = [build_object("r", number, boxes, RATE_FPS, None) for number, boxes in tracks.items()]
    placed = place_objects(objects, 60, (WIDTH_PX, HEIGHT_PX))
    assert [item.start_frame for item in placed] == [0, 0]
    with tempfile.TemporaryFile() as file:
        pictures = SynopsisPictures(placed, (WIDTH_PX, HEIGHT_PX), file)
        pictures.cut("r", video, Fraction(RATE_FPS))
        background = median_background(sample_images(video, 41, len(images), Fraction(RATE_FPS)))
        labels = {0: ["08:00:01"] * 60, 1: ["08:00:06"] * 60}
        frames = synopsis_frames(placed, background, pictures, labels, 60)
        assert encode_frames(frames, RECAP_RATE_FPS, tmp_path / "synopsis.mp4") == 60
    assert np.abs(background.astype(int) - view).mean() < 6
    with av.open(str(tmp_path / "synopsis.mp4")) as container:
        shown = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    for frame in (5, 30, 55):
        for number, item in enumerate(placed, 1):
            left, top, right, bottom = item.boxes[frame]
            centre = shown[frame][round((top + bottom) / 2), round((left + right) / 2)].astype(int)
            assert np.abs(centre - COLOURS[number]).max() < 40, (frame, number)
        assert np.abs(shown[frame][90:110, 150:170].astype(int) - view[90:110, 150:170]).mean() < 12
