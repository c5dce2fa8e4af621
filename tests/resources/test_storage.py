import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from resources.errors import PipelineError
from resources.home import prepare_data_folder
from resources.results import open_results, publish, published_versions, results_path
from resources.schema import CLASS_MINUTES, CROPS, DETECTIONS, RECORDINGS, TABLES, broken_rules
from resources.storage import Store, check_data_folder


def minutes(recording_id: str, count: int, **changed: object) -> pa.Table:
    """`count` rows of class_minutes, minute 0 to count - 1, each with as many tracks as its minute."""
    rows = [
        {
            "recording_id": recording_id,
            "class_name": "car",
            "minute_index": minute,
            "track_count": minute,
            "new_track_count": 1,
            "max_at_once": 1,
            "mean_at_once": 0.5,
            **changed,
        }
        for minute in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=CLASS_MINUTES.arrow_schema)


def test_a_table_never_written_reads_as_empty(store: Store) -> None:
    assert store.read(CLASS_MINUTES).num_rows == 0
    assert store.read(CLASS_MINUTES).schema == CLASS_MINUTES.arrow_schema


def test_replacing_one_recording_leaves_the_others(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], minutes("a", 3))
    store.replace(CLASS_MINUTES, ["b"], minutes("b", 2))
    store.replace(CLASS_MINUTES, ["a"], minutes("a", 1))
    assert store.read(CLASS_MINUTES, ["a"]).num_rows == 1
    assert store.read(CLASS_MINUTES, ["b"]).num_rows == 2
    assert store.row_count(CLASS_MINUTES) == 3


def test_replacing_by_nothing_removes(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], minutes("a", 3))
    store.replace(CLASS_MINUTES, ["a"], minutes("a", 0))
    assert store.read(CLASS_MINUTES).num_rows == 0


def test_what_was_updated_can_be_filtered_also_where_recordings_share_a_file(store: Store) -> None:
    both = pa.concat_tables([minutes("a", 1), minutes("b", 1)])
    store.replace(CLASS_MINUTES, ["a", "b"], both)
    store.update(CLASS_MINUTES, "b", {"class_name": "bus", "max_at_once": 7})
    assert store.read(CLASS_MINUTES, ["a"])["class_name"].to_pylist() == ["car"]
    rows = store.read(CLASS_MINUTES, ["b"])
    assert (rows["class_name"].to_pylist(), rows["max_at_once"].to_pylist()) == (["bus"], [7])
    assert store.scan(CLASS_MINUTES, ["b"]).count_rows() == 1


def test_ids_alike_for_long_are_told_apart(store: Store) -> None:
    alike = "a" * 80
    ids = [f"{alike}{end}" for end in ("", "a", "b", "~", "ü")]
    for count, recording_id in enumerate(ids, 1):
        store.replace(CLASS_MINUTES, [recording_id], minutes(recording_id, count))
    for count, recording_id in enumerate(ids, 1):
        assert store.read(CLASS_MINUTES, [recording_id]).num_rows == count
    assert store.read(CLASS_MINUTES, ids[1:3]).num_rows == 5
    assert store.read(CLASS_MINUTES, [alike[:70]]).num_rows == 0


def test_a_table_that_was_deleted_and_written_anew_is_not_taken_for_the_old_one(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], minutes("a", 2))
    assert store.read(CLASS_MINUTES, ["a"]).num_rows == 2
    shutil.rmtree(store.tables_folder)
    assert store.read(CLASS_MINUTES, ["a"]).num_rows == 0
    store.replace(CLASS_MINUTES, ["b"], minutes("b", 3))
    assert store.read(CLASS_MINUTES).num_rows == 3
    assert store.versions()[CLASS_MINUTES.name] == 1


