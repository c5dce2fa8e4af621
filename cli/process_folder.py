"""Processes a watched folder to completion: the daemon runs the work while this process reports the progress."""

import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dagster import DagsterEventType, DagsterInstance, RunsFilter
from sqlalchemy.exc import OperationalError

from cli.dagster_processes import run_daemon
from cli.stage_waits import DAEMON_START, Wait, has_ticked, read_wait
from cv_assets.asset_graph import AssetGraph
from cv_assets.batch import STOPPED_TAG
from cv_assets.camera_settings import cameras_of
from resources.corrections.corrected_rows import read_tracks
from resources.dagster_instance.dagster_names import UNFINISHED_STATUSES
from resources.dagster_instance.postgres_database import postgres_problem
from resources.errors import PipelineError
from resources.forgotten_files import FORGOTTEN
from resources.inference.detector import Models
from resources.schema.summary_tables import SUMMARIES
from resources.source_index import SourceIndex
from resources.storage.arrow_sql import select
from resources.storage.delta_store import Store
from resources.storage.recording_rows import read_recording_rows
from resources.storage.results_database import publish
from resources.storage.stage_runs import newest_stage_runs
from resources.watched_files import camera_of, list_watched_files
from sensors.crash_recovery import cancel_interrupted_runs, mark_running_as_interrupted
from sensors.notification_events import final_status_and_error, notify
from sensors.recording_states import RecordingState, change_token, read_recording_states
from sensors.retries import run_failure_sentence

_CHECK_INTERVAL_S = 1.0
_RATE_WINDOW_CHECKS = 30
_FORCED_CHECK_INTERVAL_S = 15.0  # states are read again after this time even if the change token is the same
_MAX_FAILED_TICKS = 4
_TRACK_COUNTS_SQL = """
SELECT recording_id, class_name, count(*) AS track_count FROM tracks GROUP BY ALL ORDER BY ALL
"""


@dataclass
class StageProgress:
    """Progress of one stage of one recording; 0 frames/s while the rate is unknown."""

    frames_done: int = 0
    frames_total: int = 0
    frames_per_s: float = 0.0


@dataclass
class FolderProgress:
    """Progress of the whole folder.

    Attributes:
        source_paths: Path of the folder's recordings, in the order of their paths; of several, the first.
        unstable_file_count: Number of files that are not ingested yet, because they are not stable or not compared.
        unreadable_files: By path, why a file cannot be a recording.
        states: State by recording.
        stages: Newest progress by (recording, stage).
        waits: Waits by (recording, stage), of the stages that wait now; the recording is empty for the daemon's start.
        queued_run_count: Number of runs that wait for others to end.
        detection_fps: Frames per second of all detectors together, over the last checks; 0 while unknown.
    """

    source_paths: Mapping[str, str] = field(default_factory=dict)
    unstable_file_count: int = 0
    unreadable_files: Mapping[str, str] = field(default_factory=dict)
    states: Mapping[str, RecordingState] = field(default_factory=dict)
    stages: dict[tuple[str, str], StageProgress] = field(default_factory=dict)
    waits: dict[tuple[str, str], Wait] = field(default_factory=dict)
    queued_run_count: int = 0
    detection_fps: float = 0.0

    @property
    def recording_ids(self) -> list[str]:
        """The folder's recordings."""
        return list(self.source_paths)


@dataclass(frozen=True)
class RecordingOutcome:
    """The final result of one recording, or of a file that cannot be a recording.

    Attributes:
        source_path: Path of the file.
        recording_id: The recording; None if the file cannot be one.
        camera: Its camera; None for a file directly in the watched folder.
        status: Its final status.
        error: The reason of a status other than ok.
        duration_s: Duration of the recording.
        frame_count: Frames of the normalized video.
        detection_count: Detections in all frames.
        track_counts: Number of tracks by class; None without results.
        elapsed_s: Elapsed time of all its stages.
        realtime_factor: Duration of the recording divided by the elapsed time.
    """

    source_path: str
    recording_id: str | None
    camera: str | None
    status: str
    error: str | None
    duration_s: float | None = None
    frame_count: int | None = None
    detection_count: int | None = None
    track_counts: Mapping[str, int] | None = None
    elapsed_s: float | None = None
    realtime_factor: float | None = None


