"""The main job without a browser: the daemon works through a folder while this process shows how far it is."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from dagster import AssetKey, AssetRecordsFilter, DagsterEventType, DagsterInstance, RunsFilter
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES, NOT_FINISHED_STATUSES
from sqlalchemy.exc import OperationalError

from cv_assets.outcomes import ending_of, failure_of, tell
from cv_assets.outstanding import RecordingState, observe, occasion, set_aside
from cv_assets.stage import STOPPED_TAG
from cv_assets.walk import WALK
from resources.errors import PipelineError
from resources.inference.detector import Models
from resources.postgres import is_out_of_reach, postgres_problem
from resources.results import publish
from resources.schema import RECORDINGS, SUMMARIES
from resources.settings import PROJECT_ROOT, Settings
from resources.storage import Store
from resources.watched_folder import SourceIndex, list_recordings

LOOK_EVERY_S = 1.0
_RATE_OVER_LOOKS = 30
_LOOK_AGAIN_AFTER_S = 15.0  # though nothing has changed that is known to matter
_FAILED_TICKS = 4
_STEP_ASSETS = tuple(next(iter(assets.specs)).key.to_user_string() for assets in WALK)


@dataclass
class StageProgress:
    """How far one stage of one recording is; 0 frames/s while nobody knows."""

    frames_done: int = 0
    frames_total: int = 0
    frames_per_s: float = 0.0


@dataclass
class Progress:
    """How far the whole folder is.

    Attributes:
        recording_ids: The folder's recordings, in the order of their paths.
        unsettled_count: Files that are not recordings yet.
        unreadable: Files that cannot be recordings, and why.
        states: State by recording.
        stages: Newest progress by (recording, stage).
        analysed_per_s: Frames that the detector has looked at lately, a second; 0 while nobody knows.
    """

    recording_ids: list[str] = field(default_factory=list)
    unsettled_count: int = 0
    unreadable: Mapping[str, str] = field(default_factory=dict)
    states: Mapping[str, RecordingState] = field(default_factory=dict)
    stages: dict[tuple[str, str], StageProgress] = field(default_factory=dict)
    analysed_per_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How one recording ended."""

    recording_id: str
    status: str
    error: str | None
    frame_count: int | None
    detection_count: int | None
    track_count: int | None
    seconds: float | None
    realtime_factor: float | None


def process_folder(settings: Settings, show: Callable[[Progress], None]) -> tuple[list[Outcome], bool]:
    """Bring everything in the watched folder to completion.

    Args:
        settings: The settings in force; the environment of this process must already name them for its children.
        show: Called about every second with the progress.

    Returns:
        One outcome per recording of the folder, and whether anything had to be done.

    Raises:
        PipelineError: A person must act (folder, weights, disk), or the daemon ended by itself.
    """
    store = Store(settings.data_folder)
    with DagsterInstance.get() as instance:
        recover(instance, settings.data_folder)
        _tell(instance, store, settings)
        if _is_complete(instance, store, settings, Progress()):
            publish(store)
            return _outcomes(instance, store, settings), False
        for model in settings.every_model:
            Models().check(model)
        with _daemon(settings.data_folder) as daemon:
            try:
                _watch(instance, store, settings, daemon, show)
            finally:
                spare_running(instance)
            # While the daemon still runs, so that what its sensor is sending just now is not cut off.
            _tell(instance, store, settings)
        set_aside(store, observe(instance, store), settings.batches.max_attempts)
        publish(store)
        return _outcomes(instance, store, settings), True


def _tell(instance: DagsterInstance, store: Store, settings: Settings) -> None:
    if settings.notifications.channels:
        tell(instance, store, settings)


def recover(instance: DagsterInstance, data_folder: Path) -> int:
    """Clear up after a power cut or a kill, so that what was interrupted is done again at once.

    Processes that outlived their pipeline are ended before they can write, their runs are failed, and the places
    these held in the queue are freed. Runs that waited for a person are not waited for any longer.

    Only to be called by the one process that holds the data folder's lock, before it starts a daemon.

    Returns:
        How many runs had been interrupted.
    """
    _end_orphans(data_folder / "dagster")
    for record in instance.get_run_records(RunsFilter(tags={STOPPED_TAG: "true"})):
        instance.add_run_tags(record.dagster_run.run_id, {STOPPED_TAG: "earlier"})
    interrupted = instance.get_runs(RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES))
    for run in interrupted:
        instance.add_run_tags(run.run_id, {STOPPED_TAG: "earlier"})
        instance.report_run_failed(run, "Interrupted: the pipeline was stopped before this run ended.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return len(interrupted)


def spare_running(instance: DagsterInstance) -> None:
    """Note that the runs under way are about to be interrupted, which is no attempt at their recordings."""
    if is_out_of_reach():
        return  # Nobody who wants to stop is made to wait for the database.
    for run in instance.get_runs(RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES)):
        instance.add_run_tags(run.run_id, {STOPPED_TAG: "true"})


