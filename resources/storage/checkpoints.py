"""Checkpoints: finished parts of unfinished work, stored so that a killed run repeats little.

A checkpoint is a folder with one Arrow file per table, which appears atomically. When all parts of a recording are
finished, their rows replace the recording's rows in the tables, and the checkpoints are removed.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import pyarrow as pa


class Checkpoints:
    """Checkpoints of one recording at one stage, numbered from 0 without gaps.

    Args:
        folder: Folder of the stage and recording.
        version: Version of everything that the rows depend on; checkpoints of other versions are removed.
    """

    def __init__(self, folder: Path, version: str) -> None:
        self._recording_folder, self._folder = folder, folder / version
        if folder.is_dir():
            for version_folder in folder.iterdir():
                if version_folder.name != version:
                    shutil.rmtree(version_folder, ignore_errors=True)

    def count(self) -> int:
        """Number of checkpoints."""
        number = 0
        while self._checkpoint_folder(number).is_dir():
            number += 1
        return number

    def save(self, number: int, rows_by_table: Mapping[str, pa.Table]) -> None:
        """Write the checkpoint of a finished part.

        Args:
            number: Number of the part.
            rows_by_table: Rows of the part, by table name.
        """
        partial = self._folder / f".{number}-{os.getpid()}"
        partial.mkdir(parents=True, exist_ok=True)
        for table_name, rows in rows_by_table.items():
            with (partial / f"{table_name}.arrow").open("wb") as file:
                with pa.ipc.new_file(file, rows.schema) as writer:
                    writer.write_table(rows)
                file.flush()
                os.fsync(file.fileno())
        try:
            partial.rename(self._checkpoint_folder(number))
        except OSError:
            # Another process, which survived the end of its run, finished the same part first.
            shutil.rmtree(partial)
            if not self._checkpoint_folder(number).is_dir():
                raise

    def read(self, table_name: str) -> Sequence[pa.Table]:
        """The rows of a table, one Arrow table per checkpoint."""
        return _MappedTables(
            [self._checkpoint_folder(number) / f"{table_name}.arrow" for number in range(self.count())]
        )

    def remove(self) -> None:
        """Remove all checkpoints, once their rows are in the tables."""
        shutil.rmtree(self._recording_folder, ignore_errors=True)

    def _checkpoint_folder(self, number: int) -> Path:
        return self._folder / f"{number:05d}"


class _MappedTables(Sequence[pa.Table]):
    """Arrow files, each of which is mapped into memory only while its table is in use.

    Args:
        files: The files.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> pa.Table: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[pa.Table]: ...
    def __getitem__(self, index: int | slice) -> pa.Table | Sequence[pa.Table]:
        if isinstance(index, slice):
            return _MappedTables(self._files[index])
        return pa.ipc.open_file(pa.memory_map(str(self._files[index]))).read_all()
