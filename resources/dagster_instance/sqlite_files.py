"""The SQLite files of Dagster's storage in the data folder: the sentence for damaged ones, and their check."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from resources.dagster_instance.postgres_database import POSTGRES_VARIABLE

_DAMAGE_TEXTS = ("file is not a database", "disk image is malformed", "no such table", "no such column")


def sqlite_problem(error: BaseException) -> str | None:
    """A sentence for an error whose cause is a damaged file of Dagster's storage; None for any other error."""
    home = os.environ.get("DAGSTER_HOME")
    if not home or os.environ.get(POSTGRES_VARIABLE):
        return None
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, sqlite3.DatabaseError) and any(text in str(cause) for text in _DAMAGE_TEXTS):
            reason = next(damaged_files(Path(home)), f"a file in {home} is damaged")
            return (
                f"Dagster's storage cannot be used: {reason}. Move the folder {home} aside and run cv-assets adopt: no "
                "results are lost, only the history of runs."
            )
        cause = cause.__cause__ or cause.__context__
    return None


def damaged_files(home: Path) -> Iterator[str]:
    """Describe the files of Dagster's storage that SQLite cannot read; those of single runs are left out.

    Args:
        home: Dagster's home folder.
    """
    for path in (home / "history" / "runs.db", home / "history" / "runs" / "index.db", home / "schedules/schedules.db"):
        if not path.exists():
            continue
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        except sqlite3.OperationalError:
            continue  # locked, or not readable for this user: others report that
        except sqlite3.DatabaseError as error:
            yield f"{path} is damaged ({error})"
            continue
        if not names:
            yield f"{path} is empty"
