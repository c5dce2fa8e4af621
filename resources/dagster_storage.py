"""Dagster's storage, chosen by the environment: PostgreSQL where CV_ASSETS_POSTGRES names it, else SQLite.

dagster.yaml names this class, so that one file serves both, and neither it nor any other holds a password.
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

from resources.postgres import database_url

logger = logging.getLogger(__name__)

_PATIENCE_S = 100.0  # of one attempt to connect; dagster-postgres makes six before it gives up
_LOOK_EVERY_S = 1.0
_IDLE_CONNECTIONS = 2  # kept open in each process; a thread that finds none free opens one of its own
_SQLITE_ARGUMENTS = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}  # how long a writer waits for another
_LASTING = ("authentication failed", "does not exist", "pg_hba.conf")


class ChosenStorage(DagsterStorage, ConfigurableClass):
    """What dagster.yaml names; it is never made itself, but makes the storage that the environment asks for."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """`base_dir`: where the SQLite files lie."""
        return {"base_dir": StringSource}

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData | None, config_value: dict[str, Any]
    ) -> DagsterStorage:
        """The storage that the environment asks for."""
        url = database_url()
        if url is not None:
            return postgres_storage(url)
        return sqlite_storage(inst_data=inst_data, **config_value)


def sqlite_storage(base_dir: str, inst_data: ConfigurableClassData | None = None) -> DagsterSqliteStorage:
    """Dagster's storage in SQLite files, made when it is first opened, by engines that this process keeps.

    Dagster would make an engine for each of its queries, and so compile each anew: 0.6 ms to 4 ms a query instead of
    0.1 ms to 0.6 ms, of which its daemon asks some ten a second for as long as it runs.

    Args:
        base_dir: Folder of the files; made if it is not there.
        inst_data: What dagster.yaml said, for processes that are to open the same.
    """
    made: Any = _made(base_dir)
    storage: Any = copy.copy(made)
    storage._inst_data = inst_data
    runs = storage._run_storage = SqliteRunStorage(made._run_storage._conn_string)
    schedules = storage._schedule_storage = SqliteScheduleStorage(made._schedule_storage._conn_string)
    events: Any = SqliteEventLogStorage(made._event_log_storage._base_dir)
    storage._event_log_storage = events
    part: Any
    for part in (runs, schedules):
        part.connect = functools.partial(_transaction, _kept_engine, part._conn_string)
    events._connect = functools.partial(_events_transaction, events)
    return cast(DagsterSqliteStorage, storage)


@functools.cache
def _made(base_dir: str) -> DagsterSqliteStorage:
    """Makes the files, or compares their revisions with Dagster's: 70 ms, which each look of a sensor would pay."""
    made = DagsterSqliteStorage.from_local(base_dir)
    with cast(SqliteEventLogStorage, made.event_log_storage).index_connection():
        pass  # also completes a file whose making was interrupted
    return made


@contextmanager
def _events_transaction(events: Any, shard: str) -> Iterator[Connection]:
    """A transaction on the file of all runs' asset events, or of one run's events."""
    conn_string = events.conn_string_for_shard(shard)
    # Who follows a run in the UI is told by changes of its file, and closing the connection is what brings them there.
    engine_of = _kept_engine if shard == INDEX_SHARD_NAME else _passing_engine
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
def _kept_engine(conn_string: str) -> Engine:
    """For a file that is there as long as the data folder: its connections are kept open."""
    return create_engine(conn_string, pool_size=_IDLE_CONNECTIONS, max_overflow=-1, connect_args=_SQLITE_ARGUMENTS)


@functools.lru_cache(maxsize=4)
def _passing_engine(conn_string: str) -> Engine:
    """For a file that retention may remove: each connection is closed again."""
    return create_engine(conn_string, poolclass=NullPool, connect_args=_SQLITE_ARGUMENTS)


def postgres_storage(url: URL) -> DagsterPostgresStorage:
    """Dagster's storage in a PostgreSQL database; its tables are made when it is first opened.

    A server that goes away while the pipeline runs is waited for: a run that is at work stands still and then goes on.
    """
    storage = DagsterPostgresStorage(url.render_as_string(hide_password=False))
    for part in (storage.run_storage, storage.event_log_storage, storage.schedule_storage):
        _use(_engine(url), part)
        part.optimize_for_webserver = functools.partial(_serve_web, url, part)  # type: ignore[method-assign]
    return storage


def _serve_web(url: URL, part: Any, statement_timeout: int, **_: int) -> None:
    """What Dagster's webserver asks of a part: a bound on its queries in ms. Who looks at a page is told at once."""
    _use(_engine(url, statement_timeout), part)


def _use(engine: Engine, part: Any) -> None:
    part._engine = engine


@functools.cache
def _engine(url: URL, statement_timeout_ms: int | None = None) -> Engine:
    """This process's connections; Dagster would open one for each of the hundreds of queries of a tick.

    Args:
        url: The database.
        statement_timeout_ms: Bound on a query of the webserver; None for others, who wait for a server that is away.
    """
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=_IDLE_CONNECTIONS,
        max_overflow=-1,
        pool_pre_ping=True,  # one that a restart of the server has cut off is replaced before it is used
    )
    if statement_timeout_ms is None:
        event.listen(engine, "do_connect", _connect_patiently)
    else:
        event.listen(
            engine, "connect", lambda connection, _: set_pg_statement_timeout(connection, statement_timeout_ms)
        )
    return engine


def _connect_patiently(dialect: Any, _record: Any, arguments: Any, parameters: Any) -> Any:
    """Connect for SQLAlchemy, waiting for a server that is being started or restarted."""
    deadline = time.monotonic() + _PATIENCE_S
    is_told = False
    while True:
        try:
            return dialect.connect(*arguments, **parameters)
        except psycopg2.OperationalError as error:
            if time.monotonic() > deadline or any(words in str(error) for words in _LASTING):
                raise
            if not is_told:
                logger.warning("PostgreSQL does not answer, waiting for it: %s", str(error).strip().splitlines()[0])
                is_told = True
            time.sleep(_LOOK_EVERY_S)
