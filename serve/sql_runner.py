"""Runs SQL queries of the API, each in a process that is killed at its time limit."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from resources.config.settings_file import PROJECT_ROOT
from resources.errors import PipelineError
from resources.storage.results_database import results_path
from serve.problems import ProblemError
from serve.sql_process import REFUSED_STATUS

MAX_ROWS, MAX_QUERY_LENGTH = 10_000, 100_000
TIME_LIMIT_S = 10.0
_MEMORY_MB = 1000
_MAX_RESULT_BYTES = 64_000_000
_MAX_SENTENCE_BYTES = 4000
_MAX_PROCESSES = 2
_READ_BYTES = 1_000_000


@dataclass(frozen=True)
class SqlResult:
    """The rows of a query.

    Attributes:
        rows: At most MAX_ROWS rows.
        is_truncated: Whether the query has more rows.
    """

    rows: pa.Table
    is_truncated: bool


class SqlRunner:
    """Runs queries on the published results, a few at once.

    Args:
        data_folder: The data folder.
        time_limit_s: Time after which a query is killed.
    """

    def __init__(self, data_folder: Path, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._data_folder, self._time_limit_s = data_folder, time_limit_s
        self._slots = asyncio.Semaphore(_MAX_PROCESSES)

    async def run(self, query: str) -> SqlResult:
        """Run one SELECT.

        Raises:
            ProblemError: The query is no single SELECT, is wrong, or needs too much time or memory.
            PipelineError: There are no results yet.
        """
        database = results_path(self._data_folder)
        if not database.exists():
            raise PipelineError(f"The data folder {self._data_folder} has no results: process some recordings first.")
        request = {
            "query": query,
            "database": os.path.realpath(database),
            "tables_folder": f"{self._data_folder / 'tables'}/",
            "max_rows": MAX_ROWS,
            "memory_mb": _MEMORY_MB,
            "cpu_s": int(2 * self._time_limit_s) + 1,
        }
        async with self._slots:
            status, output, sentence = await self._execute(json.dumps(request).encode())
        if status == REFUSED_STATUS:
            raise ProblemError(422, sentence)
        if status < 0:  # ended by a signal, as an allocation beyond the limit does in native code
            raise ProblemError(422, "The query needs too much memory: select fewer rows, or aggregate them.")
        if status != 0:
            raise RuntimeError(f"the process of a query failed: {sentence}")
        rows = pa.ipc.open_stream(output).read_all()
        return SqlResult(rows.slice(0, MAX_ROWS), rows.num_rows > MAX_ROWS)

    async def _execute(self, request: bytes) -> tuple[int, bytes, str]:
        """Run the process; returns its exit status, its output and the sentence on standard error."""
        variables = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(PROJECT_ROOT), "LANG": "C.UTF-8"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "serve.sql_process"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=variables,
            cwd=PROJECT_ROOT,
        )
        assert process.stdin and process.stdout and process.stderr
        try:
            async with asyncio.timeout(self._time_limit_s):
                process.stdin.write(request)
                process.stdin.close()
                output = bytearray()
                while chunk := await process.stdout.read(_READ_BYTES):
                    output += chunk
                    if len(output) > _MAX_RESULT_BYTES:
                        raise ProblemError(
                            422,
                            f"The result has more than {_MAX_RESULT_BYTES // 10**6} MB: select fewer columns or rows.",
                        )
                sentence = (await process.stderr.read(_MAX_SENTENCE_BYTES)).decode(errors="replace")
                return await process.wait(), bytes(output), sentence
        except TimeoutError as error:
            sentence = f"The query takes longer than {self._time_limit_s:g} s and was ended: select fewer rows."
            raise ProblemError(422, sentence) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
