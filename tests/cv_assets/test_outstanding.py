from dataclasses import replace

import pytest

from cv_assets.outstanding import Outstanding, PlannedRun, RecordingState, plan_runs
from cv_assets.stage import ANALYSIS, INGEST
from cv_assets.walk import assets_of, with_downstream
from resources.settings import BatchSettings

ALL = frozenset((*assets_of(INGEST), *assets_of(ANALYSIS)))
AFTER_INGEST = frozenset(assets_of(ANALYSIS))
BATCHES = BatchSettings(max_recordings=4, max_footage_minutes=10)


def new(name: str) -> RecordingState:
    return RecordingState(name, missing=ALL)


def ingested(name: str, footage_s: float = 60.0) -> RecordingState:
    return RecordingState(name, missing=AFTER_INGEST, footage_s=footage_s)


def plan(*states: RecordingState, waiting: dict[str, int] | None = None) -> list[tuple[str, str, int]]:
    runs = plan_runs(Outstanding(states, waiting or {}), BATCHES, now=1000.0)
    return [(run.job_name, "".join(run.recording_ids), run.attempt) for run in runs]


def test_new_recordings_are_ingested_in_batches() -> None:
    assert plan(*map(new, "abcdef")) == [(INGEST, "abcd", 1), (INGEST, "ef", 1)]


def test_ingested_recordings_are_analysed_in_batches_of_footage() -> None:
    assert plan(*(ingested(name, 240) for name in "abc")) == [(ANALYSIS, "ab", 1)]
    assert plan(ingested("a", 5000), ingested("b", 5000)) == [(ANALYSIS, "a", 1)]


def test_ingest_goes_ahead() -> None:
    assert plan(ingested("a"), new("b")) == [(INGEST, "b", 1), (ANALYSIS, "a", 1)]


def test_a_batch_never_spans_a_recording_that_needs_nothing() -> None:
    done = RecordingState("x")
    assert plan(new("a"), done, new("b")) == [(INGEST, "a", 1), (INGEST, "b", 1)]


def test_complete_and_rejected_recordings_are_left_alone() -> None:
    rejected = RecordingState("r", missing=ALL, failed=ALL, attempts=1, is_rejected=True)
    assert plan(RecordingState("x"), rejected) == []
    assert rejected.is_done(2)


def test_recordings_in_flight_are_left_alone() -> None:
    flying = replace(new("a"), is_in_flight=True)
    assert plan(flying) == []
    assert not flying.is_done(2)


def test_what_failed_is_tried_once_more_alone() -> None:
    failed = RecordingState("b", missing=ALL, failed=frozenset({"recordings"}), attempts=1)
    assert plan(new("a"), failed, new("c")) == [(INGEST, "a", 1), (INGEST, "c", 1)]
    assert plan(failed) == [(INGEST, "b", 2)]
    given_up = replace(failed, attempts=2)
    assert plan(given_up) == []
    assert given_up.is_done(2)


def test_what_a_person_must_mend_waits() -> None:
    stopped = RecordingState("a", missing=AFTER_INGEST, failed=frozenset({"detections"}), attempts=0, retry_at=1001.0)
    assert plan(stopped) == []
    assert not stopped.is_done(2)
    assert plan(replace(stopped, retry_at=999.0)) == [(ANALYSIS, "a", 1)]


def test_no_more_runs_are_planned_while_enough_wait() -> None:
    assert plan(ingested("a"), waiting={ANALYSIS: 1}) == []
    assert plan(new("a"), ingested("b"), waiting={INGEST: 2}) == [(ANALYSIS, "b", 1)]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ({"class_minutes"}, ("summaries", "class_minutes", "heatmap_cells", "recording_hours")),
        (
            {"zone_events"},
            (
                *("zone_events", "zone_seconds", "line_trips", "ground_tracks"),
                *("zone_minutes", "line_minutes", "origin_destinations"),
            ),
        ),
        ({"crops"}, ("crops",)),
        ({"tracks"}, tuple(name for name in assets_of(ANALYSIS) if name != "detections")),
        ({"detections"}, assets_of(ANALYSIS)),
    ],
)
def test_what_is_missing_brings_what_is_made_from_it(missing: set[str], expected: tuple[str, ...]) -> None:
    assert with_downstream(frozenset(missing), ANALYSIS) == expected


def test_one_recording_is_a_partition_and_several_are_a_range() -> None:
    assert PlannedRun(INGEST, ("recordings",), ("a",)).tags == {"dagster/partition": "a"}
    assert PlannedRun(INGEST, ("recordings",), ("a", "b", "c"), 2).tags == {
        "dagster/asset_partition_range_start": "a",
        "dagster/asset_partition_range_end": "c",
        "cv_assets/attempt": "2",
    }
