"""The command stale: lists stale partitions and the reason."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import data_option, settings_option, warn_of_unmatched_names
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError
from resources.source_index import SourceIndex
from resources.storage.delta_store import Store

if TYPE_CHECKING:
    from resources.config.settings import Settings
    from sensors.staleness import StaleAsset


@click.command()
@data_option
@settings_option
@click.option("--each", is_flag=True, help="Print a line for every recording.")
def stale(data: Path | None, settings: Path | None, each: bool) -> None:
    """List stale partitions and the reason."""
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    data_folder = loaded_settings.data_folder
    if not any((data_folder / name).is_dir() for name in ("dagster", "tables")):
        raise PipelineError(f"The data folder {data_folder} has no pipeline yet: process some recordings first.")
    prepare_data_folder(loaded_settings)
    warn_of_unmatched_names(loaded_settings)
    recording_count, assets, without_file_count = _find_stale_assets(loaded_settings)
    if each:
        for asset in assets:
            click.echo(f"{asset.recording_id}  {asset.asset_name}: {asset.reason}")
    else:
        for (name, reason), count in Counter((asset.asset_name, asset.reason) for asset in assets).items():
            click.echo(f"{name}: {reason} ({count} recording{'s' * (count != 1)})")
    stale_count = len({asset.recording_id for asset in assets})
    click.echo(f"{stale_count} of {recording_count} recordings have stale assets.")
    if without_file_count:
        click.echo(
            f"{without_file_count} of these have no file with their content in the watched folders: what needs the "
            "file stays stale until it is put back."
        )


def _find_stale_assets(settings: "Settings") -> tuple[int, "list[StaleAsset]", int]:
    """Return the number of all recordings, the stale assets, and how many of their recordings have no file."""
    from dagster import DagsterInstance

    from cv_assets.asset_graph import AssetGraph
    from cv_assets.camera_settings import cameras_of
    from cv_assets.partitions import recordings_partitions
    from sensors.staleness import stale_assets

    store = Store(settings.data_folder)
    with DagsterInstance.get() as instance:
        recording_ids = instance.get_dynamic_partitions(recordings_partitions.name or "")
    assets = stale_assets(store, cameras_of(store, recording_ids), AssetGraph.build(settings))
    stale_ids = {asset.recording_id for asset in assets}
    with_file = SourceIndex(store).recordings_with_file(sorted(stale_ids), settings.watched_folder)
    return len(recording_ids), assets, len(stale_ids - with_file)
