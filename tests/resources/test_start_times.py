from datetime import UTC, datetime, timedelta

import pytest

from resources.config.camera_config import CameraSettings
from resources.config.media_config import IngestSettings
from resources.config.settings import Settings
from resources.start_times import CLOCK_COLUMNS, clock_version, determine_start_time, recording_start

INGEST = IngestSettings(time_zone="Europe/Berlin")
MTIME = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
LOCAL_NOON = NOON - timedelta(hours=1)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("gate/cam_2026-03-01_12-00-00.mp4", LOCAL_NOON),
        ("20260301120000.mp4", LOCAL_NOON),
        ("Cars_FR20_2026-03-01_12-00-00.mp4", LOCAL_NOON),
        ("VID_20260301_120000.mp4", LOCAL_NOON),
        ("20260301_120000123.mp4", LOCAL_NOON + timedelta(milliseconds=123)),
        ("PXL_20260301_120000123.TS.mp4", NOON + timedelta(milliseconds=123)),
        ("2026-03-01T12:00:00Z.mkv", NOON),
        ("2026-03-01T12:00:00.250+01:00.mkv", LOCAL_NOON + timedelta(milliseconds=250)),
        ("20260301T120000-05:00.mkv", NOON + timedelta(hours=5)),
        ("2026-03-01T12:00:00.mkv", LOCAL_NOON),
        ("2026-03-01_12-00-00-front.mp4", LOCAL_NOON),
        ("2026-03-01_12-00-00-0012.mp4", LOCAL_NOON),
        ("NVR_ch1_main_20260301120000_20260301130000.dav", LOCAL_NOON),
        ("hall.20260301_120000.avi", LOCAL_NOON),
        ("WhatsApp Video 2026-03-01 at 12.00.00.mp4", LOCAL_NOON),
        ("Screen Recording 2026-03-01 at 3.04.05 PM.mov", datetime(2026, 3, 1, 14, 4, 5, tzinfo=UTC)),
        ("Screen Recording 2026-03-01 at 12.00.00 AM.mov", datetime(2026, 2, 28, 23, 0, 0, tzinfo=UTC)),
        ("DJI_20260301120000_0001_D.MP4", LOCAL_NOON),
        ("hall 2026-03-01 12.00.mp4", LOCAL_NOON),
        ("gate/2026-03-01/12.00.00-12.30.00[M][0@0][0].dav", LOCAL_NOON),
        ("gate/20260301/cam1_120000.mp4", LOCAL_NOON),
        ("gate/2026/03/01/12/00.mp4", LOCAL_NOON),
        ("camera_1772366400.mp4", NOON),
        ("camera_1772366400500.mp4", NOON + timedelta(milliseconds=500)),
    ],
)
def test_file_names_of_cameras_recorders_and_phones_contain_the_start_time(path: str, expected: datetime) -> None:
    assert determine_start_time(path, None, MTIME, 30.0, INGEST, CameraSettings()) == (expected, "file_name")


@pytest.mark.parametrize(
    "path",
    [
        "cam.mp4",
        "cam_2026-13-01_08-09-10.mp4",
        "IMG_0123.MOV",
        "20260301.mp4",
        "serial_0123456789.mp4",
        "1999999999999.mp4",
    ],
)
def test_without_a_time_in_the_name_the_container_then_mtime_is_used(path: str) -> None:
    assert determine_start_time(path, NOON, MTIME, 30.0, INGEST, CameraSettings()) == (NOON, "container")
    expected = MTIME - timedelta(seconds=30)
    assert determine_start_time(path, None, MTIME, 30.0, INGEST, CameraSettings()) == (expected, "mtime")


def test_time_zone_and_clock_offset_of_the_camera_are_applied() -> None:
    camera = CameraSettings(time_zone="America/New_York", clock_offset_s=-90)
    for path, created_at_utc, expected in (
        ("gate/20260301120000.mp4", None, (NOON + timedelta(hours=5, seconds=-90), "file_name")),
        ("gate/a.mp4", NOON, (NOON - timedelta(seconds=90), "container")),
        ("gate/a.mp4", None, (MTIME - timedelta(seconds=30), "mtime")),
    ):
        assert determine_start_time(path, created_at_utc, MTIME, 30.0, INGEST, camera) == expected


def test_configured_patterns_replace_the_defaults() -> None:
    ingest = IngestSettings(
        captured_at_patterns=(r"d(?P<day>\d\d)m(?P<month>\d\d)y(?P<year>\d{4})_(?P<hour>\d\d)(?P<minute>\d\d)",)
    )
    start = determine_start_time("d01m03y2026_1200.mp4", None, MTIME, 30.0, ingest, CameraSettings())
    assert start == (NOON, "file_name")


