"""Data folders of other versions: added columns, undeclared columns, and the format that tells what is too old."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from resources.config.settings import Settings
from resources.environment import prepare_data_folder
from resources.errors import PipelineError
from resources.schema import table_registry
from resources.schema.columns import FLOAT, TEXT, UTC, Column, Table
from resources.schema.summary_tables import CLASS_MINUTES
from resources.storage import delta_writes
from resources.storage.delta_store import Store
from resources.storage.format_version import FORMAT_VERSION
from resources.storage.results_database import open_results, publish
from tests.builders.class_minutes import class_minutes

FIXTURE = Path(__file__).parent / "tables_of_format_1.tar.xz"
ADDED_COLUMNS = (
    Column("later_number", FLOAT, "Added later", "s", nullable=True),
    Column("later_text", TEXT, "Added later", nullable=True),
    Column("later_list", pa.list_(pa.float64()), "Added later", "px", nullable=True),
    Column("later_utc", UTC, "Added later", "UTC", nullable=True),
)
ADDED_NAMES = [column.name for column in ADDED_COLUMNS]


def with_added_columns(table: Table, suffix: str = "") -> Table:
    """A table as a later version declares it: new columns, with this suffix, after the key."""
    added_columns = [replace(column, name=f"{column.name}{suffix}") for column in ADDED_COLUMNS]
    key_columns = tuple(column for column in table.columns if column.name in table.key)
    other_columns = tuple(column for column in table.columns if column.name not in table.key)
    return replace(table, columns=(*key_columns, *added_columns, *other_columns))


def later_class_minutes(recording_id: str, count: int) -> pa.Table:
    """Rows of class_minutes with values in the added columns."""
    rows = class_minutes(recording_id, count).to_pylist()
    added_values = {"later_number": 2.5, "later_text": "new", "later_list": [1.0, 2.0], "later_utc": None}
    return pa.Table.from_pylist([row | added_values for row in rows], with_added_columns(CLASS_MINUTES).arrow_schema)


def stored_column_names(store: Store, table: Table) -> set[str]:
    """Names of the columns of a Delta table."""
    return {column.name for column in DeltaTable(str(store.tables_folder / table.name)).schema().fields}


def test_added_columns_read_as_null(store: Store) -> None:
    store.append(CLASS_MINUTES, class_minutes("a", 2))
    later_table = with_added_columns(CLASS_MINUTES)
    rows = store.read(later_table, ["a"])
    assert rows.schema == later_table.arrow_schema
    assert [rows[name].null_count for name in ADDED_NAMES] == [2] * len(ADDED_NAMES)
    assert rows.select(CLASS_MINUTES.arrow_schema.names) == store.read(CLASS_MINUTES)
    assert store.read(later_table, columns=["later_text"])["later_text"].null_count == 2
    assert store.scan(later_table, ["a"]).filter(pc.field("later_text").is_valid()).count_rows() == 0
    assert store.scan(later_table, None).filter(pc.field("later_number").is_null()).count_rows() == 2


@pytest.mark.parametrize("write", ["append", "replace", "change", "filter_rows"])
def test_the_first_write_adds_the_columns_and_keeps_the_other_rows(store: Store, write: str) -> None:
    store.append(CLASS_MINUTES, pa.concat_tables([class_minutes("a", 2), class_minutes("b", 3)]))
    later_table = with_added_columns(CLASS_MINUTES)
    if write == "append":
        store.append(later_table, later_class_minutes("c", 2))
    elif write == "replace":
        store.replace(later_table, ["a"], later_class_minutes("a", 2))
    elif write == "change":
        store.update(later_table, "a", {"later_text": "new"})
    else:
        store.filter_rows(later_table, ["a"], lambda rows: pc.equal(rows["minute_index"], 1))
    assert stored_column_names(store, later_table) == set(later_table.arrow_schema.names)
    assert store.read(later_table, ["b"])["later_text"].null_count == store.read(later_table, ["b"]).num_rows == 3
    written = store.read(later_table, ["c" if write == "append" else "a"])
    assert written["later_text"].to_pylist() == ([None] if write == "filter_rows" else ["new", "new"])
    store.append(later_table, later_class_minutes("d", 1))
    assert store.row_count(later_table) == {"append": 8, "filter_rows": 5}.get(write, 6)


def test_columns_that_the_program_does_not_declare_are_ignored(store: Store) -> None:
    later_table = with_added_columns(CLASS_MINUTES)
    store.append(later_table, later_class_minutes("a", 2))
    assert store.read(CLASS_MINUTES).schema == CLASS_MINUTES.arrow_schema
    store.append(CLASS_MINUTES, class_minutes("b", 2))
    store.replace(CLASS_MINUTES, ["c"], class_minutes("c", 2))
    store.update(CLASS_MINUTES, "b", {"class_name": "bus"})
    store.check_format()
    assert sorted(store.read(CLASS_MINUTES)["class_name"].to_pylist()) == ["bus"] * 2 + ["car"] * 4
    assert store.read(later_table, ["a"])["later_text"].to_pylist() == ["new", "new"]
    assert store.read(later_table, ["b", "c"])["later_text"].null_count == 4


def test_rows_from_before_and_after_an_added_column_are_compacted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_writes, "_COMPACT_ABOVE_FILES", 1)
    later_table = with_added_columns(CLASS_MINUTES)
    store.append(CLASS_MINUTES, class_minutes("a", 2))
    store.append(later_table, later_class_minutes("b", 2))
    store.compact(later_table)
    assert len(store.files(later_table)) == 1
    assert store.read(later_table, ["a"])["later_text"].to_pylist() == [None, None]
    assert store.read(later_table, ["b"])["later_text"].to_pylist() == ["new", "new"]


def test_the_format_is_recorded_with_the_first_table(store: Store) -> None:
    store.check_format()
    store.append(CLASS_MINUTES, class_minutes("a", 1))
    assert (store.tables_folder / "format_version").read_text() == f"{FORMAT_VERSION}\n"
    prepare_data_folder(Settings(data_folder=store.data_folder))
    assert list(store.tables_folder.glob(".*")) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(None, r"an older version .*format 0, this version reads 1\): process its recordings", id="none"),
        pytest.param("0", r"an older version .*format 0, .*new one with --data", id="older"),
        pytest.param("2\n", r"a newer version .*format 2, this version reads 1\): install that version", id="newer"),
        pytest.param("", "format_version must contain the number of a format, not ''", id="empty"),
        pytest.param("one", "must contain the number of a format, not 'one'", id="text"),
    ],
)
def test_a_data_folder_of_another_format_is_refused(store: Store, text: str | None, sentence: str) -> None:
    store.append(CLASS_MINUTES, class_minutes("a", 1))
    file = store.tables_folder / "format_version"
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(PipelineError, match=sentence):
        prepare_data_folder(Settings(data_folder=store.data_folder))
    other_table = replace(CLASS_MINUTES, name="other_minutes")
    with pytest.raises(PipelineError, match=sentence):
        store.append(other_table, class_minutes("a", 1))


def test_a_data_folder_of_format_1_opens(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.unpack_archive(FIXTURE, store.tables_folder, filter="data")
    prepare_data_folder(Settings(data_folder=store.data_folder))
    row_counts = {table.name: store.row_count(table) for table in store.tables()}
    assert all(row_counts[name] for name in ("recordings", "detections", "tracks", "stage_runs", "class_minutes"))
    for table in store.tables():
        later_table = with_added_columns(table, f"_of_{table.name}")
        monkeypatch.setitem(table_registry.TABLES, table.name, later_table)
        rows = store.read(later_table)
        assert rows.num_rows == row_counts[table.name]
        assert {rows[f"{name}_of_{table.name}"].null_count for name in ADDED_NAMES} == {rows.num_rows}
        rows.validate(full=True)
    settings = Settings(data_folder=store.data_folder)
    publish(store, settings)
    status_sql = "SELECT recording_id, status FROM recordings ORDER BY recording_id"
    with open_results(store.data_folder) as results:
        for table in store.tables():
            counted_columns = ", ".join(f"count({name}_of_{table.name})" for name in ADDED_NAMES)
            counts = results.execute(
                f"SELECT count(*), {counted_columns} FROM {table.published_name or table.name}"
            ).fetchall()
            # The published clocks have a row for each recording, also for one without a clock.
            source_name = "recordings" if table.name == "recording_clocks" else table.name
            assert counts == [(row_counts[source_name], 0, 0, 0, 0)], table.name
        statuses = results.sql(status_sql).fetchall()
    assert sorted(status for _, status in statuses) == ["ok", "ok", "rejected"]
    changed_id, unchanged_id = [recording_id for recording_id, status in statuses if status == "ok"]
    for table in store.tables():
        if table.per_recording:
            store.update(table, changed_id, {f"later_text_of_{table.name}": "new"})
    publish(store, settings)
    with open_results(store.data_folder) as results:
        assert results.sql(status_sql).fetchall() == statuses
        query = "SELECT DISTINCT recording_id, later_text_of_track_boxes FROM tracker_track_boxes"
        texts = results.sql(query).fetchall()
    assert sorted(texts) == sorted([(changed_id, "new"), (unchanged_id, None)])


def test_every_column_that_was_added_since_format_1_is_nullable(store: Store) -> None:
    shutil.unpack_archive(FIXTURE, store.tables_folder, filter="data")
    for table in store.tables():
        if not (store.tables_folder / table.name).is_dir():
            continue  # the table itself was added
        added_columns = [
            column for column in table.stored_columns if column.name not in stored_column_names(store, table)
        ]
        assert all(column.nullable for column in added_columns), (
            f"{table.name}: the columns {[column.name for column in added_columns]} were added, so that they are NULL "
            "in older rows: declare them as nullable, or raise FORMAT_VERSION and write a new fixture."
        )


def test_no_column_of_format_1_was_removed_or_has_another_type(store: Store) -> None:
    shutil.unpack_archive(FIXTURE, store.tables_folder, filter="data")
    for folder in sorted(path for path in store.tables_folder.iterdir() if path.is_dir()):
        table = table_registry.find_table(folder.name)
        assert table is not None, f"The table {folder.name} was removed: raise FORMAT_VERSION."
        declared_types = {column.name: column.type for column in table.stored_columns}
        for column in pa.schema(DeltaTable(str(folder)).schema().to_arrow()):
            assert declared_types.get(column.name) == column.type, (
                f"{table.name}.{column.name} was removed, renamed or has another type: raise FORMAT_VERSION."
            )
