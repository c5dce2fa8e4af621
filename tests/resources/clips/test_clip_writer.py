"""Clips of sources with a number in every frame: the first and the last frame are those that were asked for."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cv_assets.normalized_video import frame_rows
from resources.clips.clip_selection import Caption, format_srt, format_vtt, frame_at, parse_time
from resources.clips.clip_writer import Chapter, encode_frames, write_clip
from resources.clips.frame_canvas import FrameCanvas
from resources.clips.overlay import ClipPainter, Overlay
from resources.config.camera_config import CameraSettings
from resources.config.media_config import VideoSettings
from resources.errors import PipelineError, RecordingError
from resources.exports.annotations import Box, RecordingAnnotations
from resources.media.normalize import normalize
from tests.builders.numbered_videos import MakeVideo, read_number

VARIABLE_TIMES_S = [Fraction(round(1000 * time_s), 1000) for time_s in np.cumsum([0.04, 0.1, 0.02, 0.08] * 25)]


def read_numbers(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [read_number(frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("name", "times", "options"),
    [
        pytest.param("a.mp4", 100, {"rate": 25}, id="constant rate"),
        pytest.param("a.mkv", VARIABLE_TIMES_S, {"rate": 25}, id="variable rate"),
        pytest.param("a.mp4", 100, {"rate": Fraction(30000, 1001), "options": {"bf": "3"}}, id="29.97 with B-frames"),
        pytest.param("a.mp4", 100, {"rate": 25, "clockwise_deg": 90, "size": (96, 128)}, id="rotated"),
    ],
)
@pytest.mark.parametrize("is_drawn", [False, True])
def test_a_clip_has_the_frames_that_are_shown_between_its_times(
    make_video: MakeVideo, tmp_path: Path, name: str, times: Any, options: dict[str, Any], is_drawn: bool
) -> None:
    source = make_video(name, times, **options)
    video = normalize(source, tmp_path / "normalized.mp4", VideoSettings())
    frames = frame_rows("r", video)
    times_s, source_indices = frames["time_s"].to_numpy(), frames["source_frame_index"].to_numpy()
    for start_s, end_s in ((0.0, 1.0), (1.03, 2.31), (2.0, 3.0)):
        first, last = frame_at(times_s, start_s), frame_at(times_s, end_s)
        output = tmp_path / f"clip-{start_s}.mp4"
        draw = (lambda canvas, _: canvas.draw_text("12:00", 0, 12, 12, (255, 255, 255))) if is_drawn else None
        write_clip(tmp_path / "normalized.mp4", range(first, last + 1), video.rate_fps, output, draw)
        numbers = read_numbers(output)
        assert numbers == source_indices[first : last + 1].tolist()
        shown = [
            number for number, time_s in enumerate(np.atleast_1d(_times(times, options))) if time_s <= end_s + 0.02
        ]
        assert abs(numbers[-1] - shown[-1]) <= 1


def _times(times: Any, options: dict[str, Any]) -> np.ndarray:
    first = times[0] if not isinstance(times, int) else 0
    return np.array([float(k / options["rate"]) for k in range(times)] if isinstance(times, int) else
                    [float(time - first) for time in times])  # fmt: skip


@pytest.mark.parametrize(("first", "last", "is_copied"), [(0, 99, True), (25, 49, True), (26, 49, False)])
@pytest.mark.parametrize("b_frames", ["0", "2"])
def test_a_clip_is_copied_where_it_starts_with_a_keyframe_and_needs_no_other_frame(
    make_video: MakeVideo, tmp_path: Path, first: int, last: int, is_copied: bool, b_frames: str
) -> None:
    options = {"g": "25", "keyint_min": "25", "sc_threshold": "0", "bf": b_frames, "flags": "+cgop"}
    video = make_video("a.mp4", 100, rate=25, options=options)
    chapters = [Chapter(0, 0.5, "before"), Chapter(0.5, 1, "after")]
    output = tmp_path / "clip.mp4"
    assert write_clip(video, range(first, last + 1), Fraction(25), output, None, chapters) == is_copied
    assert read_numbers(output) == list(range(first, last + 1))
    with av.open(str(output)) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["before", "after"]
        assert next(container.decode(video=0)).pts == 0


def test_a_video_that_ends_early_gives_no_clip(make_video: MakeVideo, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="ends before frame 24: materialize normalized_video again"):
        write_clip(make_video("a.mp4", 24), range(10, 40), Fraction(24), tmp_path / "clip.mp4", None)


def black_frame(width_px: int, height_px: int) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.zeros((height_px, width_px, 3), np.uint8), format="rgb24").reformat(
        format="yuv420p"
    )


def recording_of(boxes: Sequence[Box], frame_count: int = 10) -> RecordingAnnotations:
    return RecordingAnnotations("r", "gate", 640, 360, Fraction(10), np.arange(frame_count) / 10, boxes)


def test_boxes_lie_where_they_are_stored(tmp_path: Path) -> None:
    boxes = [Box(frame, 1, "car", 0.9, (100.0 + 10 * frame, 60.0, 180.0 + 10 * frame, 140.0)) for frame in range(10)]
    painter = ClipPainter(Overlay(has_boxes=True), recording_of(boxes), {}, CameraSettings(), None, "UTC")
    drawn = []
    for frame in range(10):
        canvas = FrameCanvas.of(black_frame(640, 360))
        painter.draw(canvas, frame)
        drawn.append(canvas.to_frame())
    encode_frames(iter(drawn), Fraction(10), tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        for frame, picture in enumerate(container.decode(video=0)):
            y, x = np.nonzero(picture.to_ndarray(format="gray") > 80)
            measured = (x.min(), y.min(), x.max(), y.max())
            assert np.abs(np.array(measured) - boxes[frame].xyxy).max() <= 2


def test_covered_areas_show_the_same_grey_and_labels_lie_inside_the_frame() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (360, 640, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format="yuv420p")
    canvas = FrameCanvas.of(frame)
    canvas.make_unreadable((10.5, 20.5, 50.2, 60.9))
    canvas.make_unreadable((600, 300, 900, 500))
    for plane, scale in zip(canvas.planes, (1, 2, 2), strict=True):
        covered = plane[20 // scale : 60 // scale, 10 // scale : 50 // scale]
        assert np.ptp(covered) == 0
        assert (plane[300 // scale :, 600 // scale :] == covered[0, 0]).all()
    for x_px, y_px in ((-50, -50), (630, 355), (1000, 1000)):
        canvas.draw_text("person 12", x_px, y_px, 20, (255, 255, 255))
    assert canvas.to_frame().width == 640


@pytest.mark.parametrize(
    ("text", "expected"), [("12.5", 12.5), ("1:02.5", 62.5), ("1:00:01", 3601), ("2026-03-01 08:00:05", 5.0),
                           ("2026-03-01T09:00:05+01:00", 5.0)]
)  # fmt: skip
def test_times_are_seconds_minutes_or_wall_clock(text: str, expected: float) -> None:
    from datetime import UTC, datetime

    assert parse_time(text, datetime(2026, 3, 1, 8, tzinfo=UTC)) == expected


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(PipelineError, match="'soon' is no time"):
        parse_time("soon", None)
    with pytest.raises(PipelineError, match="the recording's start is not known"):
        parse_time("2026-03-01 08:00:05", None)


def test_captions_are_written_as_their_formats_have_them() -> None:
    captions = [Caption(1.5, 3.25, "car 1 <enters>")]
    assert format_srt(captions) == "1\n00:00:01,500 --> 00:00:03,250\ncar 1 <enters>\n"
    assert format_vtt(captions) == "WEBVTT\n\n00:00:01.500 --> 00:00:03.250\ncar 1 &lt;enters>\n"
