"""The commands sql and tables, on results without a recording and with a few rows."""

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from openpyxl import load_workbook

from cli.main import commands
from resources.config.settings import Settings
from resources.schema.recording_tables import RECORDING_CLOCKS
from resources.schema.table_registry import TABLES
from resources.schema.track_tables import CROPS
from resources.schema.views import VIEWS
from resources.storage.delta_store import Store
from resources.storage.results_database import publish
from tests.builders.table_rows import sparse_rows, store_recordings

ROWS = "SELECT 7 AS n, '=1+1' AS text, TIMESTAMPTZ '2026-03-01 08:00:00+00' AS t, 1.5 AS x, NULL AS nothing"


@pytest.fixture
def results(store: Store) -> Path:
    """The data folder of two published recordings, one with a crop of 5 bytes."""
    store_recordings(store, {"recording_id": "a"}, {"recording_id": "b"})
    crop = dict.fromkeys(CROPS.arrow_schema.names, 1) | {"recording_id": "a", "class_name": "car", "jpeg": b"12345"}
    store.replace(CROPS, ["a"], sparse_rows(CROPS, crop))
    publish(store, Settings())
    return store.data_folder


def run(command: str, *arguments: str, data: Path) -> Result:
    return CliRunner().invoke(commands, [command, *arguments, "--data", str(data)])


def test_several_statements_print_their_results_in_order(results: Path) -> None:
    statements = "CREATE TEMP TABLE t AS SELECT 1 AS first; FROM t; SELECT 2 AS second"
    assert run("sql", statements, "--format", "csv", data=results).stdout == "first\n1\n\nsecond\n2\n"
    assert run("sql", statements, "--format", "json", data=results).stdout == '{"first":1}\n{"second":2}\n'
    table = run("sql", statements, data=results).stdout
    assert table.index("first") < table.index("second")


def test_a_binary_value_is_printed_as_its_size(results: Path) -> None:
    query = 'SELECT rank, jpeg, jpeg AS "a ""picture""" FROM crops'
    rows = list(csv.reader(io.StringIO(run("sql", query, "--format", "csv", data=results).stdout)))
    assert rows == [["rank", "jpeg", 'a "picture"'], ["1", "<5 bytes>", "<5 bytes>"]]
    row = json.loads(run("sql", query, "--format", "json", data=results).stdout)
    assert row == {"rank": 1, "jpeg": "<5 bytes>", 'a "picture"': "<5 bytes>"}
    assert "<5 bytes>" in run("sql", query, data=results).stdout


def test_json_has_whole_numbers_times_and_nulls(results: Path) -> None:
    query = f"{ROWS}, sum(1) AS total, [1, 2] AS list"
    assert json.loads(run("sql", query, "--format", "json", data=results).stdout) == {
        **{"n": 7, "text": "=1+1", "t": "2026-03-01T08:00:00+00:00", "x": 1.5, "nothing": None},
        **{"total": 1, "list": [1, 2]},
    }


def test_excel_files_have_a_sheet_per_result_with_numbers_and_times_and_no_formulas(results: Path) -> None:
    output = run("sql", f"{ROWS}; SELECT jpeg FROM crops", "--format", "xlsx", data=results).stdout_bytes
    book = load_workbook(io.BytesIO(output))
    first, second = book.worksheets
    header, row = ([cell.value for cell in cells] for cells in first.iter_rows())
    assert header == ["n", "text", "t", "x", "nothing"]
    assert (row[0], row[1], row[2].isoformat(), row[3], row[4]) == (7, "=1+1", "2026-03-01T08:00:00", 1.5, None)
    assert first["B2"].data_type == "s"
    assert second["A2"].value == "<5 bytes>"


@pytest.mark.parametrize(
    ("query", "arguments", "sentence"),
    [
        pytest.param("SELECT nonsense FROM frames", (), "nonsense", id="column"),
        pytest.param("SELEC 1", (), "syntax error", id="syntax"),
        pytest.param("DELETE FROM published_tables", (), "read-only", id="writing"),
        pytest.param("SELECT 1; SELECT 2", ("--format", "parquet"), "holds the result of one query", id="two results"),
        pytest.param("SELECT repeat('x', 40000)", ("--format", "xlsx"), "an Excel cell holds 32767", id="long text"),
        pytest.param("SELECT chr(1)", ("--format", "xlsx"), "a character that Excel cannot hold", id="character"),
    ],
)
def test_a_wrong_query_ends_with_status_1_and_one_message(
    query: str, arguments: tuple[str, ...], sentence: str, results: Path
) -> None:
    result = run("sql", query, *arguments, data=results)
    assert result.exit_code == 1
    assert sentence in result.stderr


def test_a_folder_without_results_ends_with_status_2_and_names_the_folder(tmp_path: Path) -> None:
    for command in (("sql", "SELECT 1"), ("sql",), ("tables",)):
        result = run(*command, data=tmp_path / "elsewhere")
        assert result.exit_code == 2
        assert f"The data folder {tmp_path / 'elsewhere'} has no results" in result.stderr
        assert "with --data" in result.stderr


def test_all_tables_and_views_are_listed_with_the_meaning_of_a_row(results: Path) -> None:
    listed = run("tables", data=results).stdout
    assert run("sql", ".tables", data=results).stdout == listed
    names = {line.split()[0] for line in listed.splitlines() if line}
    declared = [table.published_name or table.name for table in (*TABLES.values(), *(view.table for view in VIEWS))]
    assert {*declared, "published_tables"} <= names
    shown = run("sql", "SHOW ALL TABLES", "--format", "json", data=results).stdout
    rows = [json.loads(line) for line in shown.splitlines()]
    assert {row["name"] for row in rows} == {*declared, "published_tables"}
    assert {row["schema"] for row in rows} == {"main"}


def test_the_columns_of_a_table_are_listed_with_types_and_meanings(results: Path) -> None:
    columns = run("tables", "--columns", "recording_clocks", data=results)
    assert columns.exit_code == 0
    assert RECORDING_CLOCKS.grain in columns.stdout
    assert "TIMESTAMP WITH TIME ZONE" in columns.stdout
    unknown = run("tables", "--columns", "recoding_clocks", data=results)
    assert unknown.exit_code == 2
    assert "no table recoding_clocks; did you mean recording_clocks?" in unknown.stderr


def test_a_folder_in_place_of_the_results_is_named(results: Path) -> None:
    (results / "results.duckdb").unlink()
    (results / "results.duckdb").mkdir()
    answer = run("sql", "SELECT 1", data=results)
    assert answer.exit_code == 2
    assert "results.duckdb is a folder, not the published results: move it away" in answer.stderr
