"""Dagster's storage: PostgreSQL if the environment variable CV_ASSETS_POSTGRES is set, else SQLite.

dagster.yaml names `InstanceStorage`, so that one file serves both, and no file contains a password.
"""

import copy
import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg2
from dagster import StringSource
from dagster._config.config_schema import UserConfigSchema
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import set_pg_statement_timeout
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event

from resources.dagster_instance.postgres_database import database_url

logger = logging.getLogger(__name__)
_MAX_CONNECT_S = 100.0  # of one attempt to connect; dagster-postgres makes six before it raises the error
_CONNECT_RETRY_S = 1.0
_IDLE_CONNECTIONS = 2  # kept open in each process; when all are in use, a thread opens another one
_SQLITE_ARGUMENTS = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}  # how long a writer waits for another
_PERMANENT_ERRORS = ("authentication failed", "does not exist", "pg_hba.conf")


class InstanceStorage(DagsterStorage, ConfigurableClass):
    """Creates the storage that the environment selects; the class itself is never instantiated."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """`base_dir`: folder of the SQLite files."""
        return {"base_dir": StringSource}

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData | None, config_value: dict[str, Any]
    ) -> DagsterStorage:
        """Create the storage that the environment selects."""
        url = database_url()
        if url is not None:
            return postgres_storage(url)
        return sqlite_storage(inst_data=inst_data, **config_value)


def sqlite_storage(base_dir: str, inst_data: ConfigurableClassData | None = None) -> DagsterSqliteStorage:
    """Dagster's storage in SQLite files, with database engines that are reused for the life of the process.

    Dagster creates an engine per query and so compiles each query again: 0.6 ms to 4 ms per query instead of 0.1 ms to
    0.6 ms, and its daemon runs about ten queries a second permanently.

    Args:
        base_dir: Folder of the files; created if it does not exist.
        inst_data: The section of dagster.yaml, for child processes that open the same storage.
    """
    template: Any = _initialized_storage(base_dir)
    storage: Any = copy.copy(template)
    storage._inst_data = inst_data
    runs = storage._run_storage = SqliteRunStorage(template._run_storage._conn_string)
    schedules = storage._schedule_storage = SqliteScheduleStorage(template._schedule_storage._conn_string)
    events: Any = SqliteEventLogStorage(template._event_log_storage._base_dir)
    storage._event_log_storage = events
    part: Any
    for part in (runs, schedules):
        part.connect = functools.partial(_transaction, _pooled_engine, part._conn_string)
    events._connect = functools.partial(_events_transaction, events)
    return cast(DagsterSqliteStorage, storage)


@functools.cache
def _initialized_storage(base_dir: str) -> DagsterSqliteStorage:
    """Create the files, or compare their schema revisions with Dagster's: 70 ms, cached so that no tick pays for it."""
    storage = DagsterSqliteStorage.from_local(base_dir)
    with cast(SqliteEventLogStorage, storage.event_log_storage).index_connection():
        pass  # also completes a file whose creation was interrupted
    return storage


@contextmanager
def _events_transaction(events: Any, shard: str) -> Iterator[Connection]:
    """Open a transaction on the file of all runs' asset events, or of one run's events."""
    conn_string = events.conn_string_for_shard(shard)
    # The UI follows a run by watching its file for changes, which are written when the connection is closed.
    engine_of = _pooled_engine if shard == INDEX_SHARD_NAME else _unpooled_engine
    with events._db_lock:
        if shard != INDEX_SHARD_NAME and shard not in events._initialized_dbs:
            events._initdb(engine_of(conn_string))
            events._initialized_dbs.add(shard)
        with _transaction(engine_of, conn_string) as connection:
            yield connection


@contextmanager
def _transaction(engine_of: Callable[[str], Engine], conn_string: str) -> Iterator[Connection]:
    with engine_of(conn_string).connect() as connection, connection.begin():
        yield connection


@functools.cache
def _pooled_engine(conn_string: str) -> Engine:
    """The engine of a file that exists as long as the data folder: its connections stay open."""
    return create_engine(conn_string, pool_size=_IDLE_CONNECTIONS, max_overflow=-1, connect_args=_SQLITE_ARGUMENTS)


@functools.lru_cache(maxsize=4)
def _unpooled_engine(conn_string: str) -> Engine:
    """The engine of a file that retention may delete: each connection is closed after use."""
    return create_engine(conn_string, poolclass=NullPool, connect_args=_SQLITE_ARGUMENTS)


def postgres_storage(url: URL) -> DagsterPostgresStorage:
    """Dagster's storage in a PostgreSQL database; its tables are created when it is first opened.

    While the server is down, connections wait for it: an active run pauses and then continues.
    """
    storage = DagsterPostgresStorage(url.render_as_string(hide_password=False))
    for part in (storage.run_storage, storage.event_log_storage, storage.schedule_storage):
        _set_engine(part, _postgres_engine(url))
        part.optimize_for_webserver = functools.partial(  # type: ignore[method-assign]
            _optimize_for_webserver, url, part
        )
    return storage


def _optimize_for_webserver(url: URL, part: Any, statement_timeout: int, **_: int) -> None:
    """Limit the queries of Dagster's webserver, in ms: a page shows an error at once instead of waiting."""
    _set_engine(part, _postgres_engine(url, statement_timeout))


def _set_engine(part: Any, engine: Engine) -> None:
    part._engine = engine


@functools.cache
def _postgres_engine(url: URL, statement_timeout_ms: int | None = None) -> Engine:
    """The engine of this process; Dagster would open a connection for each of the hundreds of queries of a tick.

    Args:
        url: The database.
        statement_timeout_ms: Limit of a query of the webserver; None for other processes, which wait for the server.
    """
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=_IDLE_CONNECTIONS,
        max_overflow=-1,
        pool_pre_ping=True,  # a connection that a restart of the server has closed is replaced before it is used
    )
    if statement_timeout_ms is None:
        event.listen(engine, "do_connect", _connect_with_retries)
    else:
        event.listen(
            engine, "connect", lambda connection, _: set_pg_statement_timeout(connection, statement_timeout_ms)
        )
    return engine


def _connect_with_retries(dialect: Any, _record: Any, arguments: Any, parameters: Any) -> Any:
    """Connect for SQLAlchemy, waiting for a server that is being started or restarted."""
    deadline_s = time.monotonic() + _MAX_CONNECT_S
    is_logged = False
    while True:
        try:
            return dialect.connect(*arguments, **parameters)
        except psycopg2.OperationalError as error:
            if time.monotonic() > deadline_s or any(words in str(error) for words in _PERMANENT_ERRORS):
                raise
            if not is_logged:
                logger.warning("PostgreSQL does not answer, waiting for it: %s", str(error).strip().splitlines()[0])
                is_logged = True
            time.sleep(_CONNECT_RETRY_S)
