"""A file that people see once it is whole."""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from resources.errors import PipelineError


@contextmanager
def draft_file(what: str, file: Path) -> Iterator[Path]:
    """Provide a hidden file beside another one, which it becomes, or replaces, at the end of the block.

    Each block has a file of its own: several processes may write the same file, and the last one wins.

    Args:
        what: What the file is, for the error.
        file: The file.

    Raises:
        PipelineError: The file cannot be written.
    """
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield draft
        draft.replace(file)
    except (OSError, duckdb.IOException) as error:
        raise PipelineError(f"The {what} {file} cannot be written: {reason_of(error)}.") from error
    finally:
        draft.unlink(missing_ok=True)


def reason_of(error: OSError | duckdb.IOException) -> str:
    """Why a file cannot be written, as a clause."""
    if isinstance(error, OSError):
        return str(error.strerror or error)
    number = re.search(r'"errno":"(\d+)"', str(error))  # which DuckDB names in a JSON document
    return os.strerror(int(number[1])) if number else str(error).splitlines()[0].rstrip(".")