def process_folder(
    graph: AssetGraph, show_progress: Callable[[FolderProgress], None]
) -> tuple[list[RecordingOutcome], bool]:
    """Process all recordings in the watched folder to completion.

    Args:
        graph: The asset graph of the settings in force; environment variables pass these settings to child processes.
        show_progress: Called about once per second.

    Returns:
        One outcome per recording of the folder, and whether there was anything to do.

    Raises:
        PipelineError: A person must act (folder, weights, disk), or the daemon exited unexpectedly.
    """
    settings = graph.settings
    store = Store(settings.data_folder)
    with DagsterInstance.get() as instance:
        cancel_interrupted_runs(instance, settings.data_folder)
        _send_notifications(instance, store, graph)
        if _is_complete(instance, store, graph, FolderProgress()):
            publish(store, settings)
            return _read_outcomes(instance, store, graph), False
        models = Models(watched_folders=settings.watched_folders)
        for model in settings.all_models:
            models.check(model)
        models.export_in_background(settings.all_models)
        with run_daemon(settings) as daemon:
            try:
                _watch_until_complete(instance, store, graph, daemon, show_progress)
            finally:
                mark_running_as_interrupted(instance)
            # While the daemon is still running, so that a delivery in progress in its sensor is not cut off.
            _send_notifications(instance, store, graph)
        publish(store, settings)
        return _read_outcomes(instance, store, graph), True


def _send_notifications(instance: DagsterInstance, store: Store, graph: AssetGraph) -> None:
    if graph.settings.notifications.channels:
        notify(instance, store, graph)


def _is_complete(instance: DagsterInstance, store: Store, graph: AssetGraph, progress: FolderProgress) -> bool:
    """Whether every file is a recording and no run will be requested for any; also updates the progress."""
    listed = list_watched_files(graph.settings).files
    known = SourceIndex(store).load()
    max_attempts = graph.settings.batches.max_attempts
    recording_states = read_recording_states(instance, store, graph)
    progress.states = {state.recording_id: state for state in recording_states.states}
    progress.queued_run_count = sum(recording_states.queued_run_counts.values())
    never_compared = {
        recording_id for recording_id, state in progress.states.items() if state.has_failed_probe(max_attempts)
    }
    ingested = {
        path: file
        for path, state in listed.items()
        if (file := known.get(path)) is not None
        and file.file_state == state
        and (not file.is_unverified or file.recording_id in never_compared)
    }
    # A copy of the file of an archived or forgotten recording is no work either.
    removed = {file.recording_id for file in known.values() if file.state in ("archived", FORGOTTEN)}
    source_paths: dict[str, str] = {}
    for path, file in ingested.items():
        if file.recording_id and (file.recording_id in progress.states or file.recording_id not in removed):
            source_paths.setdefault(file.recording_id, path)
    progress.source_paths = source_paths
    progress.unreadable_files = {
        path: file.reason or "" for path, file in ingested.items() if file.state == "unreadable"
    }
    progress.unstable_file_count = len(listed) - len(ingested)
    return (
        progress.unstable_file_count == 0
        and all(recording_id in progress.states for recording_id in progress.recording_ids)
        and all(state.is_done(max_attempts) for state in recording_states.states)
    )


