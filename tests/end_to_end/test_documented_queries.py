"""Every SQL query of README and docs gives the documented answer on the results of the demo."""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from demo.__main__ import SETTINGS, draw_samples
from resources.config.settings_file import PROJECT_ROOT
from resources.storage.results_database import open_results
from tests.builders.command_line import run_cv_assets

PAGES = sorted([PROJECT_ROOT / "README.md", *(PROJECT_ROOT / "docs").glob("*.md")])
_QUERY_AND_ANSWER = re.compile(r"^```sql\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


def _text(value: Any) -> str:
    """A value as the pages show it."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _answer(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of the result as the pages show it."""
    lines = [list(names), *([_text(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "".join(f"{line.rstrip()}\n" for line in padded)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the demo's recordings, processed with the demo's settings."""
    folder = tmp_path_factory.mktemp("demo")
    draw_samples(folder / "recordings")
    process = run_cv_assets("process", folder / "recordings", "--settings", SETTINGS, "--data", folder / "data")
    assert process.returncode == 0, process.stdout + process.stderr
    return folder / "data"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_query_gives_the_documented_answer(
    page: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # one of the queries writes a file
    with open_results(data_folder) as results:
        results.execute("SET TimeZone = 'UTC'")
        for query, documented in _QUERY_AND_ANSWER.findall(page.read_text()):
            result: duckdb.DuckDBPyConnection = results.execute(query)
            names = [column[0] for column in result.description or ()]
            if documented:
                assert _answer(names, result.fetchall()) == documented, query


def test_the_pages_have_queries() -> None:
    assert sum(len(_QUERY_AND_ANSWER.findall(page.read_text())) for page in PAGES) > 20
