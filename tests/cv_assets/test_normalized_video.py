"""Rows of frames, columns of the content, and the check that the packet ledger adds up."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cv_assets.media_status import media_status
from cv_assets.normalized_video import content_columns, frame_rows, ledger_faults
from resources.config.camera_config import CameraSettings
from resources.config.media_config import VideoSettings
from resources.config.settings import Settings
from resources.config.settings_file import load_settings
from resources.media.normalize import normalize
from resources.media.probe import probe
from resources.schema.recording_tables import FRAMES
from resources.schema.row_checks import broken_rules
from tests.builders.numbered_videos import MakeVideo
from tests.builders.video_files import add_to_avi_frame_count


def normalize_to_rows(source: Path, output: Path, settings: VideoSettings) -> tuple[dict[str, Any], pa.Table]:
    """Normalize a file; returns its row of header and content and its rows of `frames`."""
    video = normalize(source, output, settings)
    row = {"recording_id": "r", **vars(probe(source, settings))}
    return row | content_columns(video, row), frame_rows("r", video)


def test_every_frame_has_a_row_with_its_time(make_video: MakeVideo, tmp_path: Path) -> None:
    settings = VideoSettings(max_rate_fps=10)
    row, frames = normalize_to_rows(make_video("a.mkv", 50, rate=20), tmp_path / "out.mp4", settings)
    assert broken_rules(FRAMES, frames) == []
    assert frames["time_s"][10].as_py() == pytest.approx(1)
    assert (row["frame_count"], row["decimated_count"], row["rate_fps_from_content"]) == (25, 25, 20)
    assert ledger_faults(row, frames, tmp_path / "out.mp4") == []


@pytest.mark.parametrize(
    ("column", "rule"),
    [
        ("corrupt_count", "packets and extra frames"),
        ("decimated_count", "decoded frames = emitted"),
        ("container_packet_count", "packets in the container"),
    ],
)
def test_a_sum_that_does_not_add_up_is_a_fault(make_video: MakeVideo, tmp_path: Path, column: str, rule: str) -> None:
    row, frames = normalize_to_rows(make_video("a.mp4", 20), tmp_path / "out.mp4", VideoSettings())
    faults = ledger_faults(row | {column: row[column] + 1}, frames, tmp_path / "out.mp4")
    assert len(faults) == 1 and faults[0].startswith("r: ") and rule in faults[0]
    assert any("frames in the file" in fault for fault in ledger_faults(row, frames[:-1], tmp_path / "out.mp4"))


def test_the_end_that_a_truncated_file_lacks_is_missing(make_video: MakeVideo, tmp_path: Path) -> None:
    whole = make_video("a.mov", 100, rate=10, codec="mjpeg", pixel_format="yuvj420p", options={})
    fast = tmp_path / "fast.mp4"
    normalize(whole, fast, VideoSettings())
    truncated = tmp_path / "truncated.mp4"
    truncated.write_bytes(fast.read_bytes()[: fast.stat().st_size * 6 // 10])
    row, _ = normalize_to_rows(truncated, tmp_path / "out.mp4", VideoSettings())
    (missing,) = row["missing_s"]
    assert missing["start_s"] == pytest.approx(row["duration_s_from_content"])
    assert missing["end_s"] == pytest.approx(10, abs=0.15)
    assert 0.5 < row["duration_s_from_content"] < 9


def test_a_camera_overrides_only_the_video_settings_that_it_sets(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "video: {crf: 30, max_rate_fps: 10}\ncameras: {gate: {video: {region: [0, 0, 1, 0.5], crf: 20}}}\n"
    )
    settings = load_settings(tmp_path / "p.yaml", {})
    gate = settings.video_of("gate")
    assert (gate.crf, gate.max_rate_fps, gate.region) == (20, 10, (0, 0, 1, 0.5))
    assert settings.video_of("yard") == settings.video_of(None) == settings.video
    assert Settings().camera(None) == CameraSettings()


def make_avi(make_video: MakeVideo, frame_count: int = 20) -> Path:
    return make_video("a.avi", frame_count, rate=10, codec="mjpeg", pixel_format="yuvj420p")


def test_an_avi_whose_header_claims_one_frame_too_many_is_whole(make_video: MakeVideo, tmp_path: Path) -> None:
    file = make_avi(make_video)
    add_to_avi_frame_count(file, 1)
    row, _ = normalize_to_rows(file, tmp_path / "out.mp4", VideoSettings())
    assert (row["frame_count_from_header"], row["packet_count"]) == (21, 20)
    assert media_status(row) == ("ok", None)
    add_to_avi_frame_count(file, 1)
    row, _ = normalize_to_rows(file, tmp_path / "out.mp4", VideoSettings())
    assert media_status(row)[0] == "partial"


def test_a_frame_count_that_no_column_can_store_is_unknown(make_video: MakeVideo) -> None:
    file = make_avi(make_video)
    add_to_avi_frame_count(file, 3_000_000_000)
    assert probe(file, VideoSettings()).frame_count_from_header is None
