"""The command stale: lists stale partitions and the reason."""

from collections import Counter
from pathlib import Path

import click

from cli.options import PATH_TYPE, data_option, settings_option, warn_of_unmatched_names, weights_option
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError
from resources.storage.delta_store import Store


@click.command()
@click.argument("folder", type=PATH_TYPE, required=False)
@data_option
@weights_option
@settings_option
@click.option("--each", is_flag=True, help="Print a line for every recording.")
def stale(folder: Path | None, data: Path | None, weights: str | None, settings: Path | None, each: bool) -> None:
    """List stale partitions and the reason: which setting had which value and has which now.

    With FOLDER, those of `process FOLDER`; without it, the watched folder of the settings.
    """
    from cli.stale_report import count_recordings, read_stale_report
    from cv_assets.asset_graph import AssetGraph

    loaded_settings = choose_settings(settings=settings, watched_folder=folder, data_folder=data, weights=weights)
    data_folder = loaded_settings.data_folder
    if not any((data_folder / name).is_dir() for name in ("dagster", "tables")):
        raise PipelineError(f"The data folder {data_folder} has no pipeline yet: process some recordings first.")
    prepare_data_folder(loaded_settings)
    warn_of_unmatched_names(loaded_settings)
    report = read_stale_report(Store(data_folder), AssetGraph.build(loaded_settings))
    if each:
        for asset in report.assets:
            click.echo(f"{asset.recording_id}  {asset.asset_name}: {asset.reason}")
    else:
        for (name, reason), count in Counter((asset.asset_name, asset.reason) for asset in report.assets).items():
            click.echo(f"{name}: {reason} ({count_recordings(count)})")
    stale_count = len({asset.recording_id for asset in report.assets})
    click.echo(f"{stale_count} of {report.recording_count} recordings have stale assets.")
    if count := report.cheap.recording_count:
        click.echo(
            f"cv-assets process FOLDER recomputes those of {count} that need neither a model nor the video again."
        )
    if count := report.costly.recording_count:
        click.echo(
            f"cv-assets process FOLDER --stale recomputes those of {count} that need a model or the video again."
        )
    if count := report.without_file.recording_count:
        click.echo(
            f"{count} of these have no file with their content in the watched folders: what needs the file stays stale "
            "until it is put back."
        )
