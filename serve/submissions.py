"""What programs have submitted, and their callbacks: a small SQLite file of the server, beside the tables."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resources.storage.disk import disk_errors

MAX_ATTEMPTS = 3
_BUSY_TIMEOUT_S = 10.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS submissions (
    id INTEGER PRIMARY KEY,
    recording_id TEXT NOT NULL,
    source_path TEXT NOT NULL,
    submitted_at_s REAL NOT NULL,
    callback_url TEXT,
    callback_state TEXT,
    attempt_count INTEGER NOT NULL DEFAULT 0,
    next_attempt_at_s REAL NOT NULL DEFAULT 0,
    callback_error TEXT
);
CREATE INDEX IF NOT EXISTS submissions_by_recording ON submissions (recording_id);
"""
_COLUMNS = "id, recording_id, source_path, submitted_at_s, callback_url, callback_state, attempt_count, callback_error"


@dataclass(frozen=True)
class Submission:
    """One submission.

    Attributes:
        id: Its number.
        recording_id: The recording, as predicted from the upload.
        source_path: The file, relative to the watched folder.
        submitted_at_s: When it was complete, in seconds since 1970.
        callback_url: Address to call once the recording is done or failed; None without one.
        callback_state: pending, sent or failed; None without a callback.
        attempt_count: Number of calls so far.
        callback_error: Why the last call failed; None if none has.
    """

    id: int
    recording_id: str
    source_path: str
    submitted_at_s: float
    callback_url: str | None
    callback_state: str | None
    attempt_count: int
    callback_error: str | None


class Submissions:
    """The submissions of a data folder.

    Args:
        data_folder: The data folder.
    """

    def __init__(self, data_folder: Path) -> None:
        self._file = data_folder / "serve" / "submissions.sqlite"
        self._data_folder = data_folder

    def add(self, recording_id: str, source_path: str, callback_url: str | None) -> None:
        """Store a submission.

        Raises:
            PipelineError: The data folder cannot be written.
        """
        state = "pending" if callback_url else None
        with self._connect() as connection:
            connection.execute(
                "INSERT INTO submissions (recording_id, source_path, submitted_at_s, callback_url, callback_state) "
                "VALUES (?, ?, ?, ?, ?)",
                (recording_id, source_path, time.time(), callback_url, state),
            )

    def of_recording(self, recording_id: str) -> list[Submission]:
        """The submissions of a recording, newest first."""
        return self._select("WHERE recording_id = ? ORDER BY id DESC", recording_id)

    def due_callbacks(self) -> list[Submission]:
        """The submissions whose callback is to be sent now, if their recordings are done or failed."""
        return self._select("WHERE callback_state = 'pending' AND next_attempt_at_s <= ? ORDER BY id", time.time())

    def start_attempt(self, submission: Submission, retry_at_s: float) -> bool:
        """Count a call before it is made, so that a killed server repeats at most the attempts that are left.

        Returns:
            Whether the call is to be made; otherwise another server makes it.
        """
        with self._connect() as connection:
            result = connection.execute(
                "UPDATE submissions SET attempt_count = attempt_count + 1, next_attempt_at_s = ? "
                "WHERE id = ? AND attempt_count = ? AND callback_state = 'pending'",
                (retry_at_s, submission.id, submission.attempt_count),
            )
        return result.rowcount == 1

    def end_attempt(self, submission_id: int, error: str | None, *, is_final: bool) -> None:
        """Store the result of a call.

        Args:
            submission_id: The submission.
            error: Why it failed; None if it was answered.
            is_final: Whether no further call is made after a failure.
        """
        state = "sent" if error is None else "failed" if is_final else "pending"
        with self._connect() as connection:
            connection.execute(
                "UPDATE submissions SET callback_state = ?, callback_error = ? WHERE id = ?",
                (state, error, submission_id),
            )

    def _select(self, condition: str, *values: object) -> list[Submission]:
        if not self._file.exists():
            return []
        with self._connect() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM submissions {condition}", values).fetchall()
        return [Submission(*row) for row in rows]

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction."""
        with disk_errors(self._data_folder):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._file, timeout=_BUSY_TIMEOUT_S)
            try:
                with connection:
                    connection.executescript(_SCHEMA)
                    yield connection
            finally:
                connection.close()
