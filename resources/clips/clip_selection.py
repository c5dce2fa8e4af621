"""Which frames a clip has, and the captions of what happens in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np

from resources.clips.clip_writer import Chapter
from resources.errors import PipelineError
from resources.exports.annotations import RecordingAnnotations

_VERBS = {"enter": "enters", "exit": "leaves", "in": "crosses in", "out": "crosses out"}
_CUE_S = 2.0


@dataclass(frozen=True)
class Stretch:
    """The frames of a clip.

    Attributes:
        first_frame: Index of the first frame.
        last_frame: Index of the last frame.
        name: What the clip shows, for the name of its file.
    """

    first_frame: int
    last_frame: int
    name: str


@dataclass(frozen=True)
class Caption:
    """A text over some time of a clip; seconds from its start."""

    start_s: float
    end_s: float
    text: str


def frame_at(times_s: np.ndarray, time_s: float) -> int:
    """Index of the frame that is shown at a time; the first or last one outside the recording.

    Args:
        times_s: Time of each frame, ascending, shape (n,).
        time_s: The time.
    """
    return int(np.clip(np.searchsorted(times_s, time_s + 1e-6, side="right") - 1, 0, len(times_s) - 1))


def parse_time(text: str, started_at_utc: datetime | None) -> float:
    """Seconds from the start of a recording.

    Args:
        text: Seconds, minutes and seconds as in 1:02.5, hours as in 1:00:00, or a wall-clock time in ISO 8601, which is
            UTC without an offset.
        started_at_utc: Wall clock of the first frame; None if it is not known.

    Raises:
        PipelineError: The text is no time, or is a wall-clock time and the recording has none.
    """
    if match := re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", text.strip()):
        hours, minutes, seconds = match.groups()
        return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise PipelineError(f"{text!r} is no time: give seconds, 1:02.5, or 2026-03-01 08:00:05.") from error
    if started_at_utc is None:
        raise PipelineError(f"{text!r} is a wall-clock time, and the recording's start is not known: give seconds.")
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - started_at_utc) / timedelta(seconds=1)


def stretch_between(recording: RecordingAnnotations, start_s: float | None, end_s: float | None) -> Stretch:
    """The frames shown between two times; None is the start or the end of the recording.

    Raises:
        PipelineError: The times are in the wrong order, or lie outside the recording.
    """
    times_s = recording.times_s
    if start_s is not None and end_s is not None and start_s > end_s:
        raise PipelineError(
            f"{recording.recording_id}: the clip starts at {start_s:g} s, after its end at {end_s:g} s."
        )
    after_s = float(times_s[-1]) + float(1 / recording.rate_fps)
    if (start_s or 0.0) >= after_s or (end_s is not None and end_s < 0):
        if end_s is not None and end_s < 0:
            place = f"ends {-end_s:g} s before the recording starts"
        else:
            place = f"starts at {start_s:g} s, and the recording ends at {after_s:g} s"
        raise PipelineError(
            f"{recording.recording_id}: the clip lies outside the recording: it {place}. "
            "A wall-clock time without an offset is UTC."
        )
    first = 0 if start_s is None else frame_at(times_s, start_s)
    last = len(times_s) - 1 if end_s is None else frame_at(times_s, end_s)
    return Stretch(first, last, f"{times_s[first]:.0f}s")


def stretch_of_track(recording: RecordingAnnotations, number: int, context_s: float) -> Stretch:
    """The frames of a track, and some time before and after.

    Raises:
        PipelineError: The recording has no such track.
    """
    boxes = recording.tracks().get(number)
    if not boxes:
        raise PipelineError(f"The recording {recording.recording_id} has no track {number}.")
    times_s = recording.times_s
    first = frame_at(times_s, times_s[boxes[0].frame_index] - context_s)
    last = frame_at(times_s, times_s[boxes[-1].frame_index] + context_s)
    return Stretch(first, last, f"{boxes[0].class_name}-{number}")


def stretch_of_event(
    results: duckdb.DuckDBPyConnection, recording: RecordingAnnotations, number: int, context_s: float
) -> Stretch:
    """Some time around a zone or line event.

    Args:
        results: The published results.
        recording: The recording.
        number: Number of the event in the recording, from 1 in order of time and track.
        context_s: Time before and after it.

    Raises:
        PipelineError: The recording has no such event.
    """
    events = results.execute(
        """SELECT time_s, event, coalesce(line_name, zone_name) FROM zone_events WHERE recording_id = $id
        ORDER BY time_s, track_id, event_index""",
        {"id": recording.recording_id},
    ).fetchall()
    if not 1 <= number <= len(events):
        raise PipelineError(
            f"The recording {recording.recording_id} has {len(events)} events, and none number {number}."
        )
    time_s, event, place = events[number - 1]
    times_s = recording.times_s
    return Stretch(
        frame_at(times_s, time_s - context_s), frame_at(times_s, time_s + context_s), f"{place}-{event}-{number}"
    )


def read_captions(
    results: duckdb.DuckDBPyConnection, recording: RecordingAnnotations, stretch: Stretch
) -> tuple[list[Caption], list[Chapter]]:
    """Captions of the events and objects in a clip, and a chapter from each event to the next.

    Args:
        results: The published results.
        recording: The recording.
        stretch: The frames of the clip.
    """
    frame_s = float(1 / recording.rate_fps)
    end_s = (stretch.last_frame - stretch.first_frame + 1) * frame_s
    values = {"id": recording.recording_id, "first": stretch.first_frame, "last": stretch.last_frame}
    events = results.execute(
        """SELECT frame_index, class_name, track_id, event, coalesce(line_name, zone_name) FROM zone_events
        WHERE recording_id = $id AND frame_index BETWEEN $first AND $last ORDER BY frame_index, track_id""",
        values,
    ).fetchall()
    cues = [
        ((frame - stretch.first_frame) * frame_s, f"{name} {track} {_VERBS[event]}: {place}")
        for frame, name, track, event, place in events
    ]
    if not events:
        objects = results.execute(
            """SELECT first_frame_index, class_name, track_id FROM tracks
            WHERE recording_id = $id AND first_frame_index <= $last AND last_frame_index >= $first
            ORDER BY first_frame_index, track_id""",
            values,
        ).fetchall()
        cues = [(max(0, frame - stretch.first_frame) * frame_s, f"{name} {track}") for frame, name, track in objects]
    captions = [Caption(start_s, min(end_s, start_s + _CUE_S), text) for start_s, text in cues]
    starts = [0.0, *(start_s for start_s, _ in cues if start_s > 0)]
    titles = dict(reversed(cues))  # of cues at once, the first names the chapter
    chapters = [
        Chapter(start_s, next_s, titles.get(start_s, "start"))
        for start_s, next_s in zip(starts, (*starts[1:], end_s), strict=True)
        if next_s > start_s
    ]
    return captions, chapters


def format_srt(captions: Sequence[Caption]) -> str:
    """Captions as SubRip."""
    return "\n".join(
        f"{number}\n{_clock(caption.start_s, ',')} --> {_clock(caption.end_s, ',')}\n{caption.text}\n"
        for number, caption in enumerate(captions, 1)
    )


def format_vtt(captions: Sequence[Caption]) -> str:
    """Captions as WebVTT."""
    cues = "".join(
        f"\n{_clock(caption.start_s, '.')} --> {_clock(caption.end_s, '.')}\n{_escape(caption.text)}\n"
        for caption in captions
    )
    return f"WEBVTT\n{cues}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("-->", "->")


def _clock(time_s: float, separator: str) -> str:
    milliseconds = round(1000 * time_s)
    return (
        f"{milliseconds // 3_600_000:02d}:{milliseconds // 60_000 % 60:02d}:{milliseconds // 1000 % 60:02d}"
        f"{separator}{milliseconds % 1000:03d}"
    )
