from resources.schema.recording_tables import RECORDING_CONTENTS, RECORDINGS
from resources.schema.row_checks import broken_rules
from resources.schema.table_registry import TABLES
from resources.schema.views import RECORDINGS_VIEW, VIEWS


def test_rows_of_every_table_can_be_checked() -> None:
    for table in TABLES.values():
        assert broken_rules(table, table.arrow_schema.empty_table()) == []


def test_key_columns_are_declared_and_never_null() -> None:
    for table in TABLES.values():
        columns = {column.name: column for column in table.columns}
        assert all(not columns[name].nullable for name in table.key), table.name
    assert RECORDINGS.key == ("recording_id",)


def test_large_tables_have_statistics_of_every_column() -> None:
    """Delta keeps statistics of the first 32 columns; publication recognizes columns that older files lack by them."""
    for table in TABLES.values():
        assert table.is_small or len(table.stored_columns) <= 32, table.name


def test_views_and_tables_have_unique_names() -> None:
    names = [table.published_name or table.name for table in (*TABLES.values(), *(view.table for view in VIEWS))]
    assert len(names) == len(set(names))


def test_recordings_have_all_columns_of_header_and_content() -> None:
    names = {column.name for column in RECORDINGS_VIEW.table.columns}
    stored = {column.name for column in (*RECORDINGS.columns, *RECORDING_CONTENTS.columns)}
    assert stored - names == {"view_jpeg"}  # compared by the pipeline, and of no use in a query