def test_ids_with_quotes_are_values_not_sql(store: Store) -> None:
    wicked = "it's'; DROP"
    store.replace(CLASS_MINUTES, [wicked], minutes(wicked, 2))
    store.replace(CLASS_MINUTES, [wicked], minutes(wicked, 1))
    store.update(CLASS_MINUTES, wicked, {"class_name": "o'car"})
    assert store.read(CLASS_MINUTES, [wicked])["class_name"].to_pylist() == ["o'car"]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        pytest.param(pa.concat_tables([minutes("a", 1)] * 2), r"1 keys .* stand in more than one row", id="key"),
        pytest.param(
            minutes("a", 2, track_count=-1), "2 of 2 rows break the rule: track_count is at least 0", id="range"
        ),
        pytest.param(minutes("a", 1, mean_at_once=float("nan")), "mean_at_once is a finite number", id="nan"),
        pytest.param(minutes("b", 1), r"recordings that were not named: \['b'\]", id="stranger"),
    ],
)
def test_rows_that_break_the_declaration_are_never_stored(store: Store, rows: pa.Table, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        store.replace(CLASS_MINUTES, ["a"], rows)
    assert store.read(CLASS_MINUTES).num_rows == 0


def test_every_rule_of_every_table_can_be_checked() -> None:
    for table in TABLES.values():
        assert broken_rules(table, table.arrow_schema.empty_table()) == []


def test_updating_changes_only_the_named_columns(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], minutes("a", 1))
    store.update(CLASS_MINUTES, "a", {"track_count": 7})
    row = store.read(CLASS_MINUTES).to_pylist()[0]
    assert (row["track_count"], row["new_track_count"]) == (7, 1)
    with pytest.raises(ValueError, match="no columns"):
        store.update(CLASS_MINUTES, "a", {"trak_count": 7})


def test_writers_in_different_processes_lose_nothing(store: Store) -> None:
    code = """
import sys
from pathlib import Path
from resources.storage import Store
from tests.resources.test_storage import CLASS_MINUTES, minutes
store, me = Store(Path(sys.argv[1])), sys.argv[2]
for turn in range(6):
    store.replace(CLASS_MINUTES, [f"{me}{turn}"], minutes(f"{me}{turn}", 2))
    store.replace(CLASS_MINUTES, ["shared"], minutes("shared", 3))
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(store.data_folder), me]) for me in "abc"]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert store.row_count(CLASS_MINUTES) == 3 * 6 * 2 + 3
    assert store.read(CLASS_MINUTES, ["shared"]).num_rows == 3


def test_results_show_every_table_with_comments(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], minutes("a", 3))
    assert publish(store)
    with open_results(store.data_folder) as results:
        for name, table in TABLES.items():
            columns = results.execute(f"DESCRIBE {name}").fetchall()
            assert [column[0] for column in columns] == [column.name for column in table.columns]
        assert results.execute("SELECT count(*) FROM class_minutes").fetchall() == [(3,)]
        uncommented = results.execute(
            "SELECT table_name, column_name FROM duckdb_columns() "
            "WHERE comment IS NULL AND NOT internal AND table_name != 'published_tables' "
            " AND database_name != 'temp'"
        ).fetchall()
        assert uncommented == []


def test_a_camera_has_one_time_line(store: Store) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    places = {"b": ("gate", 60, 30.0), "a": ("gate", 0, 60.0), "c": ("gate", 80, 5.0), "d": ("yard", 7, 1.0)}
    rows = [
        dict.fromkeys(RECORDINGS.arrow_schema.names)
        | {"recording_id": name, "status": "ok", "camera": camera, "source_path": name, "fingerprint": name}
        | {"size_bytes": 1, "mtime_utc": noon, "started_at_utc": noon + timedelta(seconds=start_s)}
        | {"duration_s_from_content": duration_s}
        for name, (camera, start_s, duration_s) in places.items()
    ]
    store.replace(RECORDINGS, list(places), pa.Table.from_pylist(rows, schema=RECORDINGS.arrow_schema))
    publish(store)
    with open_results(store.data_folder) as results:
        found = results.execute(
            "SELECT recording_id, timeline_start_s, previous_recording_id, gap_s FROM camera_timeline ORDER BY ALL"
        ).fetchall()
    assert found == [("a", 0, None, None), ("b", 60, "a", 0), ("c", 80, "b", -10), ("d", 0, None, None)]


def test_publishing_again_without_news_does_nothing(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], minutes("a", 3))
    assert publish(store)
    shown = results_path(store.data_folder).readlink()
    assert not publish(store)
    assert results_path(store.data_folder).readlink() == shown
    assert published_versions(store.data_folder) == store.versions()


def test_a_moved_data_folder_is_published_anew(store: Store, tmp_path: Path) -> None:
    store.replace(DETECTIONS, ["a"], DETECTIONS.arrow_schema.empty_table())
    store.replace(CLASS_MINUTES, ["a"], minutes("a", 3))
    publish(store)
    moved = store.data_folder.rename(tmp_path / "data moved 'there'")
    assert publish(Store(moved))
    with open_results(moved) as results:
        assert results.execute("SELECT count(*) FROM class_minutes").fetchall() == [(3,)]


def test_open_readers_neither_block_nor_break(store: Store) -> None:
    """A reader in another process keeps asking the file it opened and the link, while every publish goes through."""
    store.replace(CLASS_MINUTES, ["a"], minutes("a", 1))
    store.replace(CROPS, ["a"], CROPS.arrow_schema.empty_table())
    publish(store)
    code = """
