"""The clock that cameras burn into their pictures: parsing its text, and the start of a recording by its readings."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

_TIME = r"\D{0,12}?(\d\d|\d(?=\D))\D?(\d\d)\D?(\d\d)(?:\s?([AP])\.?\s?M(?![A-Z]))?"
_YEAR_FIRST = re.compile(rf"(20\d\d)\D?(\d\d)\D?(\d\d){_TIME}", re.IGNORECASE)
_YEAR_LAST = re.compile(rf"(\d\d)\D(\d\d)\D(20\d\d){_TIME}", re.IGNORECASE)
_CONFUSED = str.maketrans({"O": "0", "o": "0", "Q": "0", "D": "0", "I": "1", "l": "1", "|": "1", "Z": "2", "B": "8"})
_STEP_S = 1.0  # the clock shows whole seconds
_TOLERANCE_S = 0.3  # a frame is shown a little later than its time says
_MIN_READINGS, _MIN_SHARE = 3, 0.6


@dataclass(frozen=True)
class ClockReading:
    """The clock of one frame.

    Attributes:
        time_s: Media time of the frame.
        shown: Time that the clock shows, in whole seconds, without a time zone.
    """

    time_s: float
    shown: datetime


@dataclass(frozen=True)
class ClockStart:
    """The start of a recording by its camera's clock.

    Attributes:
        started_at: Time of the first frame, without a time zone.
        agreeing_count: Number of readings that agree.
        reading_count: Number of readings.
    """

    started_at: datetime
    agreeing_count: int
    reading_count: int


def parse_clock(text: str) -> datetime | None:
    """Parse a date with a time in text as a reader of pictures gives it; None if there is none.

    The year is first or last. If it is last, the day is before the month, except where only the reverse is a date.

    Args:
        text: The text, in which spaces may be lost and letters taken for digits.
    """
    for candidate in (text, text.translate(_CONFUSED)):
        if match := _YEAR_FIRST.search(candidate):
            year, month, day, hour, minute, second = map(int, match.groups()[:6])
            orders = [(year, month, day)]
        elif match := _YEAR_LAST.search(candidate):
            day, month, year, hour, minute, second = map(int, match.groups()[:6])
            orders = [(year, month, day), (year, day, month)]
        else:
            continue
        if (half := match[7]) and hour <= 12:  # the first hour of each half of the day is 12
            hour = hour % 12 + (12 if half.upper() == "P" else 0)
        for order in orders:
            try:
                return datetime(*order, hour, minute, second)
            except ValueError:
                continue
    return None


def find_start(readings: Sequence[ClockReading]) -> ClockStart | None:
    """Find the start with which most readings agree; None if fewer than 3 or fewer than 60 % of them do.

    A clock that shows whole seconds is up to a second behind: the true start is the latest of those that agree. Where
    most are equal, because the frames are whole seconds apart, it is theirs: so a single misread second does not count.
    """
    if not readings:
        return None
    starts = sorted(reading.shown - timedelta(seconds=reading.time_s) for reading in readings)
    window = timedelta(seconds=_STEP_S + _TOLERANCE_S)
    groups = [[other for other in starts if timedelta(0) <= other - start <= window] for start in starts]
    best = max(groups, key=len)
    if len(best) < _MIN_READINGS or len(best) < _MIN_SHARE * len(readings):
        return None
    common, count = Counter(best).most_common(1)[0]
    started_at = common if count >= _MIN_SHARE * len(best) else best[-1]
    return ClockStart(started_at, len(best), len(readings))
