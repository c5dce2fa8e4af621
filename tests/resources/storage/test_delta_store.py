import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from resources.errors import RunFencedError
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


def test_rows_that_a_test_does_not_keep_are_deleted(store: Store) -> None:
    store.append(CLASS_MINUTES, pa.concat_tables([class_minutes(name, 3) for name in "abc"]))
    assert store.filter_rows(CLASS_MINUTES, ["a", "b"], lambda rows: pc.less(rows["minute_index"], 1)) == 4
    assert [store.read(CLASS_MINUTES, [name]).num_rows for name in "abc"] == [1, 1, 3]
    assert store.filter_rows(CLASS_MINUTES, None, lambda rows: pc.less(rows["minute_index"], 1)) == 2
    assert store.filter_rows(CLASS_MINUTES, None, lambda rows: pa.nulls(rows.num_rows, pa.bool_())) == 0
    assert store.filter_rows(CLASS_MINUTES, [], lambda rows: pa.nulls(rows.num_rows, pa.bool_())) == 0
    assert store.row_count(CLASS_MINUTES) == 3


def test_a_deletion_without_rows_commits_nothing(store: Store) -> None:
    assert store.filter_rows(CLASS_MINUTES, None, lambda rows: pc.less(rows["minute_index"], 1)) == 0
    assert store.versions() == {}
    store.append(CLASS_MINUTES, class_minutes("a", 1))
    version = store.versions()
    assert store.filter_rows(CLASS_MINUTES, ["a"], lambda rows: pc.less(rows["minute_index"], 1)) == 0
    assert store.versions() == version


@pytest.mark.parametrize("is_deletion", [False, True], ids=["change", "filter_rows"])
def test_a_row_that_is_appended_between_reading_and_committing_is_not_lost(store: Store, is_deletion: bool) -> None:
    store.append(CLASS_MINUTES, class_minutes("a", 2))
    appended_row = class_minutes("a", 3).slice(2)
    row_counts = []

    def append_once(rows: pa.Table) -> None:
        row_counts.append(rows.num_rows)
        if len(row_counts) == 1:
            # In another thread, which has an open table of its own, as another process does.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(store.append, CLASS_MINUTES, appended_row).result()

    def compute(rows: pa.Table) -> dict[str, list[str]]:
        append_once(rows)
        return {"class_name": ["bus"] * rows.num_rows}

    def keep(rows: pa.Table) -> pa.Array:
        append_once(rows)
        return pc.not_equal(rows["minute_index"], 0)

    if is_deletion:
        assert store.filter_rows(CLASS_MINUTES, ["a"], keep) == 1
    else:
        store.change(CLASS_MINUTES, ["a"], compute)
    assert row_counts == [2, 3]
    rows = store.read(CLASS_MINUTES)
    assert sorted(rows["minute_index"].to_pylist()) == ([1, 2] if is_deletion else [0, 1, 2])
    assert set(rows["class_name"].to_pylist()) == ({"car"} if is_deletion else {"bus"})


def test_an_append_that_conflicts_is_fenced_again_before_it_is_retried(store: Store) -> None:
    store.append(CLASS_MINUTES, class_minutes("a", 1))
    check_count = 0

    def check_fence() -> None:
        nonlocal check_count
        check_count += 1
        if check_count > 1:
            raise RunFencedError("run 3f2a is no longer active; its writes are fenced off.")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(Store(store.data_folder).append, CLASS_MINUTES, class_minutes("b", 1)).result()

    with store.fenced_by(check_fence), pytest.raises(RunFencedError):
        store.append(CLASS_MINUTES, class_minutes("c", 1))
    assert sorted(store.read(CLASS_MINUTES)["recording_id"].to_pylist()) == ["a", "b"]


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


@pytest.mark.slow
def test_appends_lose_no_rows_while_others_replace_delete_and_compact(store: Store) -> None:
    code = """
import sys
from pathlib import Path
import pyarrow.compute as pc
from resources.storage import delta_store, delta_writes
from resources.schema.summary_tables import CLASS_MINUTES
from tests.builders.class_minutes import class_minutes
delta_writes._COMPACT_ABOVE_FILES = 4
store, task = delta_store.Store(Path(sys.argv[1])), sys.argv[2]
end = Path(sys.argv[1]) / "end"

def is_kept(rows):
    return pc.or_(pc.not_equal(rows["recording_id"], "a0"), pc.less(rows["minute_index"], 1))

turn = 0
while turn < 15 if task in "abc" else not end.exists():
    if task in "abc":
        store.append(CLASS_MINUTES, class_minutes(f"{task}{turn}", 2))
    elif task == "replace":
        store.replace(CLASS_MINUTES, ["shared"], class_minutes("shared", 3))
    elif task == "delete":
        store.filter_rows(CLASS_MINUTES, ["a0", "a1", "shared"], is_kept)
    else:
        store.compact(CLASS_MINUTES)
    turn += 1
store.filter_rows(CLASS_MINUTES, ["a0"], is_kept)
"""
    tasks = ["a", "b", "c", "replace", "delete", "compact"]
    processes = [subprocess.Popen([sys.executable, "-c", code, str(store.data_folder), task]) for task in tasks]
    assert [process.wait(120) for process in processes[:3]] == [0, 0, 0]
    (store.data_folder / "end").touch()
    assert [process.wait(120) for process in processes[3:]] == [0, 0, 0]
    row_counts = Counter(store.read(CLASS_MINUTES)["recording_id"].to_pylist())
    appended_ids = [f"{task}{turn}" for task in "abc" for turn in range(15)]
    assert row_counts == {**dict.fromkeys(appended_ids, 2), "a0": 1, "shared": 3}
