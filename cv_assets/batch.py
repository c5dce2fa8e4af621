"""The loop over the recordings of one run: a failed recording does not affect the others.

A run contains one recording or a range of them. The recordings that succeed are materialized; if any fails, the step
fails at the end and names the failed recordings. Every attempt that ends is appended to the table stage_runs, after its
results and before Dagster's event.
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
    MaterializeResult,
    MetadataValue,
    RunsFilter,
)

from cv_assets.attempt_log import CANCELED_ERROR, AttemptLog
from cv_assets.camera_settings import CameraObserver, cameras_of
from cv_assets.crash_marker import crash_marker
from cv_assets.data_versions import DataVersions
from cv_assets.recording_status import RecordingStatus, is_news
from cv_assets.stage_metadata import Metadata, display_metadata, progress_reporter, recording_link
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.dagster_instance.dagster_names import UNFINISHED_STATUSES
from resources.dagster_instance.private_api import add_asset_metadata
from resources.errors import PipelineError, RecordingError, RejectedRecordingError, RunFencedError
from resources.media.progress import ReportProgress
from resources.schema.columns import Table
from resources.schema.recording_tables import RECORDINGS
from resources.schema.row_checks import broken_rules
from resources.storage.delta_store import Store
from resources.storage.disk import check_data_folder, disk_problem
from resources.storage.recording_rows import read_recording_rows
from resources.storage.results_database import publication_age_s, publish

CHECK_NAME = "keys_and_ranges"
STOPPED_TAG = "cv_assets/stopped"
"""Tag of a run that stopped for a reason unrelated to its recordings; the run does not count as an attempt."""

_MIN_FREE_BYTES = 100_000_000  # runs stop before Dagster's own storage has no space left
_PUBLICATION_INTERVAL_S = 5.0  # while stages remain in a run
_FAILED_KEY = "failed_recordings"

ProcessRecording = Callable[[str, ReportProgress], Mapping[str, Metadata]]
"""Processes one recording: takes its id and a progress callback; returns metadata by asset name.

The entries `status` and `error` of the metadata become the status of the attempt in the table stage_runs; without them
it is `ok`.
"""
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
        version: Version of its logic and settings.
        input_stages: Stage of each input by the name of its asset.
        all_stages: Names of all stages of the asset graph; empty in a graph without the asset `recordings`.
    """

    name: str
    tables: tuple[Table, ...]
    files: tuple[str, ...] = ()
    runs_on_rejected: bool = False
    check: CheckRecordings | None = None
    version: StageVersion = field(default_factory=lambda: StageVersion("", {}))
    input_stages: Mapping[str, str] = field(default_factory=dict)
    all_stages: tuple[str, ...] = ()

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
    settings: Settings,
    observer: CameraObserver,
    process: ProcessRecording,
) -> Iterator[MaterializeResult[Any] | AssetCheckResult]:
    """Process every recording of a run, then publish, check and report.

    Args:
        stage: The stage.
        context: The step's context.
        store: The tables.
        settings: The settings in force.
        observer: Records the settings of single cameras.
        process: Processes one recording.

    Yields:
        The materializations and check results of the stage's assets.

    Raises:
        Failure: Some recordings failed, or the run stopped; the description names the recordings and reasons.
        RunFencedError: The run is no longer active.
    """
    recording_ids = _recording_ids(context)
    with (
        store.fenced_by(lambda: _check_run_is_active(context)),
        crash_marker(store, context.run.run_id, stage.name) as mark_recording,
    ):
        cameras = cameras_of(store, recording_ids)
        versions = DataVersions.read(context.instance, store, stage.version, stage.input_stages, cameras, observer)
        attempts = AttemptLog(store, stage.name, context.run, recording_ids, versions)
        result = _process_each(stage, context, store, process, recording_ids, attempts, mark_recording)
        planned = set(context.get_step_execution_context().execution_plan.step_keys_to_execute)
        is_last = planned <= attempts.stages_of_run or bool(result.failed) or result.stop is not None
        try:
            # Short stages follow each other within a second: one publication then serves several of them.
            if is_last or publication_age_s(store.data_folder) > _PUBLICATION_INTERVAL_S:
                publish(store, settings)
        except PipelineError as error:
            result.stop = result.stop or error
        if result.stop:
            context.instance.add_run_tags(context.run.run_id, {STOPPED_TAG: "true"})
        _check_run_is_active(context)
        if result.failed or result.stop:
            versions.log_materializations(context, result.metadata)
            # Without these results the UI would show the checks as not executed, as if they had failed.
            yield from _check_rows(stage, store, list(result.metadata))
            _observe_statuses(stage, context, attempts)
            raise Failure(
                _describe_failures(stage.name, len(recording_ids), result),
                metadata={_FAILED_KEY: MetadataValue.json(list(result.failed))},
                allow_retries=False,
            )
        yield from _materialize(stage, context, store, result.metadata, versions)
        yield from _check_rows(stage, store, list(result.metadata))
        _observe_statuses(stage, context, attempts)


def _observe_statuses(stage: Stage, context: AssetExecutionContext, attempts: AttemptLog) -> None:
    """Log the status of recordings on the asset `recordings`, where the attempts of this run have changed it."""
    if not stage.all_stages:
        return
    # The UI ignores observations that are older than the newest materialization.
    is_materialized_now = RECORDINGS.name in stage.asset_names
    for recording_id, (before, after) in attempts.statuses().items():
        if is_news(RecordingStatus() if is_materialized_now else before, after, stage.all_stages):
            context.log_event(after.observation(recording_id, stage.all_stages))


