"""Records the commits of an attempt, so that its row of stage_runs can name them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Commit:
    """The rows of one recording that a commit stored.

    Attributes:
        table_name: The table.
        recording_id: The recording.
        delta_version: Version of the Delta table.
        row_count: Number of its rows.
    """

    table_name: str
    recording_id: str
    delta_version: int
    row_count: int


class CommitRecorder:
    """Records the commits of one process while an attempt runs."""

    def __init__(self) -> None:
        self._commits: list[Commit] | None = None

    def start(self) -> None:
        """Record the commits from now on."""
        self._commits = []

    def stop(self) -> list[Commit]:
        """Stop recording, and return the commits since the start; empty without a start."""
        commits, self._commits = self._commits or [], None
        return commits

    def add(self, table_name: str, version: int, recording_ids: Sequence[str], parts: Sequence[pa.Table]) -> None:
        """Add a commit that replaced all rows of some recordings, if an attempt runs.

        Args:
            table_name: The table.
            version: Version of the commit.
            recording_ids: The recordings; one without new rows has none any more.
            parts: The new rows.
        """
        if self._commits is None:
            return
        counts = Counter(dict.fromkeys(recording_ids, 0))
        for part in parts:
            pairs = part["recording_id"].value_counts().to_pylist()
            counts.update({pair["values"]: pair["counts"] for pair in pairs})
        self._commits += [Commit(table_name, name, version, count) for name, count in counts.items()]
