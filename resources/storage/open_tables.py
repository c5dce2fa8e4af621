"""Delta tables that this process keeps open and updates from their logs."""

import logging
import threading

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from resources.storage.tables_location import TablesLocation

logger = logging.getLogger(__name__)


class OpenTable:
    """An open Delta table and the commit up to which it was read."""

    def __init__(self, location: TablesLocation, table_name: str, delta: DeltaTable) -> None:
        self.delta, self._location, self._table_name = delta, location, table_name
        self._remember_commit()

    def update(self) -> bool:
        """Read the commits since the last update.

        Returns:
            False if the table was deleted or created again since it was opened, or commits of it were undone.
        """
        try:
            if self._commit_identity(self._version) != self._identity:
                return False
            version = self.delta.version()
            if self._commit_identity(version) is None:
                return False  # a commit of this thread since the last update
            if version == self._version and self._commit_identity(version + 1) is None:
                return True  # looking for the next log entry takes a hundredth of the time of an update without one
            self.delta.update_incremental()
            self._remember_commit()
        except (DeltaError, OSError) as error:
            logger.info("The table %s is opened again: %s", self._table_name, error)
            return False
        return True

    def _remember_commit(self) -> None:
        self._version = self.delta.version()
        self._identity = self._commit_identity(self._version)

    def _commit_identity(self, version: int) -> tuple[int, int] | None:
        return self._location.commit_identity(self._table_name, version)


class OpenTables(threading.local):
    """The open tables of a thread, so that no other thread updates a table while it is read."""

    def __init__(self) -> None:
        self.tables: dict[str, OpenTable] = {}


open_tables = OpenTables()