def _end_orphans(dagster_home: Path) -> None:
    """End the Dagster processes of this data folder; none of them can be anybody else's while its lock is held."""
    orphans = []
    for process in psutil.process_iter(["cmdline"]):
        is_dagster = any("dagster" in Path(part).name for part in process.info["cmdline"] or [])
        if not is_dagster or process.pid == os.getpid():
            continue
        with suppress(psutil.Error):
            if process.environ().get("DAGSTER_HOME") == str(dagster_home):
                orphans.append(process)
                process.kill()
    psutil.wait_procs(orphans, timeout=10)


def _is_complete(instance: DagsterInstance, store: Store, settings: Settings, progress: Progress) -> bool:
    """Whether every file is a recording for which nothing more will be done; fills in the progress on the way."""
    listed = list_recordings(settings).files
    known = SourceIndex(store).load()
    here = {path: known[path] for path, state in listed.items() if path in known and known[path].file_state == state}
    outstanding = observe(instance, store)
    progress.states = {state.recording_id: state for state in outstanding.states}
    progress.recording_ids = list(
        dict.fromkeys(file.recording_id for file in here.values() if file.recording_id and file.state != "closed")
    )
    progress.unreadable = {path: file.reason or "" for path, file in here.items() if file.state == "unreadable"}
    progress.unsettled_count = len(listed) - len(here)
    return (
        progress.unsettled_count == 0
        and all(recording_id in progress.states for recording_id in progress.recording_ids)
        and all(state.is_done(settings.batches.max_attempts) for state in outstanding.states)
    )


def _watch(
    instance: DagsterInstance,
    store: Store,
    settings: Settings,
    daemon: "subprocess.Popen[bytes]",
    show: Callable[[Progress], None],
) -> None:
    progress, cursors = Progress(), dict[str, int]()
    lately: deque[tuple[float, int]] = deque(maxlen=_RATE_OVER_LOOKS)
    since, seen, look_at = time.time() - 1, object(), 0.0
    while True:
        try:
            # Looking at every recording costs more than all else here, and the work needs the processor.
            news = occasion(instance, store)
            if news != seen or time.monotonic() > look_at:
                if _is_complete(instance, store, settings, progress):
                    break
                seen, look_at = news, time.monotonic() + _LOOK_AGAIN_AFTER_S
            _read_observations(instance, cursors, progress)
        except OperationalError as error:
            # The server went away within a query; new connections wait for it.
            if postgres_problem(error) is None:
                raise
        lately.append(
            (time.monotonic(), sum(at.frames_done for (_, s), at in progress.stages.items() if s == "detections"))
        )
        (then_s, then_count), (now_s, now_count) = lately[0], lately[-1]
        progress.analysed_per_s = (now_count - then_count) / max(now_s - then_s, 1.0)
        show(progress)
        stopped = _stopped_run(instance, since)
        if stopped is not None:
            raise PipelineError(failure_of(instance, stopped) or f"The run {stopped} stopped: see it in the UI.")
        if failing := _failing_sensor(instance):
            raise PipelineError(f"{failing} The log is {settings.data_folder / 'logs' / 'daemon.log'}.")
        if daemon.poll() is not None:
            raise PipelineError(
                f"The daemon ended by itself (exit {daemon.returncode}): "
                f"run the same command again, and see {settings.data_folder / 'logs' / 'daemon.log'}."
            )
        time.sleep(LOOK_EVERY_S)
    _read_observations(instance, cursors, progress)
    show(progress)


def _failing_sensor(instance: DagsterInstance) -> str | None:
    """A sentence on a sensor whose last looks all failed, so that nobody waits for it in vain."""
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=_FAILED_TICKS)
        if len(ticks) == _FAILED_TICKS and all(tick.status == TickStatus.FAILURE for tick in ticks):
            error = ticks[0].error
            told = (error.message.strip().splitlines() or [""])[-1] if error else "no reason given"
            cause = error.cause.message.strip().splitlines()[-1] if error and error.cause else told
            return f"The sensor {state.instigator_name} fails again and again: {cause}"
    return None


