"""Erasure of deleted rows from the disk: Delta tables keep the files of their older versions for a day.

Files that a repair has moved aside are searched, too.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from pyarrow.dataset import dataset, field

from resources.schema.columns import Table
from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors

logger = logging.getLogger(__name__)


def erase_old_files(store: Store, table: Table, column: str, values: Sequence[str]) -> int:
    """Delete the files of a table's older versions, and of writes that a kill interrupted, that have certain rows.

    Other old files stay, because a query that began before may still read them.

    Args:
        store: The tables, synced to the disk: without the newest commits, the erased files would be missing.
        table: The table; its newest version has none of the rows.
        column: A text column.
        values: The values of the column in the rows.

    Returns:
        The number of files deleted.

    Raises:
        PipelineError: The data folder is read-only or not accessible.
    """
    current_names = {Path(path).name for path in store.files(table)}
    location = store.location
    has_value = field(column).isin(pa.array(list(values), pa.string()))
    table_folder = location.folder / table.name
    folders = [table_folder, *store.data_folder.glob(f"damaged/*/tables/{table.name}")]
    count = 0
    with disk_errors(store.data_folder):
        if location.has_table(table.name):
            for name, size_bytes in location.stored_sizes(table.name).items():
                with suppress(FileNotFoundError):  # vacuumed in the meantime
                    location.local_files(table.name, {name: size_bytes})
        for file in (file for folder in folders for file in folder.glob("*.parquet")):
            if file.name in current_names:
                continue
            try:
                has_rows = dataset(file, format="parquet").count_rows(filter=has_value) > 0
            except (OSError, pa.ArrowInvalid) as error:
                # Vacuumed in the meantime, or damaged, or without its end: being written, or its writer was killed.
                logger.info("%s is not examined: %s", file, error)
                continue
            if has_rows:
                if file.parent == table_folder:
                    location.delete_file(table.name, file.name)
                else:
                    file.unlink(missing_ok=True)
                count += 1
    return count
