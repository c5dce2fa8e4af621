"""The PostgreSQL database of Dagster's storage: its URL from CV_ASSETS_POSTGRES, its checks and its owner.

Without the variable the storage consists of SQLite files in the data folder. Every process of a pipeline reads the
variable; the password in it is never stored and never shown.
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
"""Key in Dagster's key-value store under which a database records the data folder that it belongs to."""
_DRIVER = "psycopg2"  # the one that dagster-postgres installs and whose errors it knows
_PLAIN_SCHEME, _SCHEME = "postgresql://", f"postgresql+{_DRIVER}://"
_EXAMPLE = f"{_SCHEME}user:password@host:5432/database"
_CONNECT_TIMEOUT_S = 5


def name_postgres_driver() -> None:
    """Name the driver in CV_ASSETS_POSTGRES, for this process and its child processes, if the URL names none.

    Dagster passes the variable to SQLAlchemy, which would choose a driver that is not installed.
    """
    text = os.environ.get(POSTGRES_VARIABLE, "")
    if text.startswith(_PLAIN_SCHEME):
        os.environ[POSTGRES_VARIABLE] = _SCHEME + text.removeprefix(_PLAIN_SCHEME)


def database_url() -> "sqlalchemy.URL | None":
    """The URL of the configured database; None means SQLite.

    Raises:
        PipelineError: The variable is not the URL of a PostgreSQL database, or names another driver.
    """
    text = os.environ.get(POSTGRES_VARIABLE)
    if not text:
        return None
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(text)
        # With an @ in the password, the part after it would be parsed, and shown, as the server's name.
        is_usable = url.get_backend_name() == "postgresql" and bool(url.database) and text.count("@") <= 1
    except (sqlalchemy.exc.ArgumentError, ValueError):
        is_usable = False
    if not is_usable:
        # The message leaves out the text itself: a part of it may be a password.
        raise PipelineError(
            f"{POSTGRES_VARIABLE} is not the URL of a PostgreSQL database: write it as {_EXAMPLE}, with @ and % in the "
            "password as %40 and %25."
        )
    _, _, driver = url.drivername.partition("+")
    if driver not in ("", _DRIVER):
        raise PipelineError(
            f"{POSTGRES_VARIABLE} names the driver {driver}, which Dagster's storage cannot use: begin the URL with "
            f"{_SCHEME}."
        )
    return url.set(drivername=f"postgresql+{_DRIVER}")


def describe_database(url: "sqlalchemy.URL") -> str:
    """Describe a database by its name and server, without its password."""
    server = f"{url.host or 'the local socket'}{f':{url.port}' if url.port else ''}"
    return f"{url.database} on {server}"


