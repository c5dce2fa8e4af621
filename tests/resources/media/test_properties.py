"""Hundreds of random recordings: every normalized frame shows its source frame, at that frame's time.

Each source frame shows its own number. A failing case names its seed; the same seed generates the same recording.
"""

import random
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resources.config.media_config import VideoSettings
from resources.media.frame_reader import read_frame_count, read_images
from resources.media.normalize import normalize
from resources.media.normalized_file import NormalizedVideo
from tests.builders.numbered_videos import MakeVideo, read_number

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
# Container, codec, and resolution of the timestamps in seconds; None without timestamps.
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
    """One random recording, and the settings with which it is normalized."""

    name: str
    times: list[Fraction]
    rate: Fraction
    video: dict[str, Any]
    settings: VideoSettings
    tick_s: float | None


def draw_case(seed: int) -> Case:
    """Draw a random recording: container, codec, times, format and settings."""
    rng = random.Random(seed)
    extension, codec, tick_s = rng.choice(KINDS)
    rate = rng.choice(RATES)
    count = rng.randint(2, 60)
    is_regular = tick_s is None or rng.random() < 0.4
    times = [k / rate for k in range(count)] if is_regular else draw_times(rng, rate, count)
    video: dict[str, Any] = {"codec": codec, "size": rng.choice([(128, 96), (144, 128), (192, 112), (130, 98)])}
    if codec == "libx264":
        b_frames = "0" if extension in ("avi", "h264") else str(rng.choice([0, 0, 1, 2, 3]))
        video["options"] = {"bf": b_frames, "g": str(rng.choice([1, 5, 12, 250])), "x264-params": "log-level=none"}
        video["pixel_format"] = rng.choice(["yuv420p", "yuv420p", "yuv420p", "yuv444p", "yuv422p", "yuvj420p"])
    elif codec == "libx265":
        video["options"] = {"preset": "ultrafast", "x265-params": "log-level=none", "g": str(rng.choice([5, 250]))}
        video["pixel_format"] = rng.choice(["yuv420p", "yuv420p10le"])
    elif codec == "mjpeg":
        video["pixel_format"] = "yuvj420p"
    elif codec == "libvpx-vp9":
        video["options"] = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": str(rng.choice([0, 16]))}
    if extension in ("mp4", "mov"):
        video["clockwise_deg"] = rng.choice([0, 0, 0, 90, 180, 270])
    if rng.random() < 0.2 and extension in ("mp4", "mkv", "mov"):
        video["aspect"] = rng.choice([Fraction(4, 3), Fraction(8, 9), Fraction(2)])
    settings = VideoSettings(
        every_nth=rng.choice([1, 1, 1, 1, 2, 3]),
        max_rate_fps=rng.choice([None, None, None, 7, 20]),
        max_height_px=rng.choice([None, None, 80]),
        max_gap_fill_s=rng.choice([0.0, 0.3, 1.0, 5.0]),
        is_colour=rng.random() < 0.8,
        when_conforming=rng.choice(["remux", "remux", "reference", "encode"]),
        start_s=rng.choice([0.0, 0.0, 0.0, float(times[len(times) // 3])]) if tick_s else 0.0,
        crf=18,
    )
    return Case(f"{seed}.{extension}", times, rate, video, settings, tick_s)


def draw_times(rng: random.Random, rate: Fraction, count: int) -> list[Fraction]:
    """Draw irregular frame times: the rate changes half-way, frames are missing, there are long gaps, or jitter."""
    irregularity = rng.choice(["rate changes", "missing frames", "gaps", "jitter"])
    times, time = [], Fraction(0)
    for k in range(count):
        times.append(time)
        step = 1 / rate
        if irregularity == "rate changes" and k > count // 2:
            step *= rng.choice([2, 3])
        elif irregularity == "missing frames" and rng.random() < 0.2:
            step *= rng.randint(2, 6)
        elif irregularity == "gaps" and rng.random() < 0.05:
            step += rng.randint(1, 40)
        elif irregularity == "jitter":
            step *= Fraction(rng.randint(70, 130), 100)
        time += step
    return times


@pytest.mark.parametrize("seed", range(CASE_COUNT))
def test_every_frame_shows_the_source_frame_of_its_row(make_video: MakeVideo, tmp_path: Path, seed: int) -> None:
    case = draw_case(seed)
    source = make_video(case.name, case.times, rate=case.rate, **case.video)
    video = normalize(source, tmp_path / "out.mp4", case.settings)
    path = source if video.normalized_by == "reference" else tmp_path / "out.mp4"
    rows, ledger = video.frames, video.ledger

    assert ledger.decoded_count == len(case.times)
    assert ledger.is_clean
    assert ledger.packet_count == video.container_packet_count
    assert ledger.packet_count + ledger.extra_count == (
        ledger.decoded_count + ledger.corrupt_count + ledger.discarded_count + ledger.hidden_count
    )
    numbers = [read_number(image) for image in read_images(path, None, video.rate_fps)]
    assert numbers == list(rows.source_frame_index)
    assert read_frame_count(path) == len(rows) == len(video.measures)
    assert len(rows) - video.duplicated_count + video.decimated_count + video.out_of_range_count == ledger.decoded_count
    check_times(case, video)


def check_times(case: Case, video: NormalizedVideo) -> None:
    """Check that times ascend, that each source frame has its own PTS, and that repeats come after their original."""
    rows = video.frames
    time_s, is_original = np.array(rows.time_s), ~np.array(rows.is_duplicated, bool)
    assert np.all(np.diff(time_s) > 0)
    if case.tick_s is not None:
        true_s = np.array([float(t - case.times[0]) for t in case.times])[list(rows.source_frame_index)]
        tolerance_s = 1.01 * case.tick_s + 1e-6
        assert np.abs(time_s - true_s)[is_original].max() <= tolerance_s
        assert np.all(time_s >= true_s - tolerance_s)
    assert video.rate_fps <= (case.settings.max_rate_fps or 60)
    repeat_counts = count_repeats(is_original)
    assert max(repeat_counts, default=0) <= case.settings.max_gap_fill_s * float(video.rate_fps) + 1


def count_repeats(is_original: np.ndarray) -> list[int]:
    """Number of repeats after each original frame."""
    originals = np.flatnonzero(is_original)
    return [int(n) - 1 for n in np.diff(np.append(originals, len(is_original)))]
