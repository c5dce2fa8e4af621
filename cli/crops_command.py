"""The command crops: writes crops of tracked objects as JPEG files."""

from pathlib import Path

import click

from cli.options import PATH_TYPE, data_option, settings_option
from resources.environment import choose_settings


@click.command()
@click.argument("filter", required=False)
@click.option("--out", type=PATH_TYPE, required=True, help="Folder to write: a new one, or an empty one.")
@click.option("--camera", help="Only this camera; '' for recordings directly in the watched folder.")
@click.option("--class", "class_name", help="Only objects of this class.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many pictures, the earliest first.")
@data_option
@settings_option
def crops(
    filter: str | None,
    out: Path,
    camera: str | None,
    class_name: str | None,
    limit: int | None,
    data: Path | None,
    settings: Path | None,
) -> None:
    """Write the best picture of each object to a folder, with index.csv and contact_sheet.jpg.

    FILTER is an SQL condition on the columns of crops, tracks and recordings, such as "duration_s > 30" or
    "captured_at_utc >= '2026-03-01 08:00'". Times are UTC. With rank in FILTER, such as "rank <= 3", further pictures
    of each object are written.
    """
    from cli.crop_files import CropSelection, write_crop_files

    selection = CropSelection(filter, camera, class_name, limit)
    files = write_crop_files(choose_settings(settings=settings, data_folder=data), selection, out)
    if files.deleted_count:
        click.echo(f"{files.deleted_count} matching pictures were deleted by retention (retention.crops_after_days).")
    if not files.picture_count:
        click.echo("No picture matches: nothing was written.")
        return
    click.echo(
        f"{out}: {files.picture_count} pictures of {files.object_count} objects, index.csv, and contact_sheet.jpg with "
        f"{files.sheet_count} of them."
    )
