"""The commands forget and keep: delete recordings for good, and protect recordings from deletion."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from cli.options import data_option, interrupt_on_sigterm, settings_option
from resources.config.settings import Settings
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError
from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors

_MAX_LISTED = 10


@click.command()
@click.argument("recordings", nargs=-1, metavar="[RECORDING]...")
@click.option("--camera", help='All recordings of a camera ("": those directly in the watched folder).')
@click.option("--before", metavar="DATE", help="Only recordings that began before this date or time; UTC by default.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--undo", is_flag=True, help="Allow to ingest the files of forgotten recordings again.")
@data_option
@settings_option
def forget(
    recordings: tuple[str, ...],
    camera: str | None,
    before: str | None,
    yes: bool,
    undo: bool,
    data: Path | None,
    settings: Path | None,
) -> None:
    """Delete all that was computed from recordings, for good.

    Rows, videos, crops and the recordings themselves are deleted. Files in the watched folder stay, and neither they
    nor copies of them are ingested again.
    """
    before_time = _parse_time(before) if before is not None else None
    if bool(recordings) == (camera is not None or before is not None):
        raise PipelineError("forget: name recordings, or select them with --camera, --before or both.")
    if undo and not recordings:
        raise PipelineError("forget --undo: name the recordings, or the paths of their files.")
    loaded_settings = _open_data_folder(data, settings)
    store = Store(loaded_settings.data_folder)
    if undo:
        from sensors.forgetting import ingest_again

        paths = [path for name in recordings for path in ingest_again(store, name)]
        click.echo(f"{', '.join(paths)}: ingested again when the pipeline starts next, if the file is still there.")
        return
    with disk_errors(loaded_settings.data_folder), interrupt_on_sigterm():
        _forget(store, loaded_settings, recordings, camera, before_time, is_confirmed=yes)


def _forget(
    store: Store,
    settings: Settings,
    recordings: Sequence[str],
    camera: str | None,
    before: datetime | None,
    *,
    is_confirmed: bool,
) -> None:
    from dagster import DagsterInstance

    from cv_assets.asset_graph import AssetGraph
    from sensors.forgetting import (
        check_camera,
        check_known,
        find_recordings,
        forget_recordings,
        interrupted_recordings,
        known_recordings,
    )
    from sensors.retention import kept_recordings

    with DagsterInstance.get() as instance:
        check_known(recordings, known_recordings(instance, store), store)
        if camera is not None:
            check_camera(store, camera)
        selected = list(dict.fromkeys(recordings)) or find_recordings(store, settings, camera, before)
        interrupted, kept = interrupted_recordings(store), set() if recordings else kept_recordings(store)
        if kept_count := len(kept & set(selected)):
            click.echo(f"{kept_count} of the selected recordings are kept, and are not deleted.", err=True)
        selected = [name for name in dict.fromkeys([*selected, *sorted(interrupted)]) if name not in kept]
        if not selected:
            click.echo("No recording is selected: nothing to forget.")
            return
        others = f" and {len(selected) - _MAX_LISTED} others" if len(selected) > _MAX_LISTED else ""
        click.echo(
            f"{', '.join(selected[:_MAX_LISTED])}{others}: rows, videos, crops and the runs that processed them will "
            "be deleted for good. Files in the watched folder stay, and are not ingested again.",
            err=True,
        )
        if not is_confirmed:
            _confirm(len(selected))
        forget_recordings(instance, store, AssetGraph.build(settings), selected)
    click.echo(f"Forgot {len(selected)} recording{'s' * (len(selected) != 1)}.")


@click.command()
@click.argument("recordings", nargs=-1, required=True, metavar="RECORDING...")
@click.option("--reason", help="Why the recordings are kept.")
@click.option("--undo", is_flag=True, help="Allow to delete the recordings again.")
@data_option
@settings_option
def keep(recordings: tuple[str, ...], reason: str | None, undo: bool, data: Path | None, settings: Path | None) -> None:
    """Keep recordings: neither retention nor forget deletes them."""
    loaded_settings = _open_data_folder(data, settings)
    from dagster import DagsterInstance

    from resources.storage.results_database import publish
    from sensors.forgetting import check_known, keep_recordings, known_recordings, release_recordings

    store = Store(loaded_settings.data_folder)
    with DagsterInstance.get() as instance:
        check_known(recordings, known_recordings(instance, store), store)
    if undo:
        release_recordings(store, recordings)
    else:
        keep_recordings(store, recordings, reason)
    publish(store, loaded_settings)
    click.echo(f"{', '.join(recordings)}: {'may be deleted again' if undo else 'kept until cv-assets keep --undo'}.")


def _open_data_folder(data: Path | None, settings: Path | None) -> Settings:
    """Load the settings, and prepare the data folder.

    Raises:
        PipelineError: The data folder has no pipeline yet.
    """
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    data_folder = loaded_settings.data_folder
    if not any((data_folder / name).is_dir() for name in ("dagster", "tables")):
        raise PipelineError(f"The data folder {data_folder} has no pipeline yet: name another one with --data.")
    prepare_data_folder(loaded_settings)
    return loaded_settings


def _parse_time(text: str) -> datetime:
    """Parse a date or time in ISO 8601 notation; without an offset it is UTC.

    Raises:
        PipelineError: The text is neither.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise PipelineError(
            f"--before: {text!r} is neither a date nor a time: write 2026-03-31 or 2026-03-31T18:00+01:00."
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _confirm(count: int) -> None:
    """Ask a person to confirm.

    Raises:
        PipelineError: There is no terminal to ask on, or the answer is no.
    """
    if not sys.stdin.isatty():
        raise PipelineError("forget: there is no terminal to ask on; add --yes to delete without a question.")
    if not click.confirm(f"Delete {count} recording{'s' * (count != 1)} for good?", err=True):
        raise PipelineError("forget: nothing was deleted.")
