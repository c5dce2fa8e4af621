"""Damaged recordings yield rows or a reason. `python -m benchmarks.fuzz` tries some thousand more."""

from pathlib import Path

import pytest

from benchmarks.fuzz import SETTINGS, fuzz
from tests.builders.numbered_videos import MakeVideo

pytestmark = pytest.mark.slow

CASE_COUNT = 150


def test_damaged_recordings_yield_rows_or_a_reason(make_video: MakeVideo, tmp_path: Path) -> None:
    sources = [
        make_video("a.mp4", 40, options={"bf": "2", "g": "10"}),
        make_video("b.mkv", 40, options={"g": "10"}),
        make_video("c.ts", 40, options={"g": "10"}),
        make_video("d.avi", 40, codec="mpeg4"),
        make_video("e.webm", 20, codec="libvpx-vp9", options={}),
        make_video("f.h264", 40, options={"bf": "0"}),
    ]
    report = fuzz(sources, CASE_COUNT, tmp_path, seed=1)
    assert report.faults == []
    assert sum(report.outcomes.values()) == CASE_COUNT
    assert set(report.outcomes) >= {"ok", "partial", "rejected"}, "the damage must be neither too light nor too heavy"
    assert report.peak_mb < SETTINGS.max_memory_mb
    assert report.max_elapsed_s < 2 * SETTINGS.stall_s
