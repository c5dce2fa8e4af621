"""Read-only access to the published results, which follows each publication."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from resources.storage.results_database import open_results, results_path


class PublishedResults:
    """The newest published results, shared by the threads that answer requests.

    Args:
        data_folder: The data folder.
    """

    def __init__(self, data_folder: Path) -> None:
        self._link = results_path(data_folder)
        self._data_folder = data_folder
        self._lock = threading.Lock()
        self._file: str | None = None
        self._connection: duckdb.DuckDBPyConnection | None = None

    @property
    def exist(self) -> bool:
        """Whether anything has been published yet."""
        return self._link.exists()

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a cursor on the newest results; a cursor that is open already keeps its own.

        Raises:
            PipelineError: There are no results yet, or another program has them open for writing.
        """
        cursor = self._newest().cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    def _newest(self) -> duckdb.DuckDBPyConnection:
        """The connection to the newest results; the one before is closed with its last cursor."""
        with self._lock:
            file = os.path.realpath(self._link)
            if self._connection is None or file != self._file:
                self._connection, self._file = open_results(self._data_folder), file
            return self._connection
