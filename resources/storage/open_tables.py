"""Delta tables that this process keeps open and updates from their logs."""

import logging
import threading
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

logger = logging.getLogger(__name__)


class OpenTable:
    """An open Delta table and the commit up to which it was read."""

    def __init__(self, folder: Path, delta: DeltaTable) -> None:
        self.delta, self._log = delta, folder / "_delta_log"
        self._remember_commit()

    def update(self) -> bool:
        """Read the commits since the last update.

        Returns:
            False if the table was deleted or created again since it was opened, or commits of it were undone.
        """
        if self._commit_identity(self._version) != self._identity:
            return False
        if self._commit_identity(self.delta.version()) is None:
            return False  # a commit of this thread since the last update
        try:
            self.delta.update_incremental()
        except DeltaError as error:
            logger.info("The table %s is opened again: %s", self._log.parent, error)
            return False
        self._remember_commit()
        return True

    def _remember_commit(self) -> None:
        self._version = self.delta.version()
        self._identity = self._commit_identity(self._version)

    def _commit_identity(self, version: int) -> tuple[int, int] | None:
        try:
            commit = (self._log / f"{version:020}.json").stat()
        except FileNotFoundError:
            return None
        return commit.st_ino, commit.st_mtime_ns


class OpenTables(threading.local):
    """The open tables of a thread, so that no other thread updates a table while it is read."""

    def __init__(self) -> None:
        self.tables: dict[Path, OpenTable] = {}


open_tables = OpenTables()
