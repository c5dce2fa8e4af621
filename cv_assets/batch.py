"""The loop over the recordings of one run: a failed recording does not affect the others.

A run contains one recording or a range of them. The recordings that succeed are materialized; if any fails, the step
fails at the end and names the failed recordings.
"""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetExecutionContext,
    DagsterEvent,
    DagsterExecutionInterruptedError,
    DataVersion,
    Failure,
    JsonMetadataValue,
    MaterializeResult,
    MetadataValue,
    RunsFilter,
)

from cv_assets.camera_settings import CameraObserver, cameras_of
from cv_assets.crash_marker import crash_marker
from cv_assets.data_versions import DataVersions
from cv_assets.media_status import media_status
from cv_assets.stage_metadata import Metadata, progress_reporter
from resources.dagster_instance.dagster_names import UNFINISHED_STATUSES
from resources.dagster_instance.private_api import add_asset_metadata
from resources.errors import PipelineError, RecordingError, RunFencedError
from resources.media.progress import ReportProgress
from resources.schema.columns import Table
from resources.schema.recording_tables import RECORDINGS
from resources.schema.row_checks import broken_rules
from resources.storage.delta_store import Store
from resources.storage.disk import check_data_folder, disk_problem
from resources.storage.results_database import publish

CHECK_NAME = "keys_and_ranges"
ATTEMPT_TAG = "cv_assets/attempt"
STOPPED_TAG = "cv_assets/stopped"
"""Tag of a run that stopped for a reason unrelated to its recordings; the run does not count as an attempt."""

_MIN_FREE_BYTES = 100_000_000  # runs stop before Dagster's own storage has no space left
_FAILED_KEY = "failed_recordings"
_CLOCK = ("started_at_utc", "started_at_source")

ProcessRecording = Callable[[str, ReportProgress], Mapping[str, Metadata]]
"""Processes one recording: takes its id and a progress callback; returns metadata by asset name."""
CheckRecordings = Callable[[Store, Sequence[str]], AssetCheckResult]
"""Checks the stored results of some recordings."""


@dataclass(frozen=True)
class Stage:
    """One stage, with the assets that it writes.

    Attributes:
        name: Name of the stage and of its Dagster step.
        tables: Tables that the stage writes.
        files: Names of assets that are files, not tables.
        runs_on_rejected: Whether the stage reads the source file, and therefore also runs on rejected recordings.
        check: A further check of the stored results.
    """

    name: str
    tables: tuple[Table, ...]
    files: tuple[str, ...] = ()
    runs_on_rejected: bool = False
    check: CheckRecordings | None = None

    @property
    def asset_names(self) -> tuple[str, ...]:
        """All assets of the stage."""
        return (*self.files, *(table.name for table in self.tables))


