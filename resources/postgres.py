"""The PostgreSQL database that keeps Dagster's history where CV_ASSETS_POSTGRES names one, and whose it is.

Without the variable Dagster's history lies in SQLite files in the data folder. The variable is read by every process
of a pipeline; its password is written nowhere and told to nobody.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.errors import PipelineError

if TYPE_CHECKING:
    import psycopg2.extensions
    import sqlalchemy

POSTGRES_VARIABLE = "CV_ASSETS_POSTGRES"
OWNER_KEY = "cv_assets/data_folder"
"""Key in Dagster's key-value store under which a database says which data folder it belongs to."""

_EXAMPLE = "postgresql://user:password@host:5432/database"
_CONNECT_TIMEOUT_S = 5


def database_url() -> "sqlalchemy.URL | None":
    """The chosen database with the driver that dagster-postgres brings; None means SQLite.

    Raises:
        PipelineError: The variable holds no URL of a PostgreSQL database.
    """
    text = os.environ.get(POSTGRES_VARIABLE)
    if not text:
        return None
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(text)
        # With an @ in the password the rest of it would be taken, and told, for the server's name.
        is_usable = url.get_backend_name() == "postgresql" and bool(url.database) and text.count("@") <= 1
    except (sqlalchemy.exc.ArgumentError, ValueError):
        is_usable = False
    if not is_usable:
        # The text itself is not told: a part of it may be a password.
        raise PipelineError(
            f"{POSTGRES_VARIABLE} is no URL of a database: write it as {_EXAMPLE}, with @ and % in the password "
            "as %40 and %25."
        )
    return url.set(drivername="postgresql+psycopg2")


def described(url: "sqlalchemy.URL") -> str:
    """The database in words, without its password."""
    where = f"{url.host or 'the local socket'}{f':{url.port}' if url.port else ''}"
    return f"{url.database} on {where}"


def check_database(data_folder: Path) -> None:
    """Prove that the chosen database answers, may be written and belongs to this data folder, or to none yet.

    Raises:
        PipelineError: It does not, or none is chosen although the data folder's history lies in one.
    """
    url = database_url()
    if url is None:
        note = _note(data_folder)
        if note.exists():
            raise PipelineError(
                f"The history of {data_folder} lies in PostgreSQL ({note.read_text().strip()}): set "
                f"{POSTGRES_VARIABLE} as before; to go back to SQLite, run `cv-assets leave-postgres` with it set."
            )
        return
    with _connection(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('kvs'), to_regclass('runs'), current_schema(), current_user")
        kvs, runs, schema, user = cursor.fetchone() or ()
        if kvs is None:
            cursor.execute("SELECT has_schema_privilege(%s, 'CREATE')", (schema,))
            if schema is None or cursor.fetchone() != (True,):
                raise PipelineError(
                    f"The user {user} may not create tables in the PostgreSQL database {described(url)}: "
                    f'make it the owner with ALTER DATABASE "{url.database}" OWNER TO "{user}".'
                )
            return
        cursor.execute("SELECT value FROM kvs WHERE key = %s", (OWNER_KEY,))
        if found := cursor.fetchone():
            _check_owner(url, json.loads(found[0]), data_folder)
            return
        cursor.execute("SELECT EXISTS (SELECT FROM runs)" if runs else "SELECT false")
        if cursor.fetchone() == (True,):
            raise PipelineError(_refusal(url, "another Dagster instance"))


def _check_owner(url: "sqlalchemy.URL", owner: dict[str, Any], data_folder: Path) -> None:
    """Refuse a database of another data folder, or of the one that this is a copy of."""
    owners_path = Path(owner["path"])
    is_moved = owner["id"] == folder_id(data_folder) and (
        not _id_file(owners_path).exists() or owners_path.samefile(data_folder)
    )
    if not is_moved:
        raise PipelineError(_refusal(url, f"the data folder {owners_path}"))


def _refusal(url: "sqlalchemy.URL", owner: str) -> str:
    return (
        f"The PostgreSQL database {described(url)} belongs to {owner}: give this data folder a database of its own "
        f"and name it in {POSTGRES_VARIABLE}."
    )


def folder_id(data_folder: Path) -> str:
    """What tells this data folder from others wherever it is moved; made when first asked for."""
    file = _id_file(data_folder)
    if not file.exists():
        file.write_text(os.urandom(8).hex())
    return file.read_text().strip()


def note_choice(data_folder: Path, url: "sqlalchemy.URL | None") -> None:
    """Leave a note in the data folder of where its history lies, so that nobody starts without it by mistake."""
    if url is None:
        _note(data_folder).unlink(missing_ok=True)
    else:
        _note(data_folder).write_text(described(url) + "\n")


def is_history_to_be_brought(data_folder: Path) -> bool:
    """Whether a database is chosen to which the data folder's history has not been taken along yet."""
    return bool(os.environ.get(POSTGRES_VARIABLE)) and not _note(data_folder).exists()


def is_out_of_reach() -> bool:
    """Whether a database is chosen that does not answer just now."""
    url = database_url()
    if url is None:
        return False
    try:
        with _connection(url):
            return False
    except PipelineError:
        return True


def postgres_problem(error: BaseException) -> str | None:
    """The sentence for an error that means the chosen database is out of reach; None for any other error."""
    if not os.environ.get(POSTGRES_VARIABLE):
        return None
    import psycopg2

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, psycopg2.OperationalError | psycopg2.InterfaceError):
        cause = cause.__cause__
    url = database_url()
    return _unreachable(url, cause) if cause is not None and url is not None else None


def _unreachable(url: "sqlalchemy.URL", error: BaseException) -> str:
    # libpq tells each address that it tried in a line of its own; what it was refused stands after the last colon.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "failed:" in line or "FATAL:" in line), lines[0] if lines else "no reason")
    reason = told.rsplit("failed: ", 1)[-1].removeprefix("FATAL: ").strip().rstrip(".")
    return (
        f"The PostgreSQL database {described(url)} cannot be used: {reason}. Start its server or mend "
        f"{POSTGRES_VARIABLE}, then run the same command again; finished work is kept."
    )


@contextmanager
def _connection(url: "sqlalchemy.URL") -> "Iterator[psycopg2.extensions.connection]":
    import psycopg2

    plain = url.set(drivername="postgresql")
    if "connect_timeout" not in plain.query:
        plain = plain.update_query_dict({"connect_timeout": str(_CONNECT_TIMEOUT_S)})
    connection = None
    try:
        connection = psycopg2.connect(plain.render_as_string(hide_password=False))
        yield connection
    except psycopg2.OperationalError as error:
        raise PipelineError(_unreachable(url, error)) from error
    except psycopg2.ProgrammingError as error:
        # libpq quotes options that it does not know, and a password with odd characters may look like one.
        raise PipelineError(f"{POSTGRES_VARIABLE} has options that PostgreSQL does not know.") from error
    finally:
        if connection is not None:
            connection.close()


def _id_file(data_folder: Path) -> Path:
    return data_folder / ".pipeline.id"


def _note(data_folder: Path) -> Path:
    return data_folder / "dagster" / "postgres"
