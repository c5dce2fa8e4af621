"""Hundreds of drawn recordings: every normalized frame shows the picture that `frames` claims, when it claims it.

Each picture carries its own number. A failing case names its seed; the same seed draws the same recording.
"""

import random
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resources.media.normalizing import NormalizedVideo, normalize
from resources.media.reading import read_frames, stored_frame_count
from resources.settings import VideoSettings
from tests.conftest import MakeVideo, number_in

CASE_COUNT = 300
RATES = (
    Fraction(5),
    Fraction(10),
    Fraction(15),
    Fraction(24000, 1001),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(60),
)
# Container and codec, whether it stores timestamps, and how coarsely.
KINDS = (
    ("mp4", "libx264", 1 / 90_000),
    ("mp4", "libx264", 1 / 90_000),
    ("mp4", "mpeg4", 1 / 15_000),
    ("mp4", "libx265", 1 / 90_000),
    ("mov", "libx264", 1 / 90_000),
    ("mov", "mjpeg", 1 / 90_000),
    ("mkv", "libx264", 0.001),
    ("mkv", "libx265", 0.001),
    ("mkv", "mjpeg", 0.001),
    ("webm", "libvpx-vp9", 0.001),
    ("ts", "libx264", 1 / 90_000),
    ("avi", "mpeg4", None),
    ("avi", "libx264", None),
    ("h264", "libx264", None),
)


@dataclass(frozen=True)
class Case:
    """One drawn recording and the settings it is normalized with."""

    name: str
    times: list[Fraction]
    rate: Fraction
    video: dict[str, Any]
    settings: VideoSettings
    tick_s: float | None


def drawn_case(seed: int) -> Case:
    """Draw everything that may differ between two recordings."""
    draw = random.Random(seed)
    ending, codec, tick_s = draw.choice(KINDS)
    rate = draw.choice(RATES)
    count = draw.randint(2, 60)
    if tick_s is None or draw.random() < 0.4:
        times = [k / rate for k in range(count)]
    else:
        times = drawn_times(draw, rate, count)
    video: dict[str, Any] = {"codec": codec, "size": draw.choice([(128, 96), (144, 128), (192, 112), (130, 98)])}
    if codec == "libx264":
        b_frames = "0" if ending in ("avi", "h264") else str(draw.choice([0, 0, 1, 2, 3]))
        video["options"] = {"bf": b_frames, "g": str(draw.choice([1, 5, 12, 250])), "x264-params": "log-level=none"}
        video["pixel_format"] = draw.choice(["yuv420p", "yuv420p", "yuv420p", "yuv444p", "yuv422p", "yuvj420p"])
    elif codec == "libx265":
        video["options"] = {"preset": "ultrafast", "x265-params": "log-level=none", "g": str(draw.choice([5, 250]))}
        video["pixel_format"] = draw.choice(["yuv420p", "yuv420p10le"])
    elif codec == "mjpeg":
        video["pixel_format"] = "yuvj420p"
    elif codec == "libvpx-vp9":
        video["options"] = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": str(draw.choice([0, 16]))}
    if ending in ("mp4", "mov"):
        video["clockwise_deg"] = draw.choice([0, 0, 0, 90, 180, 270])
    if draw.random() < 0.2 and ending in ("mp4", "mkv", "mov"):
        video["aspect"] = draw.choice([Fraction(4, 3), Fraction(8, 9), Fraction(2)])
    settings = VideoSettings(
        every_nth=draw.choice([1, 1, 1, 1, 2, 3]),
        max_rate_fps=draw.choice([None, None, None, 7, 20]),
        max_height_px=draw.choice([None, None, 80]),
        max_gap_fill_s=draw.choice([0.0, 0.3, 1.0, 5.0]),
        is_colour=draw.random() < 0.8,
        when_conforming=draw.choice(["remux", "remux", "reference", "encode"]),
        start_s=draw.choice([0.0, 0.0, 0.0, float(times[len(times) // 3])]) if tick_s else 0.0,
        crf=18,
    )
    return Case(f"{seed}.{ending}", times, rate, video, settings, tick_s)


def drawn_times(draw: random.Random, rate: Fraction, count: int) -> list[Fraction]:
    """Times that tick unevenly: the rate changes half-way, single frames are missing, or long holes gape."""
    how = draw.choice(["rate changes", "frames are missing", "holes", "jitter"])
    times, time = [], Fraction(0)
    for k in range(count):
        times.append(time)
        step = 1 / rate
        if how == "rate changes" and k > count // 2:
            step *= draw.choice([2, 3])
        elif how == "frames are missing" and draw.random() < 0.2:
            step *= draw.randint(2, 6)
        elif how == "holes" and draw.random() < 0.05:
            step += draw.randint(1, 40)
        elif how == "jitter":
            step *= Fraction(draw.randint(70, 130), 100)
        time += step
    return times


@pytest.mark.parametrize("seed", range(CASE_COUNT))
def test_every_frame_shows_what_its_row_says_when_it_says(make_video: MakeVideo, tmp_path: Path, seed: int) -> None:
    case = drawn_case(seed)
    source = make_video(case.name, case.times, rate=case.rate, **case.video)
    video = normalize(source, tmp_path / "out.mp4", case.settings)
    path = source if video.made_by == "reference" else tmp_path / "out.mp4"
    rows, ledger = video.frames, video.ledger

    assert ledger.decoded_count == len(case.times)
    assert ledger.is_clean
    assert ledger.packet_count == video.container_packet_count
    assert ledger.packet_count + ledger.extra_count == (
        ledger.decoded_count + ledger.corrupt_count + ledger.discarded_count + ledger.hidden_count
    )
    shown = [number_in(picture) for _, picture in read_frames(path)]
    assert shown == list(rows.source_frame_index)
    assert stored_frame_count(path) == len(rows) == len(video.measures)
    assert len(rows) - video.duplicated_count + video.decimated_count + video.cut_off_count == ledger.decoded_count
    check_times(case, video)


def check_times(case: Case, video: NormalizedVideo) -> None:
    """Times ascend, and each source frame has its own; a repeat's lies between its picture's and the next's."""
    rows = video.frames
    time_s, is_own = np.array(rows.time_s), ~np.array(rows.is_duplicated, bool)
    assert np.all(np.diff(time_s) > 0)
    if case.tick_s is not None:
        true_s = np.array([float(t - case.times[0]) for t in case.times])[list(rows.source_frame_index)]
        tolerance_s = 1.01 * case.tick_s + 1e-6
        assert np.abs(time_s - true_s)[is_own].max() <= tolerance_s
        assert np.all(time_s >= true_s - tolerance_s)
    assert video.rate_fps <= (case.settings.max_rate_fps or 60)
    filled = rows_between(is_own)
    assert max(filled, default=0) <= case.settings.max_gap_fill_s * float(video.rate_fps) + 1


def rows_between(is_own: np.ndarray) -> list[int]:
    """Lengths of the runs of repeats."""
    own = np.flatnonzero(is_own)
    return [int(n) - 1 for n in np.diff(np.append(own, len(is_own)))]
