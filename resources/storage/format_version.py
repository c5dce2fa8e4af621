"""The format of the tables: which data folders this version of the program can read and write.

Added columns do not change the format: they read as NULL in older tables. A column that is removed, renamed or changes
its meaning does.
"""

import os
import threading
from pathlib import Path

from resources.errors import PipelineError

FORMAT_VERSION = 1
_FILE_NAME = "format_version"


def check_format(tables_folder: Path) -> None:
    """Check that this version of the program can read and write the tables.

    Args:
        tables_folder: Folder of the tables; it need not exist.

    Raises:
        PipelineError: The tables have an older or a newer format, or it cannot be read.
    """
    file = tables_folder / _FILE_NAME
    # In this order: the file is written before the first table, so that tables without it are older than it.
    has_tables = any(tables_folder.glob("*/_delta_log"))
    try:
        text = file.read_text(errors="replace").strip()
    except FileNotFoundError:
        text = "0" if has_tables else str(FORMAT_VERSION)
    except OSError as error:
        raise PipelineError(f"{file} cannot be read: {error.strerror or error}.") from error
    if text == str(FORMAT_VERSION):
        return
    if not text.isdecimal():
        raise PipelineError(
            f"{file} must contain the number of a format, not {text[:40]!r}: restore the file, or choose another data "
            "folder with --data or data_folder."
        )
    is_older = int(text) < FORMAT_VERSION
    remedy = "process its recordings again in a new one" if is_older else "install that version, or choose another one"
    raise PipelineError(
        f"The data folder {tables_folder.parent} was written by {'an older' if is_older else 'a newer'} version of "
        f"cv-assets (its tables have the format {text}, this version reads {FORMAT_VERSION}): {remedy} with --data or "
        "data_folder."
    )


def write_format(tables_folder: Path) -> None:
    """Record the format before the first table is created; does nothing where it is recorded."""
    file = tables_folder / _FILE_NAME
    if not file.exists():
        partial = file.with_name(f".{_FILE_NAME}-{os.getpid()}-{threading.get_ident()}")
        partial.write_text(f"{FORMAT_VERSION}\n")
        partial.replace(file)
