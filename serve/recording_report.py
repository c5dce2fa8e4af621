"""The state of one recording as other programs see it: file, stages, progress, queue and result."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from cv_assets.recording_status import RecordingStatus
from resources.schema.recording_tables import RECORDING_CONTENTS, RECORDINGS
from resources.source_index import SourceFile, SourceIndex
from resources.storage.stage_runs import newest_stage_runs
from sensors.retries import count_attempts, process_start_s
from serve.app_state import AppState
from serve.run_progress import StageReport, UnfinishedRun
from serve.submissions import Submission

State = Literal["waiting", "queued", "running", "done", "failed", "skipped"]
STATE_MEANINGS: Mapping[State, str] = {
    "waiting": "its file is not stable or not identified yet, or its next run is not requested yet",
    "queued": "its run waits for a slot or a worker",
    "running": "a run executes one of its stages",
    "done": "every stage has results; status and error tell whether a part is missing",
    "failed": "no further run will be requested: error gives the reason, and status is failed, rejected or quarantined",
    "skipped": "its file is no recording, or that of a forgotten one: error gives the reason",
}
FINAL_STATES: frozenset[str] = frozenset({"done", "failed", "skipped"})
_SKIPPED_FILE_STATES = ("unreadable", "skipped", "forgotten")
_FAILED_STATUSES = ("failed", "interrupted", "quarantined")
_STAGE_RUN_COLUMNS = (
    *("recording_id", "stage", "attempt", "status", "error", "data_version", "started_at_utc", "finished_at_utc"),
    *("elapsed_s",),
)


@dataclass(frozen=True)
class StageResult:
    """The newest attempt at a stage of a recording; status is None before the first."""

    stage: str
    status: str | None = None
    error: str | None = None
    attempt: int | None = None
    finished_at_utc: datetime | None = None
    elapsed_s: float | None = None
    has_results: bool = False


@dataclass(frozen=True)
class Callback:
    """A callback of a recording: pending, sent, or failed after the last attempt."""

    url: str
    state: str
    attempts: int
    error: str | None


@dataclass(frozen=True)
class RecordingReport:
    """The state of one recording.

    Attributes:
        recording_id: The recording.
        state: See STATE_MEANINGS.
        status: Status of the recording, as in the table recordings; None before its first stage has ended.
        error: Reason of the status, or why the file is skipped; None without one.
        failed_stage: The stage that failed, was interrupted or quarantined; None with another status.
        hold_reason: What a person must fix before the next retry can succeed; None if nothing holds the recording.
        camera: Its camera; None for a file directly in the watched folder.
        source_path: Its file; None if it is unknown.
        duration_s: Duration of the recording; None while it is unknown.
        frame_count: Frames of the normalized video; None while it is unknown.
        stage: The stage that executes; None if none does.
        frames_done: Frames that this stage has processed; None while it reports none.
        frames_total: Frames that it will process; None while it is unknown.
        frames_per_s: Its rate; None while it is unknown.
        remaining_s: Estimated time until this stage has processed the recording; None while it is unknown.
        waiting_for: What the stage waits for, such as a device; None if it does not wait.
        queue_position: Place of its next run in the queue, from 1; None if none is queued.
        run_ids: The unfinished runs that contain it.
        stages: The newest attempt at every stage, upstream first.
        callbacks: Its callbacks, newest first.
    """

    recording_id: str
    state: State
    status: str | None
    error: str | None
    failed_stage: str | None
    hold_reason: str | None
    camera: str | None
    source_path: str | None
    duration_s: float | None
    frame_count: int | None
    stage: str | None
    frames_done: int | None
    frames_total: int | None
    frames_per_s: float | None
    remaining_s: float | None
    waiting_for: str | None
    queue_position: int | None
    run_ids: Sequence[str]
    stages: Sequence[StageResult]
    callbacks: Sequence[Callback]

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to the recording by itself."""
        return self.state in FINAL_STATES

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        values = asdict(self)
        for stage in values["stages"]:
            finished_at = stage["finished_at_utc"]
            stage["finished_at_utc"] = finished_at.isoformat() if finished_at else None
        return values