import sys, duckdb
held = duckdb.connect(sys.argv[1])  # read-write, as people open it by mistake
print(held.execute("SELECT count(*) FROM class_minutes").fetchall()[0][0], flush=True)
for line in sys.stdin:
    fresh = duckdb.connect(sys.argv[1], read_only=True) if line.strip() == "fresh" else held
    print(fresh.execute("SELECT count(*) FROM class_minutes").fetchall()[0][0], flush=True)
"""
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(results_path(store.data_folder))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdin and reader.stdout
    watchdog = threading.Timer(60, reader.kill)
    watchdog.start()
    try:
        assert reader.stdout.readline() == "1\n"
        for count in (2, 3, 4):
            store.replace(CLASS_MINUTES, ["a"], minutes("a", count))
            assert publish(store)
            for asked, answer in (("held", 1), ("fresh", count)):
                reader.stdin.write(f"{asked}\n")
                reader.stdin.flush()
                assert reader.stdout.readline() == f"{answer}\n"
    finally:
        watchdog.cancel()
        reader.kill()
        reader.wait()


def test_many_small_files_are_compacted_and_stay_readable(store: Store) -> None:
    for number in range(70):
        store.replace(CLASS_MINUTES, [f"r{number}"], minutes(f"r{number}", 1))
    publish(store)
    assert len(store.files(CLASS_MINUTES)) < 10
    publish(store)
    with open_results(store.data_folder) as results:
        assert results.execute("SELECT count(DISTINCT recording_id) FROM class_minutes").fetchall() == [(70,)]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match="cannot be used: Not a directory"):
        check_data_folder(tmp_path / "file" / "data")
    with pytest.raises(PipelineError, match="MB free"):
        check_data_folder(tmp_path, min_free_bytes=10**18)


def test_keys_are_declared_columns_that_are_never_null() -> None:
    for table in TABLES.values():
        columns = {column.name: column for column in table.columns}
        assert all(not columns[name].nullable for name in table.key), table.name
    assert RECORDINGS.key == ("recording_id",)


def test_tables_of_another_version_are_told_before_anything_is_written(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], minutes("a", 1))
    assert store.outdated_tables() == []
    prepare_data_folder(store.data_folder)
    folder = store.tables_folder / CLASS_MINUTES.name
    write_deltalake(
        str(folder), minutes("a", 1).drop_columns(["class_name"]), mode="overwrite", schema_mode="overwrite"
    )
    with pytest.raises(PipelineError, match=r"written by another version.*\(class_minutes\)"):
        prepare_data_folder(store.data_folder)
