"""When a recording was taken: from its path, its container or its file's time of last change."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from resources.settings import CameraSettings, IntakeSettings

_EARLIEST_EPOCH_S = 946_684_800  # the year 2000: fewer seconds are a serial number


def started_at(
    source_path: str,
    created_at_utc: datetime | None,
    mtime_utc: datetime,
    duration_s: float,
    intake: IntakeSettings,
    camera: CameraSettings,
) -> tuple[datetime, str]:
    """When the recording began, and where that is known from.

    Args:
        source_path: Path relative to the watched folder, searched for the patterns of the settings: folders may hold
            the day and the file's name the time.
        created_at_utc: The container's own creation time, if it has one.
        mtime_utc: When the file was last written, taken for the end of the recording.
        duration_s: Length of the recording.
        intake: Patterns, and the time zone of cameras that have none of their own.
        camera: The camera's time zone and by how much its clock is off.

    Returns:
        The time in UTC and `file_name`, `container` or `mtime`. What a camera's clock said is corrected by the camera's
        offset; the file's time of last change, written by another clock, is not.
    """
    corrected = timedelta(seconds=camera.clock_offset_s)
    zone = ZoneInfo(camera.time_zone or intake.time_zone)
    for pattern in intake.captured_at_patterns:
        for match in re.finditer(pattern, source_path):
            if named := _time_of(match.groupdict(), zone):
                return named + corrected, "file_name"
    if created_at_utc is not None:
        return created_at_utc + corrected, "container"
    return mtime_utc - timedelta(seconds=duration_s), "mtime"


def on_the_wall(started_at_utc: datetime | None, since_start_s: np.ndarray) -> pa.Array:
    """Times on the wall clock.

    Args:
        started_at_utc: When the recording's first frame was taken; None where nobody knows.
        since_start_s: Seconds since then, shape (n,).

    Returns:
        n timestamps in microseconds and UTC, or NULLs.
    """
    kind = pa.timestamp("us", tz="UTC")
    if started_at_utc is None:
        return pa.nulls(len(since_start_s), kind)
    started = np.datetime64(started_at_utc.astimezone(UTC).replace(tzinfo=None), "us")
    return pa.array(started + np.round(since_start_s * 1e6).astype("timedelta64[us]")).cast(kind)


def with_times(rows: pa.Table, started_at_utc: datetime | None) -> pa.Table:
    """Rows of one recording, their captured_at_utc counted by time_s from its start.

    A stage takes the start from the recording's row and not the times from the rows that it reads: these may be about
    to be set anew.
    """
    column = rows.schema.get_field_index("captured_at_utc")
    times = on_the_wall(started_at_utc, rows["time_s"].to_numpy())
    return rows.set_column(column, rows.schema.field(column), times)


def _time_of(parts: Mapping[str, str | None], zone: tzinfo) -> datetime | None:
    """The time that a pattern's named groups tell; None for digits that are no time, such as a serial number."""
    if epoch := parts.get("epoch"):
        seconds = int(epoch) / (1000 if len(epoch) > 11 else 1)
        if not _EARLIEST_EPOCH_S <= seconds <= datetime.now(UTC).timestamp() + 86_400:
            return None
        return datetime.fromtimestamp(seconds, UTC)
    numbers = {name: int(parts.get(name) or 0) for name in ("year", "month", "day", "hour", "minute", "second")}
    if half := parts.get("half"):
        if not 1 <= numbers["hour"] <= 12:
            return None
        numbers["hour"] = numbers["hour"] % 12 + (12 if half.upper() == "PM" else 0)
    fraction_s = float(f"0.{parts.get('fraction') or 0}")
    try:
        local = datetime(**numbers, tzinfo=UTC if parts.get("utc") else _zone_of(parts.get("zone")) or zone)  # type: ignore[arg-type]
    except ValueError:
        return None
    return local.astimezone(UTC) + timedelta(seconds=fraction_s)


def _zone_of(text: str | None) -> tzinfo | None:
    """A zone as ISO 8601 writes it, Z or ±hh:mm; None where there is none."""
    if not text:
        return None
    if text.upper() in ("Z", "UTC"):
        return UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)
