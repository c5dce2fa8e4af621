"""The format of the tables: which data folders this version of the program can read and write.

Added columns do not change the format: they read as NULL in older tables. A column that is removed, renamed or changes
its meaning does.
"""

from resources.errors import PipelineError
from resources.storage.tables_location import TablesLocation

FORMAT_VERSION = 1
_FILE_NAME = "format_version"


def check_format(location: TablesLocation) -> None:
    """Check that this version of the program can read and write the tables.

    Args:
        location: The tables; there need not be any.

    Raises:
        PipelineError: The tables have an older or a newer format, or it cannot be read.
    """
    file = f"{location.address}/{_FILE_NAME}"
    # In this order: the file is written before the first table, so that tables without it are older than it.
    has_tables = location.has_tables()
    try:
        stored_text = location.read_text(_FILE_NAME)
    except OSError as error:
        raise PipelineError(f"{file} cannot be read: {error.strerror or error}.") from error
    text = ("0" if has_tables else str(FORMAT_VERSION)) if stored_text is None else stored_text.strip()
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
        f"The data folder {location.folder.parent} was written by {'an older' if is_older else 'a newer'} version of "
        f"cv-assets (its tables have the format {text}, this version reads {FORMAT_VERSION}): {remedy} with --data or "
        "data_folder."
    )


def write_format(location: TablesLocation) -> None:
    """Record the format before the first table is created; does nothing where it is recorded."""
    if location.read_text(_FILE_NAME) is None:
        location.write_text(_FILE_NAME, f"{FORMAT_VERSION}\n")