def _stopped_run(instance: DagsterInstance, since: float) -> str | None:
    """The newest run since a time that a person must help, if there is one."""
    for record in instance.get_run_records(RunsFilter(tags={STOPPED_TAG: "true"}), limit=1):
        if record.start_time and record.start_time > since:
            return record.dagster_run.run_id
    return None


def _read_observations(instance: DagsterInstance, cursors: dict[str, Any], progress: Progress) -> None:
    for run in instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES)):
        found = instance.get_records_for_run(
            run.run_id, cursor=cursors.get(run.run_id), of_type=DagsterEventType.ASSET_OBSERVATION
        )
        cursors[run.run_id] = found.cursor
        for record in found.records:
            observation = record.event_log_entry.asset_observation
            if observation is None or observation.partition is None:
                continue
            told = {name: value.value for name, value in observation.metadata.items()}
            if not told.keys() >= {"frames_done", "frames_total"}:
                continue  # others observe assets, too
            key = (observation.partition, observation.asset_key.to_user_string())
            progress.stages[key] = StageProgress(
                int(str(told["frames_done"])), int(str(told["frames_total"])), float(str(told.get("frames_per_s", 0)))
            )


@contextmanager
def _daemon(data_folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Dagster's daemon with its code server, in a process group that ends with the block."""
    logs = data_folder / "logs"
    logs.mkdir(exist_ok=True)
    command = [script("dagster-daemon"), "run", "-w", str(PROJECT_ROOT / "workspace.yaml")]
    with (logs / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        yield daemon
    finally:
        end_group(daemon)


def end_group(process: "subprocess.Popen[bytes]", patience_s: float = 10.0) -> None:
    """End a process and all that it started: first asked, then killed."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def script(name: str) -> str:
    """Path of a console script of this installation."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise PipelineError(f"{name} is not installed beside {sys.executable}: install the project again.")
    return found


def _outcomes(instance: DagsterInstance, store: Store, settings: Settings) -> list[Outcome]:
    progress = Progress()
    _is_complete(instance, store, settings, progress)
    recording_ids = progress.recording_ids
    rows = {row["recording_id"]: row for row in store.read(RECORDINGS, recording_ids).to_pylist()}
    sums = {row["recording_id"]: row for row in store.read(SUMMARIES, recording_ids).to_pylist()}
    seconds = seconds_by_recording(instance, recording_ids)
    outcomes = [
        _outcome(recording_id, progress.states.get(recording_id), rows.get(recording_id, {}), sums, seconds)
        for recording_id in recording_ids
    ]
    for path, reason in progress.unreadable.items():
        outcomes.append(Outcome(path, "rejected", reason, None, None, None, None, None))
    return outcomes


def _outcome(
    recording_id: str,
    state: RecordingState | None,
    row: Mapping[str, Any],
    sums: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, float],
) -> Outcome:
    status, error = ending_of(state, row)
    total = sums.get(recording_id, {}) if status in ("ok", "partial") else {}
    took = seconds.get(recording_id)
    footage_s = row.get("duration_s_from_content")
    return Outcome(
        recording_id,
        status,
        error,
        row.get("frame_count"),
        total.get("detection_count"),
        total.get("track_count"),
        took,
        footage_s / took if footage_s and took else None,
    )


def seconds_by_recording(instance: DagsterInstance, recording_ids: Sequence[str]) -> dict[str, float]:
    """Seconds that the stages of each recording took, summed over their newest materializations."""
    seconds: dict[str, float] = {}
    if not recording_ids:
        return seconds
    for name in _STEP_ASSETS:
        newest: set[str] = set()
        cursor: str | None = None
        while len(newest) < len(recording_ids):
            page = instance.fetch_materializations(
                AssetRecordsFilter(asset_key=AssetKey(name), asset_partitions=list(recording_ids)),
                limit=1000,
                cursor=cursor,
            )
            for record in page.records:
                made = record.asset_materialization
                if made is None or made.partition is None or made.partition in newest:
                    continue
                newest.add(made.partition)
                if took := made.metadata.get("seconds"):
                    seconds[made.partition] = seconds.get(made.partition, 0.0) + float(str(took.value))
            cursor = page.cursor
            if not page.has_more:
                break
    return seconds


def is_failure(outcome: Outcome) -> bool:
    """Whether the recording did not come through."""
    return outcome.status in ("rejected", "failed")
