import shutil
import subprocess
import sys

import pyarrow as pa
import pytest

from resources.schema.summary_tables import CLASS_MINUTES
from resources.storage.delta_store import Store
from tests.builders.class_minutes import class_minutes


def test_a_table_that_was_never_written_is_read_as_empty(store: Store) -> None:
    assert store.read(CLASS_MINUTES).num_rows == 0
    assert store.read(CLASS_MINUTES).schema == CLASS_MINUTES.arrow_schema


def test_replacing_one_recording_keeps_the_rows_of_others(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    store.replace(CLASS_MINUTES, ["b"], class_minutes("b", 2))
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 1))
    assert store.read(CLASS_MINUTES, ["a"]).num_rows == 1
    assert store.read(CLASS_MINUTES, ["b"]).num_rows == 2
    assert store.row_count(CLASS_MINUTES) == 3


def test_replacing_by_no_rows_deletes_the_rows(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 0))
    assert store.read(CLASS_MINUTES).num_rows == 0


def test_updated_rows_can_be_filtered_when_recordings_share_a_parquet_file(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a", "b"], pa.concat_tables([class_minutes("a", 1), class_minutes("b", 1)]))
    store.update(CLASS_MINUTES, "b", {"class_name": "bus", "max_at_once": 7})
    assert store.read(CLASS_MINUTES, ["a"])["class_name"].to_pylist() == ["car"]
    rows = store.read(CLASS_MINUTES, ["b"])
    assert (rows["class_name"].to_pylist(), rows["max_at_once"].to_pylist()) == (["bus"], [7])
    assert store.scan(CLASS_MINUTES, ["b"]).count_rows() == 1


def test_ids_with_a_long_common_prefix_are_distinguished(store: Store) -> None:
    prefix = "a" * 80
    ids = [f"{prefix}{end}" for end in ("", "a", "b", "~", "ü")]
    for count, recording_id in enumerate(ids, 1):
        store.replace(CLASS_MINUTES, [recording_id], class_minutes(recording_id, count))
    for count, recording_id in enumerate(ids, 1):
        assert store.read(CLASS_MINUTES, [recording_id]).num_rows == count
    assert store.read(CLASS_MINUTES, ids[1:3]).num_rows == 5
    assert store.read(CLASS_MINUTES, [prefix[:70]]).num_rows == 0


def test_a_table_that_was_deleted_and_created_again_is_read_from_its_new_log(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 2))
    assert store.read(CLASS_MINUTES, ["a"]).num_rows == 2
    shutil.rmtree(store.tables_folder)
    assert store.read(CLASS_MINUTES, ["a"]).num_rows == 0
    store.replace(CLASS_MINUTES, ["b"], class_minutes("b", 3))
    assert store.read(CLASS_MINUTES).num_rows == 3
    assert store.versions()[CLASS_MINUTES.name] == 1


def test_ids_with_quotes_are_escaped_in_sql(store: Store) -> None:
    quoted_id = "it's'; DROP"
    store.replace(CLASS_MINUTES, [quoted_id], class_minutes(quoted_id, 2))
    store.replace(CLASS_MINUTES, [quoted_id], class_minutes(quoted_id, 1))
    store.update(CLASS_MINUTES, quoted_id, {"class_name": "o'car"})
    assert store.read(CLASS_MINUTES, [quoted_id])["class_name"].to_pylist() == ["o'car"]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        pytest.param(pa.concat_tables([class_minutes("a", 1)] * 2), r"1 keys .* are in more than one row", id="key"),
        pytest.param(
            class_minutes("a", 2, track_count=-1), "2 of 2 rows break the rule: track_count is at least 0", id="range"
        ),
        pytest.param(class_minutes("a", 1, mean_at_once=float("nan")), "mean_at_once is a finite number", id="NaN"),
        pytest.param(class_minutes("b", 1), r"the recordings \['b'\] have rows", id="other recording"),
    ],
)
def test_rows_that_break_a_rule_of_the_table_are_never_stored(store: Store, rows: pa.Table, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        store.replace(CLASS_MINUTES, ["a"], rows)
    assert store.read(CLASS_MINUTES).num_rows == 0


def test_an_update_changes_only_its_columns(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 1))
    store.update(CLASS_MINUTES, "a", {"track_count": 7})
    row = store.read(CLASS_MINUTES).to_pylist()[0]
    assert (row["track_count"], row["new_track_count"]) == (7, 1)
    with pytest.raises(ValueError, match="no columns"):
        store.update(CLASS_MINUTES, "a", {"trak_count": 7})


@pytest.mark.slow
def test_concurrent_writers_lose_no_rows(store: Store) -> None:
    code = """
import sys
from pathlib import Path
from resources.storage.delta_store import Store
from resources.schema.summary_tables import CLASS_MINUTES
from tests.builders.class_minutes import class_minutes
store, writer = Store(Path(sys.argv[1])), sys.argv[2]
for turn in range(6):
    store.replace(CLASS_MINUTES, [f"{writer}{turn}"], class_minutes(f"{writer}{turn}", 2))
    store.replace(CLASS_MINUTES, ["shared"], class_minutes("shared", 3))
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(store.data_folder), name]) for name in "abc"]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert store.row_count(CLASS_MINUTES) == 3 * 6 * 2 + 3
    assert store.read(CLASS_MINUTES, ["shared"]).num_rows == 3
