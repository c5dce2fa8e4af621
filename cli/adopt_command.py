"""The command adopt: registers the recordings and results of the tables in Dagster's storage."""

from pathlib import Path

import click

from cli.options import data_option, interrupt_on_sigterm, settings_option
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError
from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors
from resources.storage.locks import data_folder_lock

_PROGRESS_INTERVAL = 1000  # recordings


@click.command()
@data_option
@settings_option
def adopt(data: Path | None, settings: Path | None) -> None:
    """Register the recordings and results of the tables in Dagster, after a move or a lost database.

    Only the UI needs this; nothing is recomputed without it. A failed recording cannot be registered as failed: the UI
    shows it as missing, and the view recording_status names the reason.
    """
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    data_folder = loaded_settings.data_folder
    store = Store(data_folder)
    if not store.tables_folder.is_dir():
        raise PipelineError(f"The data folder {data_folder} has no tables yet: process some recordings first.")
    prepare_data_folder(loaded_settings)
    with data_folder_lock(data_folder), disk_errors(data_folder), interrupt_on_sigterm():
        from dagster import DagsterInstance

        from cv_assets.asset_graph import AssetGraph
        from sensors.adoption import register_materializations, register_partitions

        with DagsterInstance.get() as instance:
            partition_count = register_partitions(instance, store)
            graph = AssetGraph.build(loaded_settings)
            materialization_count = register_materializations(instance, store, graph, show_progress=_show_progress)
    click.echo(f"Registered {partition_count} partitions and {materialization_count} materializations.")


def recommend_adoption(data_folder: Path) -> None:
    """Print a sentence that recommends the command if Dagster has no recordings although the tables have results."""
    from dagster import DagsterInstance

    from sensors.adoption import needs_adoption

    with DagsterInstance.get() as instance:
        if needs_adoption(instance, Store(data_folder)):
            click.echo(
                "Dagster's storage is new, and the tables have results: nothing is recomputed; cv-assets adopt "
                "registers them for the UI.",
                err=True,
            )


def _show_progress(done: int, total: int) -> None:
    if done == total or done % _PROGRESS_INTERVAL == 0:
        click.echo(f"{done} of {total} recordings", err=True)