HEADER = {
    **{"recording_id": "r", "camera": "gate", "source_path": "gate/cam.mp4", "container_name": "mp4"},
    **{"mtime_utc": MTIME, "created_at_utc": None, "duration_s_from_header": 30.0},
    **{"duration_s_from_content": None, "lead_s": None},
}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({}, (MTIME - timedelta(seconds=30), "mtime"), id="header"),
        pytest.param(
            # The content lasts until mtime, and its first frame is the one that decodes.
            {"duration_s_from_content": 20.0, "lead_s": 2.0},
            (MTIME - timedelta(seconds=20), "mtime"),
            id="content",
        ),
        pytest.param({"duration_s_from_header": None}, (MTIME, "mtime"), id="no duration"),
        pytest.param({"created_at_utc": NOON, "lead_s": 2.0}, (NOON + timedelta(seconds=2), "container"), id="lead"),
        pytest.param({"container_name": None, "created_at_utc": NOON}, None, id="no video"),
    ],
)
def test_a_recording_starts_with_its_first_frame(
    values: dict[str, object], expected: tuple[datetime, str] | None
) -> None:
    assert recording_start(HEADER | values, Settings()) == expected
    assert set(HEADER) == set(CLOCK_COLUMNS)


def test_only_settings_of_the_clock_change_its_version() -> None:
    version = clock_version(Settings())
    gate = Settings(cameras={"gate": CameraSettings(hysteresis=0.3)})
    assert clock_version(gate) == version
    changes = [
        {"ingest": {"time_zone": "Asia/Tokyo"}},
        {"ingest": {"captured_at_patterns": [r"(?P<epoch>\d+)"]}},
        {"cameras": {"gate": {"clock_offset_s": 1}}},
        {"cameras": {"yard": {"clock_offset_s": 1}}},
        {"cameras": {"gate": {"time_zone": "Asia/Tokyo"}}},
    ]
    assert len({version, *(clock_version(Settings.model_validate(change)) for change in changes)}) == 6


_ANY_TIME = r"(?P<year>\w+)-(?P<month>\w+)-(?P<day>\w+) (?P<hour>\w+)\.(?P<minute>\w+)"


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (_ANY_TIME, "2026-Jan-01 12.00.mp4"),
        (_ANY_TIME, "2026-13-01 12.00.mp4"),
        (_ANY_TIME, "2_26-01-01 12.00.mp4"),
        (_ANY_TIME, "99999999999999999999-01-01 12.00.mp4"),
        (_ANY_TIME, "0001-01-01 00.00.mp4"),  # before the year 1 in UTC
        (_ANY_TIME + r"\.(?P<fraction>\w+)", "2026-01-01 12.00.1e5.mp4"),
        (_ANY_TIME + r"\.(?P<zone>\w+)", "2026-01-01 12.00.CET.mp4"),
        (_ANY_TIME + r"\.(?P<half>\w+)", "2026-01-01 12.00.noon.mp4"),
        (r"(?P<epoch>\w+)", "yesterday.mp4"),
        (r"(?P<epoch>\d+)", f"{'9' * 240}.mp4"),
    ],
)
def test_groups_that_match_no_time_are_no_time(pattern: str, path: str) -> None:
    ingest = IngestSettings(time_zone="Europe/Berlin", captured_at_patterns=(pattern,))
    assert determine_start_time(path, NOON, MTIME, 30.0, ingest, CameraSettings()) == (NOON, "container")


def test_times_outside_the_years_1_to_9999_are_unknown() -> None:
    ingest = IngestSettings(captured_at_patterns=(_ANY_TIME,))
    late, early = (CameraSettings(clock_offset_s=sign * 4e9) for sign in (1, -1))
    for path, camera in (("9990-01-01 12.00.mp4", late), ("0009-01-01 12.00.mp4", early)):
        assert determine_start_time(path, NOON, MTIME, 30.0, ingest, CameraSettings()) != (NOON, "container")
        start = determine_start_time(path, NOON, MTIME, 30.0, ingest, camera)
        assert start == (NOON + timedelta(seconds=camera.clock_offset_s), "container")
    assert determine_start_time("a.mp4", None, MTIME, 1e18, ingest, CameraSettings()) is None
    assert recording_start(HEADER | {"duration_s_from_header": 1e12}, Settings()) is None
    assert recording_start(HEADER | {"lead_s": 1e12, "created_at_utc": NOON}, Settings()) is None
