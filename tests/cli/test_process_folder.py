"""The progress that the command process shows while it waits, and the outcomes that it prints."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetObservation, DagsterInstance, MetadataValue, OpExecutionContext, job, op
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickData, TickStatus
from dagster_shared.error import SerializableErrorInfo

from cli.process_folder import (
    FolderProgress,
    StageProgress,
    _failing_sensor_sentence,
    _read_stage_progress,
    seconds_by_recording,
)
from cli.stage_waits import Wait
from cv_assets.waits import NOTHING, WAITED, WAITING_FOR
from resources.storage.delta_store import Store
from resources.storage.stage_runs import StageRun, append_stage_runs
from sensors.notification_events import final_status_and_error
from sensors.recording_states import RecordingState


def test_progress_is_read_from_observations_and_other_observations_are_ignored() -> None:
    progress, cursors = FolderProgress(), dict[str, int]()

    @op
    def log_observations(context: OpExecutionContext) -> None:
        metadata = {"frames_done": 50, "frames_total": 200, "frames_per_s": 12.5, "eta_s": 12.0}
        preview = MetadataValue.md("![frame 50 of 200](data:image/jpeg;base64,/9g=)")
        context.log_event(AssetObservation("detections", partition="a", metadata={**metadata, "preview": preview}))
        context.log_event(AssetObservation("detections", partition="b", metadata={"freshness": "good", "rows": {}}))
        context.log_event(AssetObservation("other_asset", metadata=metadata))
        _read_stage_progress(context.instance, cursors, progress)
        assert progress.stages == {("a", "detections"): StageProgress(50, 200, 12.5)}
        context.log_event(AssetObservation("detections", partition="a", metadata={**metadata, "frames_done": 200}))
        _read_stage_progress(context.instance, cursors, progress)

    @job
    def observing_job() -> None:
        log_observations()

    with DagsterInstance.ephemeral() as instance:
        assert observing_job.execute_in_process(instance=instance).success
    assert progress.stages == {("a", "detections"): StageProgress(200, 200, 12.5)}


def test_waits_are_read_from_observations_until_they_or_their_runs_end() -> None:
    progress, cursors = FolderProgress(), dict[str, int]()

    @op
    def log_observations(context: OpExecutionContext) -> None:
        def log_wait(recording_id: str, text: str, waited_s: float) -> None:
            metadata: dict[str, Any] = {WAITING_FOR: text, WAITED: waited_s}
            context.log_event(AssetObservation("detections", partition=recording_id, metadata=metadata))

        log_wait("a", "cpu, which is held by process 7", 34.0)
        log_wait("b", "the network to be compiled", 2.0)
        now_s = time.time()
        _read_stage_progress(context.instance, cursors, progress)
        wait = progress.waits["a", "detections"]
        assert (wait.text, wait.run_id) == ("cpu, which is held by process 7", context.run_id)
        assert wait.since_s == pytest.approx(now_s - 34, abs=1)
        log_wait("a", NOTHING, 35.0)
        _read_stage_progress(context.instance, cursors, progress)
        assert progress.waits.keys() == {("b", "detections")}

    @job
    def observing_job() -> None:
        log_observations()

    with DagsterInstance.ephemeral() as instance:
        assert observing_job.execute_in_process(instance=instance).success
        progress.waits["", "The pipeline"] = Wait("the daemon to start", 0.0)
        _read_stage_progress(instance, cursors, progress)
    assert progress.waits.keys() == {("", "The pipeline")}  # the run has ended without the end of a wait


def test_the_seconds_of_a_recording_are_those_of_the_newest_attempt_at_every_stage(tmp_path: Path) -> None:
    store, noon = Store(tmp_path), datetime(2026, 1, 1, 12, tzinfo=UTC)

    def row(recording_id: str, stage: str, attempt: int, elapsed_s: float | None) -> StageRun:
        finished_at = noon + timedelta(minutes=attempt)
        return StageRun(
            recording_id, stage, attempt, "ok", f"run {attempt}", finished_at, "person", elapsed_s=elapsed_s
        )

    rows = [
        row("a", "tracks", 1, 50.0),
        row("a", "tracks", 2, 2.0),
        row("a", "crops", 1, 0.5),
        row("b", "crops", 1, None),
    ]
    append_stage_runs(store, [*rows, row("other", "crops", 1, 9.0)])
    assert seconds_by_recording(store, ["a", "b", "c"]) == {"a": 2.5, "b": 0.0}


@pytest.mark.parametrize(
    ("state", "status_and_error"),
    [
        (RecordingState("a", status="partial", error="The end is missing."), ("partial", "The end is missing.")),
        (RecordingState("a", status="quarantined", error="It crashed."), ("quarantined", "It crashed.")),
        (RecordingState("a", frozenset({"crops"}), status="failed", error="No space."), ("failed", "No space.")),
        (
            RecordingState("a", frozenset({"crops"}), status="ok"),
            ("failed", "crops did not finish: see the run's log in the UI."),
        ),
        (RecordingState("a"), ("failed", "The run did not finish: see the run's log in the UI.")),
        (None, ("failed", "The run did not finish: see the run's log in the UI.")),
    ],
    ids=["partial", "quarantined", "failed", "missing", "no attempt", "unknown"],
)
def test_a_final_recording_without_all_results_has_failed(
    state: RecordingState | None, status_and_error: tuple[str, str | None]
) -> None:
    assert final_status_and_error(state) == status_and_error


def test_only_failed_ticks_of_this_call_end_it(tmp_path: Path) -> None:
    state = InstigatorState(
        RemoteInstigatorOrigin(
            RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("cv_assets"), "x"), "reconciliation"
        ),
        InstigatorType.SENSOR,
        InstigatorStatus.RUNNING,
    )
    error = SerializableErrorInfo("The tick took too long.", [], "Error")
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.add_instigator_state(state)
        for timestamp in range(100, 104):
            tick = TickData(
                state.instigator_origin_id, state.name, InstigatorType.SENSOR, TickStatus.FAILURE, float(timestamp),
                error=error, selector_id=state.selector_id,
            )  # fmt: skip
            instance.create_tick(tick)
        assert _failing_sensor_sentence(instance, since_s=101.5) is None
        sentence = "The sensor reconciliation failed 4 times in a row: The tick took too long."
        assert _failing_sensor_sentence(instance, since_s=99.0) == sentence
