"""The status of whole recordings."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from cv_assets.recording_status import RecordingStatus, is_news

STAGES = ("recordings", "normalized_video", "tracks")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def row(stage: str, status: str, error: str | None = None, minutes: int = 0) -> dict[str, Any]:
    finished_at_utc = NOON + timedelta(minutes=minutes)
    return {"stage": stage, "status": status, "error": error, "finished_at_utc": finished_at_utc}


def test_the_most_severe_status_counts_and_the_newest_of_equal_ones() -> None:
    assert RecordingStatus.of([]) == RecordingStatus()
    partial = row("normalized_video", "partial", "A part is missing.")
    assert RecordingStatus.of([row("recordings", "ok"), partial]) == RecordingStatus(
        "partial", "A part is missing.", None, 2
    )
    failed = [row("scenes", "failed", "first"), row("tracks", "failed", "second", minutes=1)]
    assert RecordingStatus.of([partial, *failed]) == RecordingStatus("failed", "second", "tracks", 1)


def test_a_recording_without_problems_is_news_once_when_all_stages_are_done() -> None:
    done = [RecordingStatus(done_stage_count=count) for count in range(4)]
    assert [is_news(before, after, STAGES) for before, after in itertools.pairwise(done)] == [
        False,
        False,
        True,
    ]
    assert not is_news(done[3], done[3], STAGES)
    failed = RecordingStatus("failed", "No memory.", "tracks", 2)
    assert is_news(done[2], failed, STAGES) and is_news(failed, done[2], STAGES)
    assert not is_news(failed, failed, STAGES)


def test_an_observation_has_every_key_because_the_ui_keeps_older_ones() -> None:
    observations = [
        RecordingStatus("failed", "No memory.", "tracks", 2).observation("r", STAGES),
        RecordingStatus(done_stage_count=3).observation("r", STAGES),
    ]
    failed, ok = ({key: value.value for key, value in event.metadata.items()} for event in observations)
    assert failed == {"status": "failed", "error": "No memory.", "failed stage": "tracks", "stages done": "2 of 3"}
    assert ok == {"status": "ok", "error": "none", "failed stage": "none", "stages done": "3 of 3"}
