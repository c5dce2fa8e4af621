"""The repair of damaged tables: files that cannot be used are moved aside, never deleted.

What a table loses by it is found by the next check, because the attempts have recorded what they stored.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors
from resources.storage.integrity import StorageReport, check_storage
from resources.storage.table_check import TableDamage
from resources.storage.table_log import TableLog, added_files
from resources.storage.tables_location import move_files

_MAX_ROUNDS = 5  # a whole log may name files that are damaged, too


class TableRepair:
    """The repair of the tables of one data folder.

    Args:
        store: The tables; no run may be in progress.

    Attributes:
        folder: Folder to which damaged files are moved; it is created with the first.
        moved_count: Number of files that were moved.
        repaired_names: Names of the tables that were repaired.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = store.data_folder / "damaged" / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
        self.moved_count = 0
        self.repaired_names: set[str] = set()

    def undo_unfinished_commits(self, report: StorageReport) -> StorageReport:
        """Undo the newest commits of damaged tables if no attempt has recorded them: a power cut has cut them off.

        Args:
            report: The result of a check.

        Returns:
            The result of a check after it.

        Raises:
            PipelineError: The data folder is full, read-only or not accessible.
        """
        for _ in range(_MAX_ROUNDS):
            first_versions = {damage: self._first_undone_version(damage, report) for damage in report.damages}
            if not any(version is not None for version in first_versions.values()):
                break
            for damage, version in first_versions.items():
                if version is not None:
                    self._undo_from(damage.table_name, version)
            report = check_storage(self._store)
        return report

    def repair(self, report: StorageReport) -> StorageReport:
        """Move all damaged files aside.

        Args:
            report: The result of a check.

        Returns:
            The result of a check of the contents after it.

        Raises:
            PipelineError: The data folder is full, read-only or not accessible.
        """
        for _ in range(_MAX_ROUNDS):
            damages = [damage for damage in report.damages if damage.has_unusable_files]
            if not damages:
                break
            for damage in damages:
                self._repair_table(damage)
            report = check_storage(self._store, contents=True)
        return report

    def _first_undone_version(self, damage: TableDamage, report: StorageReport) -> int | None:
        """The first commit to undo so that a table is whole; None if that may lose results of recorded attempts."""
        durable_version = report.durable_versions.get(damage.table_name)
        log = TableLog(self._folder(damage.table_name))
        if damage.log is not None and damage.log.version is None:
            return log.newest_version + 1  # only a checkpoint is damaged
        if durable_version is None:
            return None
        if damage.log is not None:
            version = damage.log.version
            return version if version is not None and version > durable_version else None
        versions = [
            version
            for version in range(durable_version + 1, log.newest_version + 1)
            if log.has_entry(version)
            and not {file.name for file in damage.files}.isdisjoint(added_files(log.table_folder, version))
        ]
        undone_files = {
            name
            for version in range(min(versions, default=log.newest_version + 1), log.newest_version + 1)
            for name in added_files(log.table_folder, version)
        }
        return min(versions) if versions and {file.name for file in damage.files} <= undone_files else None

    def _repair_table(self, damage: TableDamage) -> None:
        folder = self._folder(damage.table_name)
        self.repaired_names.add(damage.table_name)
        if damage.log is not None:
            version = damage.log.version
            self._undo_from(damage.table_name, TableLog(folder).newest_version + 1 if version is None else version)
        elif damage.files:
            with disk_errors(self._store.data_folder):
                names = [damaged.name for damaged in damage.files]
                self.moved_count += self._store.location.move_aside(damage.table_name, names, self.folder)
                self._store.location.open(damage.table_name).repair()
        else:
            self.moved_count += self._store.location.move_table_aside(damage.table_name, self.folder)

    def _undo_from(self, table_name: str, version: int) -> None:
        """Make the commit before a version the newest one of a table."""
        self.repaired_names.add(table_name)
        folder = self._folder(table_name)
        log = TableLog(folder)
        files = log.files_from(version)
        self._move([folder] if not log.has_commit_before(version) else files)

    def _move(self, paths: Iterable[Path]) -> None:
        with disk_errors(self._store.data_folder):
            self.moved_count += move_files(paths, self._store.data_folder, self.folder)

    def _folder(self, table_name: str) -> Path:
        return self._store.tables_folder / table_name
