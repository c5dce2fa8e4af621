"""The checks of the tables when a pipeline starts, and when results are published for a query."""

from pathlib import Path

import click

from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.storage.delta_store import Store
from resources.storage.integrity import check_storage
from resources.storage.locks import is_pipeline_running
from resources.storage.results_database import publish_if_unusable
from resources.storage.table_repair import TableRepair
from resources.workers.worker_states import runs_of_other_processes
from sensors.crash_recovery import kill_orphaned_processes

_MAX_SENTENCES = 5


def check_tables_at_start(data_folder: Path) -> bool:
    """Check the tables, undo commits that a power cut has cut off, and print what is lost.

    Call this function only in the process that holds the data folder's lock.

    Args:
        data_folder: The data folder.

    Returns:
        Whether the tables have all results.

    Raises:
        PipelineError: A table cannot be read: a person must repair it first.
    """
    kill_orphaned_processes(data_folder)
    store = Store(data_folder)
    has_runs = bool(runs_of_other_processes(data_folder))
    report, repair = check_storage(store, is_idle=not has_runs), TableRepair(store)
    if report.damages:
        report = repair.undo_unfinished_commits(report)
    if repair.moved_count:
        names = ", ".join(sorted(repair.repaired_names))
        click.echo(
            f"{names}: the newest commits were cut off, as by a power cut, and are undone ({repair.moved_count} files "
            f"are in {repair.folder}); their recordings are processed again.",
            err=True,
        )
    if report.damages:
        raise PipelineError(_join(report.damage_sentences))
    for sentence in (*report.lost_sentences, *report.rewritten):
        click.echo(sentence, err=True)
    return not report.lost


def publish_for_query(settings: Settings) -> None:
    """Publish the results if they are missing or unusable, and print which rows the tables have lost.

    Raises:
        PipelineError: The data folder cannot be written, or a table is damaged.
    """
    store = Store(settings.data_folder)
    if publish_if_unusable(store, settings):
        report = check_storage(store, is_idle=not is_pipeline_running(settings.data_folder))
        for sentence in (*report.damage_sentences, *report.lost_sentences, *report.rewritten):
            click.echo(sentence, err=True)


def _join(sentences: list[str]) -> str:
    more = len(sentences) - _MAX_SENTENCES
    return " ".join(sentences[:_MAX_SENTENCES]) + (f" And {more} more tables are damaged." if more > 0 else "")
