"""Recovery after a kill or a power cut: kills orphaned processes, fails interrupted runs, frees their queue slots."""

import os
from contextlib import suppress
from pathlib import Path

import psutil
from dagster import DagsterInstance, RunsFilter

from cv_assets.batch import STOPPED_TAG
from resources.dagster_instance.dagster_names import IN_PROGRESS_STATUSES
from resources.dagster_instance.postgres_database import is_database_unreachable


def fail_interrupted_runs(instance: DagsterInstance, data_folder: Path) -> int:
    """Fail the runs that a power cut or a kill interrupted, so that the run planner requests their work again at once.

    Orphaned processes are killed first, before they can write. The interrupted runs' concurrency slots are freed.

    Call this function only in the process that holds the data folder's lock, before that process starts a daemon.

    Returns:
        Number of interrupted runs.
    """
    _kill_orphaned_processes(data_folder / "dagster")
    interrupted = instance.get_runs(RunsFilter(statuses=IN_PROGRESS_STATUSES))
    for run in interrupted:
        instance.add_run_tags(run.run_id, {STOPPED_TAG: "true"})
        instance.report_run_failed(run, "Interrupted: the pipeline was stopped before this run ended.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return len(interrupted)


def mark_running_as_interrupted(instance: DagsterInstance) -> None:
    """Mark the runs in progress as interrupted, so that they do not count as attempts at their recordings."""
    if is_database_unreachable():
        return  # stopping the pipeline must not wait for the database
    for run in instance.get_runs(RunsFilter(statuses=IN_PROGRESS_STATUSES)):
        instance.add_run_tags(run.run_id, {STOPPED_TAG: "true"})


def _kill_orphaned_processes(dagster_home: Path) -> None:
    """Kill the Dagster processes of this data folder: while its lock is held, they belong to no running pipeline."""
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