def _process_each(
    stage: Stage,
    context: AssetExecutionContext,
    store: Store,
    process: ProcessRecording,
    recording_ids: Sequence[str],
    attempts: AttemptLog,
    mark_recording: Callable[[str], None],
) -> _BatchResult:
    durations_s = {
        recording_id: row["duration_s_from_content"]
        for recording_id, row in read_recording_rows(store, recording_ids, ["duration_s_from_content"]).items()
    }
    result = _BatchResult()
    for position, recording_id in enumerate(recording_ids):
        try:
            check_data_folder(store.data_folder, _MIN_FREE_BYTES)
            attempts.flush_if_due()
            mark_recording(recording_id)
            attempts.start(recording_id)
            if recording_id in attempts.rejected and not stage.runs_on_rejected:
                raise RecordingError(
                    f"The recording has no results, because its file was rejected: {attempts.rejected[recording_id]}"
                )
            metadata = _process_one(stage, context, store, process, recording_id, durations_s.get(recording_id))
            page = {"recording": recording_link(recording_id)}
            result.metadata[recording_id] = {
                name: display_metadata({**values, **page}) for name, values in metadata.items()
            }
            model_load_count = next((m["model_load_count"] for m in metadata.values() if "model_load_count" in m), None)
            attempts.end(
                recording_id, *_status_in_metadata(metadata), has_results=True, model_load_count=model_load_count
            )
        except RecordingError as error:
            context.log.error(f"{recording_id}: {error}")
            result.failed[recording_id] = str(error)
            status = "rejected" if isinstance(error, RejectedRecordingError) else "failed"
            attempts.end(recording_id, status, str(error))
        except PipelineError as error:
            result.stop = error
            attempts.interrupt(recording_ids[position:], str(error))
            break
        except DagsterExecutionInterruptedError:
            context.instance.add_run_tags(context.run.run_id, {STOPPED_TAG: "true"})
            attempts.interrupt(recording_ids[position:], CANCELED_ERROR)
            attempts.flush()
            raise
    try:
        attempts.flush()
        mark_recording("")  # a kill from here on is no crash of the last recording
    except PipelineError as error:
        # Without its row an attempt has no state, so its materialization must not be reported either.
        result.stop = result.stop or error
        result.metadata.clear()
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
        RecordingError: The recording failed.
        PipelineError: No recording can be processed until a person has solved the problem.
    """
    started_s = time.monotonic()
    try:
        metadata = process(recording_id, progress_reporter(context, stage.asset_names[0], recording_id))
    except (RecordingError, PipelineError, RunFencedError):
        raise
    except Exception as error:
        # Any error of one recording is caught, so that the other recordings of the batch are still processed.
        if sentence := disk_problem(error, store.data_folder):
            raise PipelineError(sentence) from error
        context.log.error(f"{recording_id}: {''.join(traceback.format_exception(error))}")
        raise RecordingError(f"Unexpected {type(error).__name__}: {error}") from error
    elapsed_s = round(time.monotonic() - started_s, 3)
    timing: dict[str, float] = {"elapsed_s": elapsed_s}
    duration_s = next((values["duration_s"] for values in metadata.values() if "duration_s" in values), duration_s)
    if duration_s:
        timing["realtime_factor"] = round(duration_s / max(elapsed_s, 1e-3), 2)
    return {name: {**values, **timing} for name, values in metadata.items()}


def _status_in_metadata(metadata_by_asset: Mapping[str, Metadata]) -> tuple[str, str | None]:
    """Status and error that a stage has stated in its metadata; `ok` without them."""
    for metadata in metadata_by_asset.values():
        if "status" in metadata:
            return str(metadata["status"]), metadata.get("error")
    return "ok", None


def _materialize(
    stage: Stage,
    context: AssetExecutionContext,
    store: Store,
    metadata_by_recording: Mapping[str, Mapping[str, Metadata]],
    versions: DataVersions,
) -> Iterator[MaterializeResult[Any]]:
    step = context.get_step_execution_context()
    for name in stage.asset_names:
        add_asset_metadata(
            step, name, {recording_id: metadata[name] for recording_id, metadata in metadata_by_recording.items()}
        )
    data_version = DataVersion(versions.common_version)
    for name in stage.files:
        yield MaterializeResult(asset_key=name, data_version=data_version)
    for table in stage.tables:
        yield MaterializeResult(
            asset_key=table.name,
            data_version=data_version,
            metadata={"dagster/row_count": store.row_count(table)},
        )
    # Dagster gives all recordings of a batch one data version and one set of inputs; the others get their own events.
    own_events = versions.recordings_with_own_event()
    versions.log_materializations(
        context, {recording_id: metadata_by_recording[recording_id] for recording_id in own_events}
    )


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


def is_fenced(failure: DagsterEvent) -> bool:
    """Whether a step failed because its run was no longer active, from its failure event."""
    error = failure.step_failure_data.error
    while error is not None and error.cls_name != RunFencedError.__name__:
        error = error.cause
    return error is not None


def failure_sentence(failure: DagsterEvent) -> str | None:
    """Description of a step's failure, from its failure event; None if the event has none."""
    data = failure.step_failure_data.user_failure_data
    return data.description if data else None
