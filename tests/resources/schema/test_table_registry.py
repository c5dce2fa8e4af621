from resources.schema.recording_tables import RECORDINGS
from resources.schema.row_checks import broken_rules
from resources.schema.table_registry import TABLES


def test_rows_of_every_table_can_be_checked() -> None:
    for table in TABLES.values():
        assert broken_rules(table, table.arrow_schema.empty_table()) == []


def test_key_columns_are_declared_and_never_null() -> None:
    for table in TABLES.values():
        columns = {column.name: column for column in table.columns}
        assert all(not columns[name].nullable for name in table.key), table.name
    assert RECORDINGS.key == ("recording_id",)