def _watch_until_complete(
    instance: DagsterInstance,
    store: Store,
    graph: AssetGraph,
    daemon: "subprocess.Popen[bytes]",
    show_progress: Callable[[FolderProgress], None],
) -> None:
    """Show the progress until everything is processed.

    Raises:
        PipelineError: A person must act, or the daemon exited.
    """
    progress, cursors = FolderProgress(), dict[str, int]()
    log_path = graph.settings.data_folder / "logs" / "daemon.log"
    detected_frames: deque[tuple[float, int]] = deque(maxlen=_RATE_WINDOW_CHECKS)
    started_s, last_token, next_forced_check_s = time.time() - 1, object(), 0.0
    progress.waits[DAEMON_START] = Wait("the daemon to start", time.time())
    while True:
        try:
            # Reading the state of every recording is the most expensive part here, and the runs need the CPU.
            token = change_token(instance, store)
            if token != last_token or time.monotonic() > next_forced_check_s:
                if _is_complete(instance, store, graph, progress):
                    break
                last_token, next_forced_check_s = token, time.monotonic() + _FORCED_CHECK_INTERVAL_S
            _read_stage_progress(instance, cursors, progress)
            if DAEMON_START in progress.waits and has_ticked(instance, started_s):
                del progress.waits[DAEMON_START]
        except OperationalError as error:
            # The server was lost during a query; new connections wait for it.
            if postgres_problem(error) is None:
                raise
        detected_frames.append((time.monotonic(), _count_detected_frames(progress)))
        (first_s, first_count), (last_s, last_count) = detected_frames[0], detected_frames[-1]
        progress.detection_fps = (last_count - first_count) / max(last_s - first_s, 1.0)
        show_progress(progress)
        _check_pipeline(instance, daemon, started_s, log_path)
        time.sleep(_CHECK_INTERVAL_S)
    _read_stage_progress(instance, cursors, progress)
    show_progress(progress)


def _count_detected_frames(progress: FolderProgress) -> int:
    return sum(stage.frames_done for (_, name), stage in progress.stages.items() if name == "detections")


def _check_pipeline(
    instance: DagsterInstance, daemon: "subprocess.Popen[bytes]", started_s: float, log_path: Path
) -> None:
    """Check that the pipeline can continue without a person.

    Raises:
        PipelineError: A run stopped for a person, a sensor keeps failing, or the daemon exited.
    """
    stopped_run_id = _find_stopped_run(instance, started_s)
    if stopped_run_id is not None:
        sentence = run_failure_sentence(instance, stopped_run_id)
        raise PipelineError(sentence or f"The run {stopped_run_id} was stopped: see its log in the UI.")
    if sentence := _failing_sensor_sentence(instance, started_s):
        raise PipelineError(f"{sentence} Run the same command again; the log is {log_path}.")
    if daemon.poll() is not None:
        raise PipelineError(
            f"The daemon exited unexpectedly (status {daemon.returncode}): run the same command again; its log is "
            f"{log_path}."
        )


def _failing_sensor_sentence(instance: DagsterInstance, since_s: float) -> str | None:
    """Describe a sensor whose last ticks since a time all failed, so that waiting is useless; None without one."""
    for state in instance.all_instigator_state():
        if state.instigator_type.value != "SENSOR":
            continue
        ticks = instance.get_ticks(
            state.instigator_origin_id, state.selector_id, after=since_s, limit=_MAX_FAILED_TICKS
        )
        if len(ticks) == _MAX_FAILED_TICKS and all(tick.status.value == "FAILURE" for tick in ticks):
            error = ticks[0].error
            last_line = (error.message.strip().splitlines() or [""])[-1] if error else "no reason given"
            reason = error.cause.message.strip().splitlines()[-1] if error and error.cause else last_line
            return f"The sensor {state.instigator_name} failed {_MAX_FAILED_TICKS} times in a row: {reason}"
    return None


def _find_stopped_run(instance: DagsterInstance, since_s: float) -> str | None:
    """Find the newest run, started since a time, that stopped because a person must act; None if there is none."""
    for record in instance.get_run_records(RunsFilter(tags={STOPPED_TAG: "true"}), limit=1):
        if record.start_time and record.start_time > since_s:
            return record.dagster_run.run_id
    return None


