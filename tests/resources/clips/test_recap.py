"""Recaps of numbered videos: every stretch with objects is there, in order, and the length is the requested one."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import av
import pytest

from resources.clips.clip_writer import DrawFrame, encode_frames
from resources.clips.overlay import wall_clock_text
from resources.clips.recap import (
    RECAP_RATE_FPS,
    RecapRecording,
    active_stretches,
    plan_recap,
    recap_chapters,
    recap_frames,
)
from resources.errors import PipelineError
from tests.builders.numbered_videos import MakeVideo, read_number

RATE_FPS = Fraction(10)
OBJECTS = [(100, 120, "car 1"), (115, 160, "person 2"), (300, 302, "person 3")]
GATE = RecapRecording("gate", RATE_FPS, 400, OBJECTS, [(130, "person 2 in entrance")])
YARD = RecapRecording("yard", RATE_FPS, 100, [(0, 99, "person 1")], [])


def test_stretches_have_a_second_before_and_after() -> None:
    assert active_stretches(GATE) == [(90, 170), (290, 312)]
    assert active_stretches(YARD) == [(0, 99)]
    assert active_stretches(RecapRecording("empty", RATE_FPS, 50, [], [])) == []


@pytest.mark.parametrize("length_s", [2.0, 5.0, 15.0])
def test_a_recap_has_the_requested_length_and_every_stretch(length_s: float) -> None:
    parts = plan_recap([GATE, YARD], length_s)
    assert sum(len(part.frame_indices) for part in parts) == length_s * RECAP_RATE_FPS
    assert [(part.first_frame, part.last_frame) for part in parts] == [(90, 170), (290, 312), (0, 99)]
    for part in parts:
        assert (part.frame_indices[0], part.frame_indices[-1]) == (part.first_frame, part.last_frame)
        assert len(part.frame_indices) >= 5
        assert (part.frame_indices[1:] >= part.frame_indices[:-1]).all()


def test_without_a_length_stretches_keep_their_speed() -> None:
    for length_s in (None, 1000.0):
        parts = plan_recap([GATE, YARD], length_s)
        seconds = [len(part.frame_indices) / float(RECAP_RATE_FPS) for part in parts]
        assert seconds == pytest.approx([8.1, 2.3, 10.0], abs=0.05)


def test_what_cannot_be_a_recap_is_refused() -> None:
    with pytest.raises(PipelineError, match="nothing to recap"):
        plan_recap([RecapRecording("empty", RATE_FPS, 50, [], [])], 10)
    with pytest.raises(PipelineError, match=r"3 stretches: it needs at least 1 s"):
        plan_recap([GATE, YARD], 0.2)


def test_the_frames_of_a_recap_are_those_of_the_recordings(make_video: MakeVideo, tmp_path: Path) -> None:
    videos = {
        "gate": make_video("gate.mp4", 400, rate=10, size=(128, 96)),
        "yard": make_video("yard.mp4", 100, rate=10, size=(256, 192)),
    }
    opened = []

    @contextmanager
    def open_recording(recording_id: str) -> Iterator[tuple[Path, DrawFrame]]:
        opened.append(recording_id)
        yield videos[recording_id], lambda canvas, _: canvas.draw_box((0, 0, 4, 4), (255, 0, 0), 1)

    parts = plan_recap([GATE, YARD], 4.0)
    count = encode_frames(
        recap_frames(parts, open_recording), RECAP_RATE_FPS, tmp_path / "r.mp4", recap_chapters(parts)
    )
    assert (count, opened) == (100, ["gate", "yard"])
    with av.open(str(tmp_path / "r.mp4")) as container:
        numbers = [read_number(frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]
        chapters = [(chapter["metadata"]["title"], chapter["start"]) for chapter in container.chapters()]
    assert numbers == [int(index) for part in parts for index in part.frame_indices]
    starts_ms = [0, 40 * len(parts[0].frame_indices), 40 * (len(parts[0].frame_indices) + len(parts[1].frame_indices))]
    names = ["person 2 in entrance", "person 3", "person 1"]
    assert chapters == list(zip(names, starts_ms, strict=True))


def test_the_clock_is_that_of_the_time_zone() -> None:
    start = datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC)
    assert wall_clock_text(start, 0.5, ZoneInfo("Europe/Berlin")) == "2026-03-29 01:59:59.50"
    assert wall_clock_text(start, 1.0, ZoneInfo("Europe/Berlin")) == "2026-03-29 03:00:00.00"
    assert wall_clock_text(None, 1.25, ZoneInfo("UTC")) == "1.25 s"