def check_database(data_folder: Path) -> bool:
    """Check that the configured database answers, is writable and belongs to this data folder, or to none yet.

    Returns:
        Whether a database is configured that does not record this data folder, at its present path, as its owner.

    Raises:
        PipelineError: The check failed.
    """
    url = database_url()
    if url is None:
        return False
    with _connection(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('kvs'), to_regclass('runs'), current_schema(), current_user")
        kvs, runs, schema, user = cursor.fetchone() or ()
        if kvs is None:
            cursor.execute("SELECT has_schema_privilege(%s, 'CREATE')", (schema,))
            if schema is None or cursor.fetchone() != (True,):
                raise PipelineError(
                    f"The user {user} may not create tables in the PostgreSQL database {describe_database(url)}: "
                    f'make it the owner with ALTER DATABASE "{url.database}" OWNER TO "{user}".'
                )
            return True
        cursor.execute("SELECT value FROM kvs WHERE key = %s", (OWNER_KEY,))
        if row := cursor.fetchone():
            owner = json.loads(row[0])
            _check_owner(url, owner, data_folder)
            return bool(owner["path"] != str(data_folder))
        cursor.execute("SELECT EXISTS (SELECT FROM runs)" if runs else "SELECT false")
        if cursor.fetchone() == (True,):
            raise PipelineError(_wrong_owner_sentence(url, "another Dagster instance"))
        return True


def claim_database(data_folder: Path) -> None:
    """Record this data folder in the configured database as its owner; Dagster creates its tables first."""
    from dagster import DagsterInstance

    owner = {"id": folder_id(data_folder), "path": str(data_folder)}
    with DagsterInstance.from_config(str(data_folder / "dagster")) as instance:
        instance.run_storage.set_cursor_values({OWNER_KEY: json.dumps(owner)})


def _check_owner(url: "sqlalchemy.URL", owner: dict[str, Any], data_folder: Path) -> None:
    """Check that the owner is this data folder, possibly before it was moved, and not the original of this copy.

    Raises:
        PipelineError: The database belongs to another data folder.
    """
    owner_path = Path(owner["path"])
    is_moved = owner["id"] == folder_id(data_folder) and (
        not _id_file(owner_path).exists() or owner_path.samefile(data_folder)
    )
    if not is_moved:
        raise PipelineError(_wrong_owner_sentence(url, f"the data folder {owner_path}"))


def _wrong_owner_sentence(url: "sqlalchemy.URL", owner: str) -> str:
    return (
        f"The PostgreSQL database {describe_database(url)} belongs to {owner}: give this data folder a database of its "
        f"own and name it in {POSTGRES_VARIABLE}."
    )


def folder_id(data_folder: Path) -> str:
    """The id of a data folder, which stays the same when the folder is moved; created at the first call."""
    file = _id_file(data_folder)
    if not file.exists():
        file.write_text(os.urandom(8).hex())
    return file.read_text().strip()


def is_database_unreachable() -> bool:
    """Whether a database is configured that does not answer at the moment."""
    url = database_url()
    if url is None:
        return False
    try:
        with _connection(url):
            return False
    except PipelineError:
        return True


def postgres_problem(error: BaseException) -> str | None:
    """A sentence for an error whose cause is that the configured database is unreachable; None for any other error."""
    if not os.environ.get(POSTGRES_VARIABLE):
        return None
    import psycopg2

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, psycopg2.OperationalError | psycopg2.InterfaceError):
        cause = cause.__cause__
    url = database_url()
    return _unreachable_sentence(url, cause) if cause is not None and url is not None else None


def _unreachable_sentence(url: "sqlalchemy.URL", error: BaseException) -> str:
    # libpq reports each address that it tried on a line of its own; the reason is after the last colon.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first_line = lines[0] if lines else "no reason"
    line = next((line for line in lines if "failed:" in line or "FATAL:" in line), first_line)
    reason = line.rsplit("failed: ", 1)[-1].removeprefix("FATAL: ").strip().rstrip(".")
    return (
        f"The PostgreSQL database {describe_database(url)} cannot be used: {reason}. Start its server or correct "
        f"{POSTGRES_VARIABLE}, then run the same command again; finished work is kept."
    )


@contextmanager
def _connection(url: "sqlalchemy.URL") -> "Iterator[psycopg2.extensions.connection]":
    import psycopg2

    libpq_url = url.set(drivername="postgresql")
    if "connect_timeout" not in libpq_url.query:
        libpq_url = libpq_url.update_query_dict({"connect_timeout": str(_CONNECT_TIMEOUT_S)})
    connection = None
    try:
        connection = psycopg2.connect(libpq_url.render_as_string(hide_password=False))
        yield connection
    except psycopg2.OperationalError as error:
        raise PipelineError(_unreachable_sentence(url, error)) from error
    except psycopg2.ProgrammingError as error:
        # libpq's message quotes unknown options, and a password with special characters may be parsed as one.
        raise PipelineError(
            f"{POSTGRES_VARIABLE} has options that PostgreSQL does not know: correct or remove them."
        ) from error
    finally:
        if connection is not None:
            connection.close()


def _id_file(data_folder: Path) -> Path:
    return data_folder / ".pipeline.id"