def _read_stage_progress(instance: DagsterInstance, cursors: dict[str, Any], progress: FolderProgress) -> None:
    """Read the progress and the waits that the stages have logged as observations since the last call.

    Args:
        instance: Dagster's instance.
        cursors: Position in the event log by run; updated.
        progress: Progress of the folder; updated.
    """
    unfinished_runs = instance.get_runs(RunsFilter(statuses=UNFINISHED_STATUSES))
    for run in unfinished_runs:
        page = instance.get_records_for_run(
            run.run_id, cursor=cursors.get(run.run_id), of_type=DagsterEventType.ASSET_OBSERVATION
        )
        cursors[run.run_id] = page.cursor
        for record in page.records:
            observation = record.event_log_entry.asset_observation
            if observation is None or observation.partition is None:
                continue
            metadata = {name: value.value for name, value in observation.metadata.items()}
            key = (observation.partition, observation.asset_key.to_user_string())
            progress.waits.pop(key, None)  # whatever a stage reports, its last wait has ended or is reported again
            if wait := read_wait(metadata, record.timestamp, run.run_id):
                progress.waits[key] = wait
            if not metadata.keys() >= {"frames_done", "frames_total"}:
                continue  # not a progress report
            progress.stages[key] = StageProgress(
                int(str(metadata["frames_done"])),
                int(str(metadata["frames_total"])),
                float(str(metadata.get("frames_per_s", 0))),
            )
    run_ids = {"", *(run.run_id for run in unfinished_runs)}
    progress.waits = {key: wait for key, wait in progress.waits.items() if wait.run_id in run_ids}


def _read_outcomes(instance: DagsterInstance, store: Store, graph: AssetGraph) -> list[RecordingOutcome]:
    progress, settings = FolderProgress(), graph.settings
    _is_complete(instance, store, graph, progress)
    recording_ids = progress.recording_ids
    rows = read_recording_rows(store, recording_ids, ["frame_count", "duration_s_from_content"])
    summaries = {row["recording_id"]: row for row in store.read(SUMMARIES, recording_ids).to_pylist()}
    track_counts = _track_counts(store, recording_ids)
    cameras = cameras_of(store, recording_ids)
    seconds = seconds_by_recording(store, recording_ids)
    outcomes = []
    for recording_id, source_path in progress.source_paths.items():
        status, error = final_status_and_error(progress.states.get(recording_id))
        row, elapsed_s = rows.get(recording_id, {}), seconds.get(recording_id)
        duration_s, has_summary = row.get("duration_s_from_content"), status in ("ok", "partial")
        outcomes.append(
            RecordingOutcome(
                source_path,
                recording_id,
                cameras.get(recording_id),
                status,
                error,
                duration_s,
                row.get("frame_count"),
                summaries.get(recording_id, {}).get("detection_count") if has_summary else None,
                track_counts.get(recording_id, {}) if has_summary else None,
                elapsed_s,
                duration_s / elapsed_s if duration_s and elapsed_s else None,
            )
        )
    for path, reason in progress.unreadable_files.items():
        outcomes.append(RecordingOutcome(path, None, camera_of(path, settings.watched_folders), "rejected", reason))
    return outcomes


def _track_counts(store: Store, recording_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Number of tracks by recording and class."""
    rows = select(_TRACK_COUNTS_SQL, {"tracks": read_tracks(store, recording_ids, ["recording_id", "class_name"])})
    counts: dict[str, dict[str, int]] = {}
    for row in rows.to_pylist():
        counts.setdefault(row["recording_id"], {})[row["class_name"]] = row["track_count"]
    return counts


def seconds_by_recording(store: Store, recording_ids: Sequence[str]) -> dict[str, float]:
    """Elapsed seconds of each recording's stages, summed over their newest attempts."""
    seconds: dict[str, float] = {}
    for row in newest_stage_runs(store, recording_ids, columns=["recording_id", "elapsed_s"]).to_pylist():
        seconds[row["recording_id"]] = seconds.get(row["recording_id"], 0.0) + (row["elapsed_s"] or 0.0)
    return seconds


def is_failure(outcome: RecordingOutcome) -> bool:
    """Whether the recording was rejected, failed or is quarantined."""
    return outcome.status in ("rejected", "failed", "quarantined")
