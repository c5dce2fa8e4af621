"""The clock in the picture: its text, and the start of the recording by several readings."""

from datetime import datetime, timedelta

import pytest

from resources.camera_clock import ClockReading, find_start, parse_clock

NINE = datetime(2026, 3, 1, 9, 0, 5)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-03-01 09:00:05", NINE),
        ("CAM 03 2026-03-0109:00:05", NINE),  # the space is often lost
        ("01/03/2026 Sun 09:00:05", NINE),
        ("2O26-O3-O1 O9:OO:O5", NINE),
        ("03/25/2026 09.00.05", datetime(2026, 3, 25, 9, 0, 5)),
        ("20260301 090005", NINE),
        ("03/25/2026 09:00:05 PM", datetime(2026, 3, 25, 21, 0, 5)),
        ("03-25-2026 9:00:05p.m.", datetime(2026, 3, 25, 21, 0, 5)),
        ("2026-03-01 12:00:05 AM", datetime(2026, 3, 1, 0, 0, 5)),
        ("2026-03-01 21:00:05 AMSTERDAM", datetime(2026, 3, 1, 21, 0, 5)),
        ("2026-03-01 25:00:05", None),
        ("09:00:05", None),
        ("GATE 4", None),
    ],
)
def test_dates_and_times_are_parsed_as_cameras_write_them(text: str, time: datetime | None) -> None:
    assert parse_clock(text) == time


def test_the_start_is_the_latest_with_which_the_readings_agree() -> None:
    start = datetime(2026, 3, 1, 9, 0, 5, 600_000)
    readings = [
        ClockReading(time_s, (start + timedelta(seconds=time_s)).replace(microsecond=0))
        for time_s in (0, 1.5, 3.2, 7.4)
    ]
    found = find_start([*readings, ClockReading(2, NINE + timedelta(hours=8))])
    assert found is not None
    assert abs((found.started_at - start).total_seconds()) < 0.25
    assert (found.agreeing_count, found.reading_count) == (4, 5)


def test_a_misread_second_does_not_change_the_start() -> None:
    readings = [ClockReading(5.0 * number, NINE + timedelta(seconds=5 * number)) for number in range(4)]
    found = find_start([*readings, ClockReading(20, NINE + timedelta(seconds=21))])
    assert found is not None and found.started_at == NINE


def test_readings_that_do_not_agree_give_no_start() -> None:
    readings = [ClockReading(0, NINE + timedelta(hours=hour)) for hour in range(5)]
    assert find_start(readings) is None
    assert find_start(readings[:1] * 2) is None
    assert find_start([]) is None
