import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from resources.schema.model_tables import DETECTIONS
from resources.schema.recording_tables import RECORDINGS
from resources.schema.summary_tables import CLASS_MINUTES
from resources.schema.table_registry import TABLES
from resources.schema.track_tables import CROPS
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results, publish, published_versions, results_path
from tests.builders.class_minutes import class_minutes


def test_results_have_every_table_with_comments_on_all_columns(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
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


def test_the_timeline_of_a_camera_has_its_recordings_in_order_with_gaps_and_overlaps(store: Store) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    recordings = {"b": ("gate", 60, 30.0), "a": ("gate", 0, 60.0), "c": ("gate", 80, 5.0), "d": ("yard", 7, 1.0)}
    rows = [
        dict.fromkeys(RECORDINGS.arrow_schema.names)
        | {"recording_id": name, "status": "ok", "camera": camera, "source_path": name, "fingerprint": name}
        | {"size_bytes": 1, "mtime_utc": noon, "started_at_utc": noon + timedelta(seconds=start_s)}
        | {"duration_s_from_content": duration_s}
        for name, (camera, start_s, duration_s) in recordings.items()
    ]
    store.replace(RECORDINGS, list(recordings), pa.Table.from_pylist(rows, schema=RECORDINGS.arrow_schema))
    publish(store)
    with open_results(store.data_folder) as results:
        timeline = results.execute(
            "SELECT recording_id, timeline_start_s, previous_recording_id, gap_s FROM camera_timeline ORDER BY ALL"
        ).fetchall()
    assert timeline == [("a", 0, None, None), ("b", 60, "a", 0), ("c", 80, "b", -10), ("d", 0, None, None)]


def test_publishing_without_new_commits_does_nothing(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    assert publish(store)
    published_file = results_path(store.data_folder).readlink()
    assert not publish(store)
    assert results_path(store.data_folder).readlink() == published_file
    assert published_versions(store.data_folder) == store.versions()


def test_a_moved_data_folder_is_published_again(store: Store, tmp_path: Path) -> None:
    store.replace(DETECTIONS, ["a"], DETECTIONS.arrow_schema.empty_table())
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    publish(store)
    new_folder = store.data_folder.rename(tmp_path / "data moved 'there'")
    assert publish(Store(new_folder))
    with open_results(new_folder) as results:
        assert results.execute("SELECT count(*) FROM class_minutes").fetchall() == [(3,)]


@pytest.mark.slow
def test_open_readers_neither_block_publication_nor_see_errors(store: Store) -> None:
    """A reader in another process queries the file it opened and the current one, while every publication succeeds."""
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 1))
    store.replace(CROPS, ["a"], CROPS.arrow_schema.empty_table())
    publish(store)
    code = """
import sys, duckdb
first = duckdb.connect(sys.argv[1])  # read-write, as users open it by mistake
print(first.execute("SELECT count(*) FROM class_minutes").fetchall()[0][0], flush=True)
for line in sys.stdin:
    database = duckdb.connect(sys.argv[1], read_only=True) if line.strip() == "newest" else first
    print(database.execute("SELECT count(*) FROM class_minutes").fetchall()[0][0], flush=True)
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
            store.replace(CLASS_MINUTES, ["a"], class_minutes("a", count))
            assert publish(store)
            for database, row_count in (("first", 1), ("newest", count)):
                reader.stdin.write(f"{database}\n")
                reader.stdin.flush()
                assert reader.stdout.readline() == f"{row_count}\n"
    finally:
        watchdog.cancel()
        reader.kill()
        reader.wait()


@pytest.mark.slow
def test_many_small_files_are_compacted_and_remain_readable(store: Store) -> None:
    for number in range(70):
        store.replace(CLASS_MINUTES, [f"r{number}"], class_minutes(f"r{number}", 1))
    publish(store)
    assert len(store.files(CLASS_MINUTES)) < 10
    publish(store)
    with open_results(store.data_folder) as results:
        assert results.execute("SELECT count(DISTINCT recording_id) FROM class_minutes").fetchall() == [(70,)]


def test_clients_from_duckdb_1_4_on_can_open_the_results(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    publish(store)
    with open_results(store.data_folder) as results:
        query = "SELECT tags['storage_version'] FROM duckdb_databases() WHERE NOT internal"
        assert results.execute(query).fetchall() == [("v1.4.0+",)]
