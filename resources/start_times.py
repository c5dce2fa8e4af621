"""Determines the wall-clock time at which a recording starts, from its file name, its container or its mtime."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from resources.config.camera_config import CameraSettings
from resources.config.media_config import IngestSettings
from resources.config.settings import Settings, settings_version

CLOCK_COLUMNS = (
    *("recording_id", "camera", "source_path", "mtime_utc", "created_at_utc", "container_name"),
    *("duration_s_from_header", "duration_s_from_content", "lead_s"),
)
"""The columns of `recordings` and `recording_contents` from which the start of a recording is computed."""

_MIN_EPOCH_S = 946_684_800  # the year 2000: smaller numbers are serial numbers


def recording_start(row: Mapping[str, Any], settings: Settings) -> tuple[datetime, str] | None:
    """Wall-clock time of a recording's first frame and the source of that time; None if it has no such time.

    A file without any video has none, nor one whose times lie outside the years 1 to 9999.

    Args:
        row: The CLOCK_COLUMNS of the recording; those of its content are None before normalization.
        settings: Clocks of the cameras, and patterns of file names that contain the time.
    """
    if row["container_name"] is None:
        return None
    lead_s = row["lead_s"] or 0.0
    content_s = row["duration_s_from_content"]
    start = determine_start_time(
        row["source_path"],
        row["created_at_utc"],
        row["mtime_utc"],
        lead_s + content_s if content_s is not None else row["duration_s_from_header"] or 0.0,
        settings.ingest,
        settings.camera(row["camera"]),
    )
    started_at_utc = _add_seconds(start[0], lead_s) if start else None
    return (started_at_utc, start[1]) if start and started_at_utc else None


def clock_version(settings: Settings) -> str:
    """Hash of the settings that decide the starts of recordings."""
    cameras = {
        name: camera.own_settings_json("time_zone", "clock_offset_s") for name, camera in settings.cameras.items()
    }
    own_clocks = [f"{name}: {clock}" for name, clock in sorted(cameras.items()) if clock]
    return settings_version(settings.ingest.time_zone, *settings.ingest.captured_at_patterns, "cameras", *own_clocks)


def determine_start_time(
    source_path: str,
    created_at_utc: datetime | None,
    mtime_utc: datetime,
    duration_s: float,
    ingest: IngestSettings,
    camera: CameraSettings,
) -> tuple[datetime, str] | None:
    """Determine when a recording started, and the source of that time; None without any time in the years 1 to 9999.

    Args:
        source_path: Path relative to the watched folder, matched against the patterns of the settings as a whole: the
            day may be in the name of a folder and the time in that of the file.
        created_at_utc: Creation time in the container's metadata; None if there is none.
        mtime_utc: When the file was last written, used as the end of the recording.
        duration_s: Duration of the recording.
        ingest: Patterns, and the time zone of cameras without one of their own.
        camera: Time zone and clock offset of the camera.

    Returns:
        The time in UTC, and `file_name`, `container` or `mtime`. The camera's clock offset corrects times that come
        from the camera's clock; it does not apply to mtime, which comes from another clock.
    """
    zone = ZoneInfo(camera.time_zone or ingest.time_zone)
    for pattern in ingest.captured_at_patterns:
        for match in re.finditer(pattern, source_path):
            named_time_utc = _parse_time(match.groupdict(), zone)
            if named_time_utc and (started_at_utc := _add_seconds(named_time_utc, camera.clock_offset_s)):
                return started_at_utc, "file_name"
    if created_at_utc and (started_at_utc := _add_seconds(created_at_utc, camera.clock_offset_s)):
        return started_at_utc, "container"
    started_at_utc = _add_seconds(mtime_utc, -duration_s)
    return (started_at_utc, "mtime") if started_at_utc else None


def _add_seconds(time_utc: datetime, seconds: float) -> datetime | None:
    """Add seconds to a time; None if the result is outside the years 1 to 9999."""
    try:
        return time_utc + timedelta(seconds=seconds)
    except OverflowError:
        return None


def _parse_time(groups: Mapping[str, str | None], zone: tzinfo) -> datetime | None:
    """Parse the named groups of a pattern as a time; None if they are none, such as a serial number or letters."""
    try:
        return _time_of_groups(groups, zone)
    except (ValueError, OverflowError):
        return None


def _time_of_groups(groups: Mapping[str, str | None], zone: tzinfo) -> datetime | None:
    if epoch := groups.get("epoch"):
        epoch_s = _parse_digits(epoch) / (1000 if len(epoch) > 11 else 1)
        if not _MIN_EPOCH_S <= epoch_s <= datetime.now(UTC).timestamp() + 86_400:
            return None
        return datetime.fromtimestamp(epoch_s, UTC)
    names = ("year", "month", "day", "hour", "minute", "second")
    numbers = {name: _parse_digits(groups.get(name)) for name in names}
    if half := groups.get("half"):
        if not 1 <= numbers["hour"] <= 12 or half.upper() not in ("AM", "PM"):
            return None
        numbers["hour"] = numbers["hour"] % 12 + (12 if half.upper() == "PM" else 0)
    fraction = groups.get("fraction") or ""
    fraction_s = _parse_digits(fraction) / 10 ** len(fraction)
    local = datetime(**numbers, tzinfo=UTC if groups.get("utc") else _parse_zone(groups.get("zone")) or zone)  # type: ignore[arg-type]
    return local.astimezone(UTC) + timedelta(seconds=fraction_s)


def _parse_digits(text: str | None) -> int:
    """Parse digits; 0 without any text.

    Raises:
        ValueError: The text has other characters.
    """
    if text and not text.isdecimal():
        raise ValueError(f"{text!r} is not a number")
    return int(text or 0)


def _parse_zone(text: str | None) -> tzinfo | None:
    """Parse a time zone in ISO 8601 notation, Z or ±hh:mm; None if there is none.

    Raises:
        ValueError: The text is no time zone.
    """
    if not text:
        return None
    if text.upper() in ("Z", "UTC"):
        return UTC
    if text[0] not in "+-":
        raise ValueError(f"{text!r} is not a time zone")
    digits = text[1:].replace(":", "").ljust(4, "0")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)
