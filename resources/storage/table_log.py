"""The log of a Delta table as files: finds entries that are missing, empty or cut, and the files to move aside.

A log has a numbered JSON file per commit and now and then a checkpoint, which replaces all entries up to its number.
A kill or a power cut may leave the newest of these files missing, empty or cut.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

LOG_NAME = "_delta_log"
_HINT_NAME = "_last_checkpoint"
_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True)
class LogDamage:
    """The first damage of a log.

    Attributes:
        problem: What is wrong, to follow the name of the table.
        version: The first commit that cannot be read; None if only a checkpoint is damaged, which the entries replace.
    """

    problem: str
    version: int | None


class TableLog:
    """The files of one table's log.

    Args:
        table_folder: Folder of the table.
    """

    def __init__(self, table_folder: Path) -> None:
        self.table_folder, self._folder = table_folder, table_folder / LOG_NAME
        files = list(self._folder.glob("*"))
        self._entries = _by_version(files, r"(\d{20})\.json")
        self._checkpoints = _by_version(files, r"(\d{20})\.checkpoint\.parquet")
        self._whole_checkpoints = {version for version, file in self._checkpoints.items() if _is_whole_parquet(file)}

    @property
    def newest_version(self) -> int:
        """Number of the newest commit; -1 if there is none."""
        return max([*self._entries, *self._whole_checkpoints], default=-1)

    def has_entry(self, version: int) -> bool:
        """Whether a commit has an entry of its own."""
        return version in self._entries

    def has_commit_before(self, version: int) -> bool:
        """Whether the table exists before a commit."""
        return any(number < version for number in self._whole_checkpoints) or (version > 0 and 0 in self._entries)

    def find_damage(self, *, contents: bool) -> LogDamage | None:
        """Find the first file of the log that cannot be used; None if there is none.

        Args:
            contents: Whether entries are also read, not only their sizes.
        """
        start, newest = max(self._whole_checkpoints, default=-1), max(self._entries, default=-1)
        if start < 0 and newest < 0:
            return LogDamage("its log has no entries", 0)
        for version in range(start + 1, newest + 1):
            file = self._entries.get(version)
            if file is None:
                return LogDamage(f"its log entry {version} is missing", version)
            if file.stat().st_size == 0:
                return LogDamage(f"its log entry {version} is empty", version)
            if contents and not _is_whole_entry(file):
                return LogDamage(f"its log entry {version} is cut or damaged", version)
        if damaged := set(self._checkpoints) - self._whole_checkpoints:
            return LogDamage(f"its checkpoint {max(damaged)} is cut or damaged", None)
        hint = self._hinted_version()
        if hint is not None and hint not in self._whole_checkpoints:
            return LogDamage(f"its file {_HINT_NAME} is damaged or names no checkpoint", None)
        return None

    def files_from(self, version: int) -> list[Path]:
        """The files to move aside so that the newest commit is the one before `version`; damaged checkpoints, too."""
        kept = {number for number in self._whole_checkpoints if number < version}
        files = [file for number, file in self._entries.items() if number >= version]
        files += [file for number, file in self._checkpoints.items() if number not in kept]
        hint = self._hinted_version()
        return files if hint is None or hint in kept else [*files, self._folder / _HINT_NAME]

    def _hinted_version(self) -> int | None:
        """Version of the checkpoint from which the log is read; -1 if its file is damaged, None if there is none."""
        try:
            return int(json.loads((self._folder / _HINT_NAME).read_text())["version"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return -1


def added_files(table_folder: Path, version: int) -> list[str]:
    """Names of the Parquet files that a commit added.

    Raises:
        OSError: The commit has no log entry.
        ValueError: Its log entry is damaged.
    """
    actions = _read_entry(table_folder / LOG_NAME / f"{version:020}.json")
    return [unquote(action["add"]["path"]) for action in actions if "add" in action]


def _read_entry(file: Path) -> list[dict[str, dict[str, str]]]:
    return [json.loads(line) for line in file.read_text().splitlines() if line]


def _by_version(files: Iterable[Path], pattern: str) -> dict[int, Path]:
    matches = ((re.fullmatch(pattern, file.name), file) for file in files)
    return dict(sorted((int(match[1]), file) for match, file in matches if match))


def _is_whole_entry(file: Path) -> bool:
    try:
        return all(isinstance(action, dict) for action in _read_entry(file))
    except ValueError:
        return False


def _is_whole_parquet(file: Path) -> bool:
    """Whether a file begins and ends as Parquet files do."""
    with file.open("rb") as content:
        start = content.read(len(_PARQUET_MAGIC))
        content.seek(max(0, file.stat().st_size - len(_PARQUET_MAGIC)))
        return start == content.read() == _PARQUET_MAGIC
