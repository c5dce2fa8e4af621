"""Recovery after a kill or a power cut: kills orphaned processes, cancels interrupted runs, frees their queue slots."""

import os
from collections.abc import Container, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from cv_assets.batch import STOPPED_TAG
from resources.dagster_instance.dagster_names import IN_PROGRESS_STATUSES
from resources.dagster_instance.postgres_database import is_database_unreachable
from resources.storage.leftovers import remove_leftovers
from resources.workers import run_executor
from resources.workers.worker_states import runs_of_other_processes

INTERRUPTED_TAG = "cv_assets/interrupted"
"""Tag of a run that the end of the pipeline has canceled, no person."""
PAGES_MODULE = "serve.web_server"
"""The module of the pages' process, which this wing does not import; that of `cv-assets serve` is another."""


def cancel_interrupted_runs(instance: DagsterInstance, data_folder: Path) -> int:
    """Cancel the runs that a power cut or a kill interrupted, so that the run planner requests their work again.

    Orphaned processes are killed first, before they can write. The interrupted runs' concurrency slots are freed, and
    the unfinished files of killed processes are removed.

    Call this function only in the process that holds the data folder's lock, before that process starts a daemon.

    Returns:
        Number of interrupted runs.
    """
    have_orphans_ended = kill_orphaned_processes(data_folder)
    # Workers of other machines, and those that `cv-assets worker` runs on this one, go on with theirs.
    live_run_ids = runs_of_other_processes(data_folder)
    in_progress = instance.get_runs(RunsFilter(statuses=IN_PROGRESS_STATUSES))
    interrupted = [run for run in in_progress if run.run_id not in live_run_ids]
    for run in interrupted:
        instance.add_run_tags(run.run_id, {STOPPED_TAG: "true", INTERRUPTED_TAG: "true"})
        instance.report_run_canceled(run, "Interrupted: the pipeline was stopped before this run ended.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    if have_orphans_ended and not live_run_ids:
        remove_leftovers(data_folder)
    return len(interrupted)


def mark_running_as_interrupted(
    instance: DagsterInstance, run_ids: Sequence[str] | None = None, *, kept_run_ids: Container[str] = ()
) -> None:
    """Mark runs in progress as interrupted, before their processes are terminated.

    They do not count as attempts at their recordings, and Dagster shows them as canceled, not as failed.

    Args:
        instance: Dagster's instance.
        run_ids: The runs; None means all.
        kept_run_ids: Runs that go on.
    """
    if is_database_unreachable():
        return  # stopping the pipeline must not wait for the database
    for run in instance.get_runs(RunsFilter(run_ids=run_ids, statuses=IN_PROGRESS_STATUSES)):
        if run.run_id in kept_run_ids:
            continue
        instance.add_run_tags(run.run_id, {STOPPED_TAG: "true", INTERRUPTED_TAG: "true"})
        if run.status != DagsterRunStatus.CANCELING:
            instance.report_run_canceling(run, "Interrupted: the pipeline is being stopped.")


def kill_orphaned_processes(data_folder: Path) -> bool:
    """Kill the processes of `cv-assets dev` on this data folder: with its lock held, they are of no running pipeline.

    Returns:
        Whether all of them have ended.
    """
    dagster_home, orphans = data_folder / "dagster", list[psutil.Process]()
    for process in psutil.process_iter(["cmdline", "ppid"]):
        command = process.info["cmdline"] or []
        is_of_dev = PAGES_MODULE in command or any("dagster" in Path(part).name for part in command)
        if not (is_of_dev or _is_orphaned_executor(process)) or process.pid == os.getpid():
            continue
        with suppress(psutil.Error):
            if _is_same_folder(process.environ().get("DAGSTER_HOME"), dagster_home):
                orphans.append(process)
                process.kill()
    _, remaining = psutil.wait_procs(orphans, timeout=10)
    return all(map(_has_ended, remaining))


def _is_orphaned_executor(process: psutil.Process) -> bool:
    """Whether a process executed the runs of a worker that has ended."""
    return run_executor.__name__ in (process.info["cmdline"] or []) and process.info["ppid"] == 1


def _has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended; in a container nothing may collect the exit status of an orphan."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _is_same_folder(path: str | None, folder: Path) -> bool:
    """Whether a path names a folder, also by another spelling, through a link or through a second mount."""
    try:
        return path is not None and folder.samefile(path)
    except OSError:
        return False
