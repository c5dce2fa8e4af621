from dataclasses import replace
from pathlib import Path

import pytest

from cv_assets.asset_graph import AssetGraph
from cv_assets.stage_asset import ANALYSIS, INGEST
from resources.config.operations_config import BatchSettings
from resources.config.settings import Settings
from sensors.recording_states import RecordingState, RecordingStates
from sensors.run_planner import PlannedRun, plan_runs, select_recordings

GRAPH = AssetGraph.build(
    Settings(watched_folder=Path("recordings"), batches=BatchSettings(max_recordings=4, max_footage_minutes=10))
)
ALL_ASSETS = frozenset((*GRAPH.assets_of(INGEST), *GRAPH.assets_of(ANALYSIS)))
ANALYSIS_ASSETS = frozenset(GRAPH.assets_of(ANALYSIS))


def new(name: str) -> RecordingState:
    return RecordingState(name, missing=ALL_ASSETS)


def ingested(name: str, duration_s: float = 60.0) -> RecordingState:
    return RecordingState(name, missing=ANALYSIS_ASSETS, duration_s=duration_s)


def plan(*states: RecordingState, queued: dict[str, int] | None = None) -> list[tuple[str, str, int]]:
    """Job, recordings and attempt of each planned run, at second 1000 of 1970."""
    runs = plan_runs(RecordingStates(states, queued or {}), GRAPH, now=1000.0)
    return [(run.job_name, "".join(run.recording_ids), run.attempt) for run in runs]


def test_new_recordings_are_ingested_in_batches() -> None:
    assert plan(*map(new, "abcdef")) == [(INGEST, "abcd", 1), (INGEST, "ef", 1)]


def test_ingested_recordings_are_analysed_in_batches_of_footage() -> None:
    assert plan(*(ingested(name, 240) for name in "abc")) == [(ANALYSIS, "ab", 1)]
    assert plan(ingested("a", 5000), ingested("b", 5000)) == [(ANALYSIS, "a", 1)]


def test_ingest_is_planned_before_analysis() -> None:
    assert plan(ingested("a"), new("b")) == [(INGEST, "b", 1), (ANALYSIS, "a", 1)]


def test_a_batch_contains_only_consecutive_partitions() -> None:
    complete = RecordingState("x")
    assert plan(new("a"), complete, new("b")) == [(INGEST, "a", 1), (INGEST, "b", 1)]


def test_a_selection_of_recordings_keeps_batches_consecutive() -> None:
    states = select_recordings(RecordingStates([new(name) for name in "abcd"]), {"a", "c", "d"})
    planned = plan_runs(states, GRAPH, now=1000.0)
    assert [run.recording_ids for run in planned] == [("a",), ("c", "d")]


def test_no_run_is_planned_for_complete_and_rejected_recordings() -> None:
    rejected = RecordingState("r", missing=ALL_ASSETS, failed=ALL_ASSETS, attempt_count=1, is_rejected=True)
    assert plan(RecordingState("x"), rejected) == []
    assert rejected.is_done(2)


def test_no_run_is_planned_for_recordings_in_flight() -> None:
    in_flight = replace(new("a"), is_in_flight=True)
    assert plan(in_flight) == []
    assert not in_flight.is_done(2)


def test_a_failed_recording_is_retried_once_in_a_run_of_its_own() -> None:
    failed = RecordingState("b", missing=ALL_ASSETS, failed=frozenset({"recordings"}), attempt_count=1)
    assert plan(new("a"), failed, new("c")) == [(INGEST, "a", 1), (INGEST, "c", 1)]
    assert plan(failed) == [(INGEST, "b", 2)]
    failed_twice = replace(failed, attempt_count=2)
    assert plan(failed_twice) == []
    assert failed_twice.is_done(2)


def test_a_stopped_recording_is_not_retried_before_its_time() -> None:
    stopped = RecordingState(
        "a", missing=ANALYSIS_ASSETS, failed=frozenset({"detections"}), attempt_count=0, retry_at_s=1001.0
    )
    assert plan(stopped) == []
    assert not stopped.is_done(2)
    assert plan(replace(stopped, retry_at_s=999.0)) == [(ANALYSIS, "a", 1)]


def test_files_are_compared_in_a_run_of_the_first_stage_alone() -> None:
    complete = RecordingState("a", has_unhashed_files=True)
    rejected = RecordingState("b", missing=ALL_ASSETS - {"recordings"}, is_rejected=True, has_unhashed_files=True)
    runs = plan_runs(RecordingStates([complete, rejected, new("c")]), GRAPH, now=1000.0)
    assert [(run.asset_names, run.recording_ids) for run in runs] == [
        (("recordings",), ("a", "b")),
        (GRAPH.assets_of(INGEST), ("c",)),
    ]
    # A recording that is not ingested yet is ingested, which compares its files, too.
    runs = plan_runs(RecordingStates([replace(new("a"), has_unhashed_files=True)]), GRAPH, now=1000.0)
    assert [run.asset_names for run in runs] == [GRAPH.assets_of(INGEST)]
    assert plan_runs(select_recordings(RecordingStates([complete]), {"c"}), GRAPH, now=1000.0) == []


def test_a_comparison_is_tried_as_often_as_any_stage() -> None:
    failed = RecordingState(
        "a", missing=frozenset({"recordings"}), failed=frozenset({"recordings"}), attempt_count=1,
        has_unhashed_files=True,
    )  # fmt: skip
    assert plan(failed) == [(INGEST, "a", 2)]
    assert plan(replace(failed, attempt_count=2)) == []
    assert replace(failed, attempt_count=2).is_done(2)
    other_stage_failed = replace(failed, missing=frozenset(), failed=frozenset({"detections"}), attempt_count=2)
    assert not other_stage_failed.is_done(2)


def test_no_further_runs_are_planned_while_enough_are_queued() -> None:
    assert plan(ingested("a"), queued={ANALYSIS: 1}) == []
    assert plan(new("a"), ingested("b"), queued={INGEST: 2}) == [(ANALYSIS, "b", 1)]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ({"class_minutes"}, ("summaries", "class_minutes", "heatmap_cells", "class_presence")),
        (
            {"zone_events"},
            (
                *("zone_events", "zone_seconds", "zone_presence", "line_trips", "ground_tracks"),
                *("zone_minutes", "line_minutes", "origin_destinations"),
            ),
        ),
        ({"crops"}, ("crops",)),
        ({"tracks"}, tuple(name for name in GRAPH.assets_of(ANALYSIS) if name != "detections")),
        ({"detections"}, GRAPH.assets_of(ANALYSIS)),
    ],
)
def test_a_run_materializes_the_assets_downstream_of_a_missing_one(
    missing: set[str], expected: tuple[str, ...]
) -> None:
    assert GRAPH.with_downstream(frozenset(missing), ANALYSIS) == expected


def test_one_recording_is_a_partition_and_several_are_a_partition_range() -> None:
    assert PlannedRun(INGEST, ("recordings",), ("a",)).tags == {"dagster/partition": "a"}
    assert PlannedRun(INGEST, ("recordings",), ("a", "b", "c"), 2).tags == {
        "dagster/asset_partition_range_start": "a",
        "dagster/asset_partition_range_end": "c",
        "cv_assets/attempt": "2",
    }
