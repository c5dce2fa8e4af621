"""The command repair: moves damaged files of tables aside, and has lost results computed again."""

from pathlib import Path

import click

from cli.options import data_option, interrupt_on_sigterm, settings_option
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError
from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors
from resources.storage.locks import data_folder_lock


@click.command()
@data_option
@settings_option
def repair(data: Path | None, settings: Path | None) -> None:
    """Repair damaged tables: damaged files are moved aside, and the next run computes what is lost again."""
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    data_folder = loaded_settings.data_folder
    store = Store(data_folder)
    if not store.tables_folder.is_dir():
        raise PipelineError(f"The data folder {data_folder} has no tables yet: process some recordings first.")
    prepare_data_folder(loaded_settings)
    with data_folder_lock(data_folder), disk_errors(data_folder), interrupt_on_sigterm():
        from dagster import DagsterInstance

        from cv_assets.asset_graph import AssetGraph
        from resources.storage.integrity import check_storage, describe_lost, is_rewritten
        from resources.storage.results_database import publish
        from resources.storage.table_repair import TableRepair
        from sensors.crash_recovery import kill_orphaned_processes
        from sensors.lost_results import (
            add_missing_partitions,
            add_missing_videos,
            find_results_to_recompute,
            mark_as_interrupted,
        )

        kill_orphaned_processes(data_folder)
        report, tables = check_storage(store, contents=True), TableRepair(store)
        for sentence in (*report.damage_sentences, *report.rewritten):
            click.echo(sentence.partition(": run cv-assets")[0].rstrip(".") + ".")
        outdated_names = {damage.table_name for damage in report.damages}
        report = tables.repair(report)
        for sentence in describe_lost(report.lost):
            click.echo(f"{sentence}.")
        for name in sorted(tables.repaired_names):
            if is_rewritten(store.tables_folder, name):
                click.echo(f"{name}: the pipeline writes lost rows again.")
        graph = AssetGraph.build(loaded_settings)
        results = find_results_to_recompute(report, graph, tables.repaired_names | outdated_names)
        for sentence in add_missing_videos(results, store, graph):
            click.echo(sentence, err=True)
        mark_as_interrupted(results, store)
        with DagsterInstance.get() as instance:
            add_missing_partitions(instance, {recording_id for recording_id, _ in results})
        publish(store, loaded_settings)
    if tables.moved_count:
        click.echo(f"Moved {tables.moved_count} damaged files to {tables.folder}; nothing was deleted.")
    if not results:
        click.echo("No further results are missing." if tables.repaired_names else "No results are missing.")
        return
    recording_count = len({recording_id for recording_id, _ in results})
    recordings = "1 recording" if recording_count == 1 else f"{recording_count} recordings"
    stages = ", ".join(sorted({stage for _, stage in results}))
    click.echo(f"Lost results of {recordings} ({stages}) are computed again by cv-assets dev, or by cv-assets process.")
