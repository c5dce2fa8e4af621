"""Finished parts of unfinished work, kept aside so that a killed run loses little.

A part is a folder with one Arrow file per table, which appears whole or not at all. When all parts of a recording are
there, their rows replace the recording's in the tables, and the parts are removed.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa


class Parts:
    """The finished parts of one recording's work at one stage, numbered from 0 without a hole.

    Args:
        folder: The stage's own folder for the recording.
        version: Of everything that decides the rows; parts of another version are removed.
    """

    def __init__(self, folder: Path, version: str) -> None:
        self._recording_folder, self._folder = folder, folder / version
        if folder.is_dir():
            for other in folder.iterdir():
                if other.name != version:
                    shutil.rmtree(other, ignore_errors=True)

    def count(self) -> int:
        """How many parts are finished."""
        number = 0
        while self._part(number).is_dir():
            number += 1
        return number

    def keep(self, number: int, rows: Mapping[str, pa.Table]) -> None:
        """Keep a finished part.

        Args:
            number: The part.
            rows: Its rows by table name.
        """
        partial = self._folder / f".{number}-{os.getpid()}"
        partial.mkdir(parents=True, exist_ok=True)
        for name, table in rows.items():
            with (partial / f"{name}.arrow").open("wb") as file:
                with pa.ipc.new_file(file, table.schema) as writer:
                    writer.write_table(table)
                file.flush()
                os.fsync(file.fileno())
        try:
            partial.rename(self._part(number))
        except OSError:
            # A process that outlived its run finished the same part first.
            shutil.rmtree(partial)
            if not self._part(number).is_dir():
                raise

    def rows(self, name: str) -> list[pa.Table]:
        """The rows of each finished part of a table, read from disk as they are needed."""
        files = [self._part(number) / f"{name}.arrow" for number in range(self.count())]
        return [pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files]

    def remove(self) -> None:
        """Remove all parts: their rows are in the tables."""
        shutil.rmtree(self._recording_folder, ignore_errors=True)

    def _part(self, number: int) -> Path:
        return self._folder / f"{number:05d}"