@dataclass
class _BatchResult:
    """Results of the recordings of a run.

    Attributes:
        metadata: For each successful recording, metadata by asset name.
        failed: For each failed recording, the reason.
        stop: The error that stopped the whole run, such as a full disk; None if none did.
    """

    metadata: dict[str, dict[str, Metadata]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stop: PipelineError | None = None


def process_batch(
    stage: Stage,
    context: AssetExecutionContext,
    store: Store,
    observer: CameraObserver,
    process: ProcessRecording,
) -> Iterator[MaterializeResult[Any] | AssetCheckResult]:
    """Process every recording of a run, then publish, check and report.

    Args:
        stage: The stage.
        context: The step's context.
        store: The tables.
        observer: Records the settings of single cameras.
        process: Processes one recording.

    Yields:
        The materializations and check results of the stage's assets.

    Raises:
        Failure: Some recordings failed, or the run stopped; the description names the recordings and reasons.
        RunFencedError: The run is no longer active.
    """
    recording_ids = _recording_ids(context)
    if not stage.runs_on_rejected:
        process = _fail_on_rejected(process, store, recording_ids)
    with (
        store.fenced_by(lambda: _check_run_is_active(context)),
        crash_marker(store, context.run.run_id, stage.name) as mark_recording,
    ):
        columns = ["recording_id", "failed_stage", "duration_s_from_content", *_CLOCK]
        rows = store.read(RECORDINGS, recording_ids, columns).to_pylist()
        versions = DataVersions.read(context, stage.asset_names, cameras_of(store, recording_ids), observer)
        result = _process_each(stage, context, store, process, recording_ids, rows, mark_recording)
        try:
            _update_clocks(stage, store, rows)
            publish(store)
        except PipelineError as error:
            result.stop = result.stop or error
        if result.stop:
            context.instance.add_run_tags(context.run.run_id, {STOPPED_TAG: "true"})
        _check_run_is_active(context)
        if result.failed or result.stop:
            for recording_id, metadata in result.metadata.items():
                versions.log_materialization(context, recording_id, metadata)
            # Without these results the UI would show the checks as not executed, as if they had failed.
            yield from _check_rows(stage, store, list(result.metadata))
            raise Failure(
                _describe_failures(stage.name, len(recording_ids), result),
                metadata={_FAILED_KEY: MetadataValue.json(list(result.failed))},
                allow_retries=False,
            )
        yield from _materialize(stage, context, store, result.metadata, versions)
        yield from _check_rows(stage, store, list(result.metadata))


def _process_each(
    stage: Stage,
    context: AssetExecutionContext,
    store: Store,
    process: ProcessRecording,
    recording_ids: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    mark_recording: Callable[[str], None],
) -> _BatchResult:
    failed_before = {row["recording_id"] for row in rows if row["failed_stage"] in (stage.name, *stage.asset_names)}
    durations_s = {row["recording_id"]: row["duration_s_from_content"] for row in rows}
    result = _BatchResult()
    for recording_id in recording_ids:
        try:
            check_data_folder(store.data_folder, _MIN_FREE_BYTES)
            mark_recording(recording_id)
            result.metadata[recording_id] = _process_one(
                stage, context, store, process, recording_id, durations_s.get(recording_id)
            )
            if recording_id in failed_before:
                status, error = media_status(store.read(RECORDINGS, [recording_id]).to_pylist()[0])
                store.update(RECORDINGS, recording_id, {"status": status, "error": error, "failed_stage": None})
        except RecordingError as error:
            result.failed[recording_id] = str(error)
        except PipelineError as error:
            result.stop = error
            break
        except DagsterExecutionInterruptedError:
            context.instance.add_run_tags(context.run.run_id, {STOPPED_TAG: "true"})
            raise
    return result


def _process_one(
    stage: Stage,
    context: AssetExecutionContext,
    store: Store,
    process: ProcessRecording,
    recording_id: str,
    duration_s: float | None,
) -> dict[str, Metadata]:
    """Process one recording.

    Args:
        stage: The stage.
        context: The step's context.
        store: The tables.
        process: Processes one recording.
        recording_id: The recording.
        duration_s: Duration of the recording; None if unknown.

    Returns:
        Metadata by asset name, including the elapsed seconds.

    Raises:
        RecordingError: The recording failed; the reason is logged and stored in its row.
        PipelineError: No recording can be processed until a person has solved the problem.
    """
    started_s = time.monotonic()
    try:
        metadata = process(recording_id, progress_reporter(context, stage.asset_names[0], recording_id))
    except (PipelineError, RunFencedError):
        raise
    except Exception as error:
        # Any error of one recording is caught, so that the other recordings of the batch are still processed.
        if sentence := disk_problem(error, store.data_folder):
            raise PipelineError(sentence) from error
        sentence = str(error)
        if not isinstance(error, RecordingError):
            sentence = f"Unexpected {type(error).__name__}: {error}"
            context.log.error(f"{recording_id}: {''.join(traceback.format_exception(error))}")
        context.log.error(f"{recording_id}: {sentence}")
        row = store.read(RECORDINGS, [recording_id], ["status"]).to_pylist()
        if row and row[0]["status"] != "rejected":
            values = {"status": "failed", "error": sentence, "failed_stage": stage.name}
            store.update(RECORDINGS, recording_id, values)
        raise RecordingError(sentence) from error
    elapsed_s = round(time.monotonic() - started_s, 3)
    timing: dict[str, float] = {"seconds": elapsed_s}
    duration_s = next((values["duration_s"] for values in metadata.values() if "duration_s" in values), duration_s)
    if duration_s:
        timing["realtime_factor"] = round(duration_s / max(elapsed_s, 1e-3), 2)
    return {name: {**values, **timing} for name, values in metadata.items()}


def _update_clocks(stage: Stage, store: Store, rows_before: Sequence[Mapping[str, Any]]) -> None:
    """Correct the wall-clock times of recordings whose clock was changed while the stage ran."""
    if not stage.tables:
        return
    clocks_before = {row["recording_id"]: tuple(row[name] for name in _CLOCK) for row in rows_before}
    for row in store.read(RECORDINGS, list(clocks_before), ["recording_id", *_CLOCK]).to_pylist():
        clock = tuple(row[name] for name in _CLOCK)
        if clock != clocks_before[row["recording_id"]]:
            store.set_clock(stage.tables, row["recording_id"], *clock)


def _materialize(
    stage: Stage,
    context: AssetExecutionContext,
    store: Store,
    metadata_by_recording: Mapping[str, Mapping[str, Metadata]],
    versions: DataVersions,
) -> Iterator[MaterializeResult[Any]]:
    step = context.get_step_execution_context()
    versions.mark_observations_as_read(step)
    for name in stage.asset_names:
        add_asset_metadata(
            step, name, {recording_id: metadata[name] for recording_id, metadata in metadata_by_recording.items()}
        )
    for name in stage.files:
        yield MaterializeResult(asset_key=name, data_version=DataVersion(versions.common_versions[name]))
    for table in stage.tables:
        yield MaterializeResult(
            asset_key=table.name,
            data_version=DataVersion(versions.common_versions[table.name]),
            metadata={"dagster/row_count": store.row_count(table)},
        )
    for recording_id in versions.differing_recordings():
        # Dagster gives all recordings of a batch one data version; recordings with other inputs get their own event.
        versions.log_materialization(context, recording_id, metadata_by_recording[recording_id])


def _check_rows(stage: Stage, store: Store, recording_ids: Sequence[str]) -> Iterator[AssetCheckResult]:
    for table in stage.tables:
        slim = table.without_large_columns
        stored = store.scan(slim, recording_ids)
        broken = broken_rules(slim, stored)
        yield AssetCheckResult(
            asset_key=table.name,
            check_name=CHECK_NAME,
            passed=not broken,
            severity=AssetCheckSeverity.ERROR,
            metadata={"checked_row_count": stored.count_rows(), "broken": broken},
        )
    if stage.check is not None:
        yield stage.check(store, recording_ids)


def _fail_on_rejected(process: ProcessRecording, store: Store, recording_ids: Sequence[str]) -> ProcessRecording:
    """Wrap a function so that a rejected recording fails with the reason of its rejection."""
    rows = store.read(RECORDINGS, recording_ids, ["recording_id", "status", "error"]).to_pylist()
    rejected = {row["recording_id"]: row["error"] for row in rows if row["status"] == "rejected"}

    def process_unless_rejected(recording_id: str, progress: ReportProgress) -> Mapping[str, Metadata]:
        if recording_id in rejected:
            raise RecordingError(
                f"The recording has no results, because its file was rejected: {rejected[recording_id]}"
            )
        return process(recording_id, progress)

    return process_unless_rejected


def _check_run_is_active(context: AssetExecutionContext) -> None:
    """Check that the run was not ended from outside.

    Raises:
        RunFencedError: The run was ended: by a person, by the daemon, which considered its process dead, or by recovery
            after a crash. Another run may already process the same recordings.
    """
    # This check precedes every write: reading the whole run would take ten times longer.
    active_run = RunsFilter(run_ids=[context.run.run_id], statuses=UNFINISHED_STATUSES)
    if context.instance.get_run_ids(active_run):
        return
    run = context.instance.get_run_by_id(context.run.run_id)
    state = "deleted" if run is None else f"status {run.status.value}"
    raise RunFencedError(f"The run {context.run.run_id[:8]} ({state}) is no longer active; its writes are fenced off.")


def _recording_ids(context: AssetExecutionContext) -> list[str]:
    if not context.has_partition_key and not context.has_partition_key_range:
        raise Failure("The run has no partition: materialize one or more recordings.", allow_retries=False)
    return list(context.partition_keys)


def _describe_failures(stage_name: str, recording_count: int, result: _BatchResult) -> str:
    reasons = " ".join(f"{recording_id}: {sentence}" for recording_id, sentence in result.failed.items())
    failed = f" {len(result.failed)} of {recording_count} recordings failed. {reasons}" if result.failed else ""
    return f"{stage_name}:{failed}{f' {result.stop}' if result.stop else ''}"


def failed_recordings(failure: DagsterEvent) -> frozenset[str] | None:
    """Recordings that failed in a step, from its failure event; None if the step failed for another reason."""
    data = failure.step_failure_data
    error = data.error
    while error is not None:
        if error.cls_name == RunFencedError.__name__:
            return frozenset()  # a fenced run is not a failure of its recordings
        error = error.cause
    failed = data.user_failure_data.metadata.get(_FAILED_KEY) if data.user_failure_data else None
    return frozenset(failed.value) if isinstance(failed, JsonMetadataValue) and isinstance(failed.value, list) else None


def failure_sentence(failure: DagsterEvent) -> str | None:
    """Description of a step's failure, from its failure event; None if the event has none."""
    data = failure.step_failure_data.user_failure_data
    return data.description if data else None