def read_report(state: AppState, recording_id: str) -> RecordingReport | None:
    """Read the state of a recording; None if there is neither a recording nor a submission with this id."""
    # The runs first: the rows of one that ends meanwhile are complete.
    runs = [run for run in state.progress.runs() if recording_id in run.recording_ids]
    submissions = state.submissions.of_recording(recording_id)
    store = state.store
    header = next(iter(store.read(RECORDINGS, [recording_id]).to_pylist()), None)
    files = list(SourceIndex(store).load([recording_id]).values())
    rows = newest_stage_runs(store, [recording_id], columns=_STAGE_RUN_COLUMNS).to_pylist()
    if not (header or files or rows or runs):
        if not submissions:
            return None
        file = SourceIndex(store).load().get(submissions[0].source_path)
        if file is not None and file.recording_id not in (None, recording_id):
            return read_report(state, str(file.recording_id))  # the pipeline has given it another id
        files = [file] if file else []
    content = next(iter(store.read(RECORDING_CONTENTS, [recording_id]).to_pylist()), None) or {}
    return _build_report(state, recording_id, runs, submissions, header, files, rows, content)


def _build_report(
    state: AppState,
    recording_id: str,
    runs: Sequence[UnfinishedRun],
    submissions: Sequence[Submission],
    header: Mapping[str, Any] | None,
    files: Sequence[SourceFile],
    rows: Sequence[Mapping[str, Any]],
    content: Mapping[str, Any],
) -> RecordingReport:
    status = RecordingStatus.of(rows)
    failed_rows = [row for row in rows if row["status"] in _FAILED_STATUSES]
    attempts = count_attempts(failed_rows, process_start_s())
    stage_names = list(state.graph.stages)
    rows_by_stage = {row["stage"]: row for row in rows}
    executing = next((run for run in runs if not run.is_queued), None)
    report = state.progress.report_of(recording_id) if executing else None
    file = min(files, key=lambda file: file.state != "known", default=None)
    skip_reason = file.reason if file and file.state in _SKIPPED_FILE_STATES else None
    waiting = _waiting_state(
        status.status if rows else None, rows_by_stage, stage_names, attempts.attempt_count, state, skip_reason
    )
    current: State = "running" if executing else "queued" if runs else waiting
    camera_row: Mapping[str, Any] = header or (vars(file) if file else {})
    source_path = camera_row.get("source_path") or (submissions[0].source_path if submissions else None)
    return RecordingReport(
        recording_id=recording_id,
        state=current,
        status=status.status if rows else None,
        error=status.error or skip_reason,
        failed_stage=status.failed_stage,
        hold_reason=attempts.hold_reason or None,
        camera=camera_row.get("camera"),
        source_path=source_path,
        duration_s=content.get("duration_s_from_content") or (header or {}).get("duration_s_from_header"),
        frame_count=content.get("frame_count"),
        stage=state.graph.stage_of_asset.get(report.asset_name, report.asset_name) if report else None,
        **_progress_values(report),
        queue_position=min((run.queue_position for run in runs if run.queue_position), default=None),
        run_ids=[run.run_id for run in runs],
        stages=[_stage_result(name, rows_by_stage.get(name)) for name in stage_names],
        callbacks=[
            Callback(item.callback_url, item.callback_state or "pending", item.attempt_count, item.callback_error)
            for item in submissions
            if item.callback_url
        ],
    )


def _waiting_state(
    status: str | None,
    rows_by_stage: Mapping[str, Mapping[str, Any]],
    stage_names: Sequence[str],
    attempt_count: int,
    state: AppState,
    skip_reason: str | None,
) -> State:
    """The state of a recording that no run contains."""
    if status in ("rejected", "quarantined"):
        return "failed"
    if status == "failed" and attempt_count >= state.settings.batches.max_attempts:
        return "failed"
    if skip_reason is not None and not rows_by_stage:
        return "skipped"
    is_complete = all(_has_results(rows_by_stage.get(name)) for name in stage_names)
    return "done" if is_complete and status in ("ok", "partial") else "waiting"


def _has_results(row: Mapping[str, Any] | None) -> bool:
    return row is not None and row["data_version"] is not None and row["status"] not in _FAILED_STATUSES


def _stage_result(name: str, row: Mapping[str, Any] | None) -> StageResult:
    if row is None:
        return StageResult(name)
    values = {key: row[key] for key in ("status", "error", "attempt", "finished_at_utc", "elapsed_s")}
    return StageResult(name, **values, has_results=_has_results(row))


def _progress_values(report: StageReport | None) -> dict[str, Any]:
    has_frames = report is not None and report.frames_total > 0
    return {
        "frames_done": report.frames_done if report and has_frames else None,
        "frames_total": report.frames_total if report and has_frames else None,
        "frames_per_s": report.frames_per_s if report else None,
        "remaining_s": round(report.remaining_s, 1) if report and report.remaining_s is not None else None,
        "waiting_for": report.waiting_for if report else None,
    }
