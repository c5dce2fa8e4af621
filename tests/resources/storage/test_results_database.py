import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from cli.sql import run_query
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.schema.model_tables import DETECTIONS
from resources.schema.recording_tables import RECORDING_CLOCKS, RECORDINGS, SOURCE_FILES
from resources.schema.summary_tables import CLASS_MINUTES, CLASS_PRESENCE
from resources.schema.table_registry import TABLES, crop_model_tables
from resources.schema.track_tables import CROPS, TRACK_BOXES
from resources.schema.views import VIEWS
from resources.schema.zone_tables import ZONE_EVENTS
from resources.storage.delta_store import Store
from resources.storage.recording_clocks import guessed_clocks_sentence
from resources.storage.results_database import (
    open_results,
    publish,
    publish_if_unusable,
    published_versions,
    results_path,
)
from resources.storage.stage_runs import StageRun, append_stage_runs
from tests.builders.class_minutes import class_minutes
from tests.builders.damaged_tables import DamageTable, cut_file, lose_file
from tests.builders.table_rows import STARTED_JUST_BEFORE_NINE, sparse_rows, store_recordings
from tests.builders.track_rows import moving_track_boxes
from tests.builders.walk_recording import stored_rows

SETTINGS = Settings()
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def query(store: Store, sql: str) -> list[Any]:
    """Rows of a query over the newest results."""
    with open_results(store.data_folder) as results:
        return results.execute(sql).fetchall()


def stage_run(recording_id: str, stage: str, status: str, minute: int = 0, error: str | None = None) -> StageRun:
    """An attempt that ended some minutes after noon."""
    ended_at = NOON + timedelta(minutes=minute)
    return StageRun(recording_id, stage, 1, status, f"run-{minute}", ended_at, "person", error=error)


def detection_rows(recording_id: str, times_s: Sequence[float]) -> pa.Table:
    """Detections of a recording at some times."""
    measures = dict.fromkeys(DETECTIONS.arrow_schema.names, 0) | {"class_name": "car", "model_id": "m"}
    key = {"recording_id": recording_id, "engine_name": "e", "is_reused": False}
    rows = [{**measures, **key, "frame_index": index, "time_s": time_s} for index, time_s in enumerate(times_s)]
    return pa.Table.from_pylist(rows, schema=DETECTIONS.arrow_schema)


def test_results_have_every_table_with_comments_on_all_columns(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    assert publish(store, SETTINGS)
    with open_results(store.data_folder) as results:
        for table in (*TABLES.values(), *(view.table for view in VIEWS)):
            name = table.published_name or table.name
            columns = results.execute(f"DESCRIBE {name}").fetchall()
            assert [column[0] for column in columns] == [column.name for column in table.columns]
        assert results.execute("SELECT count(*) FROM recording_class_minutes").fetchall() == [(3,)]
        uncommented = "comment IS NULL AND NOT internal AND database_name NOT IN ('temp', 'system')"
        assert results.execute(f"SELECT * FROM duckdb_columns() WHERE {uncommented}").fetchall() == []
        assert results.execute(f"SELECT * FROM duckdb_tables() WHERE {uncommented}").fetchall() == []
        assert results.execute(f"SELECT * FROM duckdb_views() WHERE {uncommented}").fetchall() == []
        assert results.execute(f"SELECT * FROM duckdb_functions() WHERE {uncommented}").fetchall() == []
        published = {row[0]: row[1:] for row in results.execute("FROM published_tables").fetchall()}
    assert published["recording_class_minutes"][2:4] == (3, store.versions()["class_minutes"])
    assert {"recordings", "recording_headers", "recording_hours", "camera_timeline"} <= set(published)


def test_recordings_have_the_columns_of_header_content_clock_and_status(store: Store) -> None:
    store_recordings(store, {"recording_id": "a", "started_at_utc": NOON}, {"recording_id": "b"})
    append_stage_runs(store, [stage_run("a", "recordings", "ok"), stage_run("a", "scenes", "failed", 1, "Broken.")])
    publish(store, SETTINGS)
    columns = "recording_id, status, error, failed_stage, camera, epoch(started_at_utc), started_at_source, frame_count"
    assert query(store, f"SELECT {columns} FROM recordings ORDER BY recording_id") == [
        ("a", "failed", "Broken.", "scenes", "gate", NOON.timestamp(), "container", 40),
        ("b", None, None, None, "gate", STARTED_JUST_BEFORE_NINE.timestamp(), "container", 40),
    ]


def test_a_recording_that_failed_before_it_had_a_header_is_among_the_recordings(store: Store) -> None:
    append_stage_runs(store, [stage_run("a", "recordings", "failed", error="The file is missing.")])
    file = {"recording_id": "a", "size_bytes": 7, "mtime_ns": 1_700_000_000_123_456_789, "seen_at_utc": NOON}
    files = [
        file | {"source_path": "gate/copy.mp4", "state": "duplicate", "camera": "gate"},
        file | {"source_path": "yard/a.mp4", "state": "known", "camera": "yard", "fingerprint": "f"},
    ]
    store.replace(SOURCE_FILES, [], sparse_rows(SOURCE_FILES, *files))
    publish(store, SETTINGS)
    columns = (
        "status, failed_stage, error, camera, source_path, fingerprint, size_bytes, epoch_us(mtime_utc), frame_count"
    )
    assert query(store, f"SELECT {columns} FROM recordings") == [
        ("failed", "recordings", "The file is missing.", "yard", "yard/a.mp4", "f", 7, 1_700_000_000_123_456, None)
    ]


def test_a_recording_keeps_its_camera_when_a_copy_of_its_file_is_in_another_folder(store: Store) -> None:
    store_recordings(store, {"recording_id": "a", "camera": None}, {"recording_id": "b"})
    file = {"size_bytes": 7, "mtime_ns": 1, "seen_at_utc": NOON, "fingerprint": "f"}
    files = [
        file | {"recording_id": "a", "source_path": "a.mp4", "state": "known"},
        file | {"recording_id": "a", "source_path": "yard/a.mp4", "state": "duplicate", "camera": "yard"},
        file | {"recording_id": "c", "source_path": "shop/c.mp4", "state": "known", "camera": "shop"},
    ]
    store.replace(SOURCE_FILES, [], sparse_rows(SOURCE_FILES, *files))
    append_stage_runs(store, [stage_run(name, "recordings", "failed", error="Broken.") for name in ("a", "b", "c")])
    publish(store, SETTINGS)
    cameras = [("a", None), ("b", "gate"), ("c", "shop")]
    for table in ("recordings", "stage_runs", "recording_clocks"):
        assert query(store, f"SELECT recording_id, camera FROM {table} ORDER BY ALL") == cameras, table


def test_recordings_whose_start_is_a_guess_are_counted_with_the_remedy(store: Store) -> None:
    store_recordings(store, {"recording_id": "a"}, {"recording_id": "b", "created_at_utc": None})
    publish(store, SETTINGS)
    sentence = guessed_clocks_sentence(store)
    assert sentence is not None
    assert sentence.startswith("Clock times of 1 of 2 recordings are a guess")
    assert "ingest.captured_at_patterns" in sentence
    store_recordings(store, {"recording_id": "b"})
    publish(store, SETTINGS)
    assert guessed_clocks_sentence(store) is None


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        pytest.param([("scenes", "failed", 0), ("scenes", "ok", 1)], ("ok", None), id="retried"),
        pytest.param([("scenes", "ok", 0), ("scenes", "interrupted", 1)], ("interrupted", "scenes"), id="interrupted"),
        pytest.param(
            [("normalized_video", "partial", 0), ("scenes", "ok", 1), ("tracks", "interrupted", 2)],
            ("interrupted", "tracks"),
            id="partial, then interrupted",
        ),
        pytest.param([("normalized_video", "partial", 0), ("scenes", "ok", 1)], ("partial", None), id="partial"),
        pytest.param(
            [("scenes", "quarantined", 0), ("crops", "failed", 1)], ("quarantined", "scenes"), id="quarantined"
        ),
        pytest.param([("scenes", "failed", 1), ("crops", "failed", 2)], ("failed", "crops"), id="failed twice"),
        pytest.param([("recordings", "rejected", 0), ("crops", "failed", 2)], ("rejected", None), id="rejected"),
    ],
)
def test_the_status_of_a_recording_is_the_most_severe_of_its_stages(
    store: Store, attempts: list[tuple[str, str, int]], expected: tuple[str, str | None]
) -> None:
    append_stage_runs(store, [stage_run("a", *attempt) for attempt in attempts])
    publish(store, SETTINGS)
    assert query(store, "SELECT status, failed_stage FROM recording_status") == [expected]


def test_the_timeline_of_a_camera_has_its_recordings_in_order_with_gaps_and_overlaps(store: Store) -> None:
    recordings = {"b": ("gate", 60, 30.0), "a": ("gate", 0, 60.0), "c": ("gate", 80, 5.0), "d": ("yard", 7, 1.0)}
    rows = [
        {
            "recording_id": name,
            "camera": camera,
            "started_at_utc": NOON + timedelta(seconds=start_s),
            "duration_s_from_content": duration_s,
        }
        for name, (camera, start_s, duration_s) in recordings.items()
    ]
    store_recordings(store, *rows)
    publish(store, SETTINGS)
    columns = "recording_id, timeline_start_s, previous_recording_id, gap_s"
    timeline = query(store, f"SELECT {columns} FROM camera_timeline ORDER BY ALL")
    assert timeline == [("a", 0, None, None), ("b", 60, "a", 0), ("c", 80, "b", -10), ("d", 0, None, None)]


def test_a_corrected_clock_changes_all_wall_clock_times_with_the_next_publication(store: Store) -> None:
    store_recordings(
        store, {"recording_id": "a", "started_at_utc": NOON}, {"recording_id": "n", "container_name": None}
    )
    store.replace(DETECTIONS, ["a", "n"], pa.concat_tables([detection_rows("a", [0, 1.5]), detection_rows("n", [2])]))
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 2))
    assert publish(store, SETTINGS)
    times = "SELECT epoch(captured_at_utc) FROM detections ORDER BY recording_id, frame_index"
    minutes = "SELECT epoch(minute_start_utc) FROM recording_class_minutes ORDER BY minute_index"
    noon_s = NOON.timestamp()
    assert query(store, times) == [(noon_s,), (noon_s + 1.5,), (None,)]
    assert query(store, minutes) == [(noon_s,), (noon_s + 60,)]
    versions = store.versions()
    corrected = Settings(cameras={"gate": CameraSettings(clock_offset_s=-90)})
    assert publish(store, corrected)
    assert not publish(store, corrected)
    assert query(store, times) == [(noon_s - 90,), (noon_s - 88.5,), (None,)]
    assert query(store, minutes) == [(noon_s - 90,), (noon_s - 30,)]
    changed = {name for name, version in store.versions().items() if version != versions[name]}
    assert changed == {"recording_clocks"}


def test_settings_that_change_no_clock_are_published_without_new_clocks(store: Store) -> None:
    store_recordings(store, {"recording_id": "a"})
    publish(store, SETTINGS)
    version = store.versions()["recording_clocks"]
    assert publish(store, Settings.model_validate({"ingest": {"captured_at_patterns": []}}))
    assert store.versions()["recording_clocks"] == version


def test_local_times_are_those_of_the_camera_also_after_an_older_version(store: Store) -> None:
    settings = Settings(cameras={"gate": CameraSettings(time_zone="Asia/Tokyo")})
    store_recordings(store, {"recording_id": "a", "started_at_utc": NOON})
    event = {"track_id": 1, "event": "in", "line_name": "entrance", "class_name": "car", "time_s": 1.5}
    store.replace(ZONE_EVENTS, ["a"], stored_rows(ZONE_EVENTS, [event], "a"))
    publish(store, settings)
    # As a version without the column has left it.
    store.update(RECORDING_CLOCKS, "a", {"time_zone": None})
    (contents_file,) = (store.data_folder / "published").glob("*.json")
    contents = json.loads(contents_file.read_text())
    contents_file.write_text(json.dumps(contents | {"declaration_version": "older", "versions": store.versions()}))
    publish(store, settings)
    sql = "SELECT camera, captured_at_local, place, place_kind, event FROM v_events"
    in_tokyo = NOON.replace(tzinfo=None) + timedelta(hours=9, seconds=1.5)
    assert query(store, sql) == [("gate", in_tokyo, "entrance", "line", "in")]


def test_the_clock_of_a_recording_without_header_is_removed(store: Store) -> None:
    store_recordings(store, {"recording_id": "a"}, {"recording_id": "b"})
    publish(store, SETTINGS)
    store.replace(RECORDINGS, ["a"], RECORDINGS.empty)
    publish(store, SETTINGS)
    assert store.read(RECORDING_CLOCKS)["recording_id"].to_pylist() == ["b"]


def test_macros_return_the_rows_of_one_camera_between_two_times(store: Store) -> None:
    starts = {"a": ("gate", 0), "b": ("gate", 60), "c": ("yard", 0), "d": (None, 0)}
    rows = [
        {"recording_id": name, "camera": camera, "started_at_utc": NOON + timedelta(seconds=start_s)}
        for name, (camera, start_s) in starts.items()
    ]
    store_recordings(store, *rows)
    store.replace(DETECTIONS, list(starts), pa.concat_tables([detection_rows(name, [0, 1, 3]) for name in starts]))
    presence = {"class_name": "car", "start_s": 0.0, "end_s": 2.0, "object_count": 1}
    store.replace(CLASS_PRESENCE, ["a"], sparse_rows(CLASS_PRESENCE, presence | {"recording_id": "a"}))
    publish(store, SETTINGS)
    keys = "SELECT recording_id, time_s FROM detections_between"
    order = "ORDER BY ALL"
    between = "'2026-03-01 12:00:01', '2026-03-01 12:01:01'"
    assert query(store, f"{keys}('gate', {between}) {order}") == [("a", 1), ("a", 3), ("b", 0)]
    assert query(store, f"{keys}('', {between}) {order}") == [("d", 1), ("d", 3)]
    assert query(store, f"{keys}(NULL, {between}) {order}") == [("d", 1), ("d", 3)]
    with_zone = "TIMESTAMPTZ '2026-03-01 13:01:01+01', to_utc := '2026-03-01T12:02:00Z'"
    with open_results(store.data_folder) as results:
        results.execute("SET TimeZone = 'America/New_York'")  # the times above are UTC in any session
        assert results.execute(f"{keys}('gate', {with_zone}) {order}").fetchall() == [("b", 1), ("b", 3)]
        assert results.execute(f"{keys}('gate', {between}) {order}").fetchall() == [("a", 1), ("a", 3), ("b", 0)]
        columns = results.execute(f"DESCRIBE FROM detections_between('gate', {between})").fetchall()
        assert [column[0] for column in columns] == [column.name for column in DETECTIONS.columns]
    minutes = "SELECT camera, object_s FROM class_minutes_between"
    assert query(store, f"{minutes}('gate', '2026-03-01', '2026-03-02')") == [("gate", 2.0)]
    assert query(store, f"{minutes}('gate', '2026-03-01', '2026-03-01 12:00')") == []
    macros = (
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_name LIKE '%_between' AND NOT internal"
    )
    assert {name for (name,) in query(store, macros)} == {
        *("frames_between", "detections_between", "frame_classes_between", "track_boxes_between", "crops_between"),
        *("masks_between", "keypoints_between", "oriented_boxes_between", "zone_events_between", "line_trips_between"),
        *("class_minutes_between", "zone_minutes_between", "line_minutes_between"),
        *("tracker_track_boxes_between", "corrected_boxes_between", "v_events_between"),
    }


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old"), ("old",)])
def test_a_column_that_older_files_lack_is_null_in_their_rows(store: Store, order: tuple[str, ...]) -> None:
    folder = store.tables_folder / TRACK_BOXES.name
    for name in order:
        rows = moving_track_boxes([15.0], recording_id=name, detection_index=7)
        written = rows.drop_columns(["detection_index"]) if name == "old" else rows
        write_deltalake(folder, written, mode="append", schema_mode="merge" if folder.exists() else None)
    publish(store, SETTINGS)
    stored = query(store, "SELECT recording_id, detection_index FROM track_boxes ORDER BY recording_id")
    assert stored == sorted([(name, None if name == "old" else 7) for name in order])


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old"), ("old",), ("new",)])
def test_a_column_without_statistics_that_older_files_lack_is_null_in_their_rows(
    store: Store, order: tuple[str, ...]
) -> None:
    folder = store.tables_folder / CROPS.name
    for name in order:
        row = dict.fromkeys(CROPS.arrow_schema.names, 1) | {"recording_id": name, "class_name": "car", "jpeg": b"jpeg"}
        rows = pa.Table.from_pylist([row], schema=CROPS.arrow_schema)
        written = rows.drop_columns(["jpeg"]) if name == "old" else rows
        write_deltalake(folder, written, mode="append", schema_mode="merge" if folder.exists() else None)
    publish(store, SETTINGS)
    stored = query(store, "SELECT recording_id, jpeg FROM crops ORDER BY recording_id")
    assert stored == sorted([(name, None if name == "old" else b"jpeg") for name in order])


def test_publishing_without_new_commits_does_nothing(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    assert publish(store, SETTINGS)
    published_file = results_path(store.data_folder).readlink()
    assert not publish(store, SETTINGS)
    assert results_path(store.data_folder).readlink() == published_file
    assert published_versions(store.data_folder) == store.versions()


def published_contents(store: Store) -> dict[str, list[Any]]:
    """Rows, columns and macros of everything in the newest results, without the time of publication."""
    catalog = {
        "columns": "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal",
        "views": "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal",
        "macros": "SELECT function_name, macro_definition, comment FROM duckdb_functions() WHERE NOT internal",
        "published_tables": "SELECT * EXCLUDE (published_at_utc) FROM published_tables",
    }
    names = [name for (name,) in query(store, "SELECT table_name FROM published_tables") if name not in catalog]
    queries = catalog | {name: f"FROM {name}" for name in names}
    return {name: query(store, f"FROM ({sql}) ORDER BY ALL") for name, sql in queries.items()}


def test_a_publication_that_replaces_changed_tables_equals_a_complete_one(store: Store) -> None:
    store_recordings(store, {"recording_id": "a"}, {"recording_id": "b"})
    store.replace(DETECTIONS, ["a"], DETECTIONS.empty)
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    publish(store, SETTINGS)
    changes: list[tuple[Callable[[], object], ...]] = [
        (
            lambda: store.replace(CLASS_MINUTES, ["b"], class_minutes("b", 2)),
            lambda: append_stage_runs(store, [stage_run("a", "recordings", "failed", error="Broken.")]),
        ),
        (lambda: store.replace(DETECTIONS, ["a"], detection_rows("a", [0, 1.5])),),  # a table becomes a view
        (lambda: store.replace(DETECTIONS, ["b"], detection_rows("b", [2.0])),),
        (
            lambda: store.replace(DETECTIONS, ["a", "b"], DETECTIONS.empty),
            lambda: store.replace(RECORDINGS, ["a"], RECORDINGS.empty),
        ),
        (lambda: store_recordings(store, {"recording_id": "c", "camera": "yard"}),),  # the clocks of all tables
    ]
    for number, changed_together in enumerate(changes):
        for change in changed_together:
            change()
        assert publish(store, SETTINGS), number
        replaced = published_contents(store)
        results_path(store.data_folder).resolve().with_suffix(".json").unlink()  # nothing to copy
        assert publish(store, SETTINGS), number
        assert published_contents(store) == replaced, number


def test_rows_that_a_client_wrote_into_the_results_are_gone_with_the_next_publication(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    publish(store, SETTINGS)
    published_file = results_path(store.data_folder).resolve()
    published_file.chmod(0o600)
    with duckdb.connect(str(published_file)) as client:
        client.execute("DELETE FROM recording_class_minutes")
    store.replace(CLASS_MINUTES, ["b"], class_minutes("b", 2))
    assert publish(store, SETTINGS)
    assert query(store, "SELECT count(*) FROM recording_class_minutes") == [(5,)]


def test_a_moved_data_folder_is_published_again(store: Store, tmp_path: Path) -> None:
    store.replace(DETECTIONS, ["a"], DETECTIONS.arrow_schema.empty_table())
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    publish(store, SETTINGS)
    new_folder = store.data_folder.rename(tmp_path / "data moved 'there'")
    assert publish(Store(new_folder), SETTINGS)
    with open_results(new_folder) as results:
        assert results.execute("SELECT count(*) FROM recording_class_minutes").fetchall() == [(3,)]


def cut_by_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("suffix", [".duckdb", ".json"])
@pytest.mark.parametrize("damage", [Path.unlink, empty, cut_by_half])
def test_damaged_results_are_published_again(store: Store, damage: Callable[[Path], None], suffix: str) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    publish(store, SETTINGS)
    published_file = results_path(store.data_folder).resolve()
    damage(published_file.with_suffix(suffix))
    assert published_versions(store.data_folder) is None
    publish_if_unusable(store, SETTINGS)
    assert query(store, "SELECT count(*) FROM recording_class_minutes") == [(3,)]
    newest_file = results_path(store.data_folder).resolve()
    publish_if_unusable(store, SETTINGS)
    assert not publish(store, SETTINGS)
    assert results_path(store.data_folder).resolve() == newest_file != published_file


def test_results_without_a_link_or_with_one_to_nowhere_are_published_again(store: Store) -> None:
    publish_if_unusable(store, SETTINGS)
    assert not results_path(store.data_folder).exists()  # no tables yet
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    publish(store, SETTINGS)
    results_path(store.data_folder).unlink()
    publish_if_unusable(store, SETTINGS)
    assert query(store, "SELECT count(*) FROM recording_class_minutes") == [(3,)]
    results_path(store.data_folder).unlink()
    results_path(store.data_folder).symlink_to("published/results-0.duckdb")
    publish_if_unusable(store, SETTINGS)
    assert query(store, "SELECT count(*) FROM recording_class_minutes") == [(3,)]


def test_a_copied_data_folder_has_its_own_rows(store: Store, tmp_path: Path) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    store.replace(DETECTIONS, ["a"], detection_rows("a", [0.5]))
    publish(store, SETTINGS)
    copy = Store(tmp_path / "copy")
    shutil.copytree(store.data_folder, copy.data_folder, symlinks=True)
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 1))
    publish(store, SETTINGS)
    publish_if_unusable(copy, SETTINGS)
    assert query(copy, "SELECT count(*) FROM recording_class_minutes") == [(3,)]
    (view,) = query(copy, "SELECT sql FROM duckdb_views() WHERE view_name = 'detections'")
    assert str(copy.data_folder) in view[0]
    assert str(store.data_folder) not in view[0]


@pytest.mark.parametrize("damage", [lose_file, cut_file])
def test_a_damaged_table_is_named_when_it_is_published(store: Store, damage: DamageTable) -> None:
    store.replace(DETECTIONS, ["a"], detection_rows("a", [0.5]))
    damage(store.tables_folder / DETECTIONS.name)
    with pytest.raises(PipelineError, match=r"detections: its file .*: run cv-assets repair"):
        publish(store, SETTINGS)
        query(store, "SELECT * FROM detections")


@pytest.mark.slow
def test_open_readers_neither_block_publication_nor_see_errors(store: Store) -> None:
    """A reader in another process queries the file it opened and the current one, while every publication succeeds."""
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 1))
    store.replace(CROPS, ["a"], CROPS.arrow_schema.empty_table())
    publish(store, SETTINGS)
    results_path(store.data_folder).chmod(0o600)  # as root sees every file, and as an older version published it
    code = """
import sys, duckdb
first = duckdb.connect(sys.argv[1])  # read-write, as users open it by mistake
print(first.execute("SELECT count(*) FROM recording_class_minutes").fetchall()[0][0], flush=True)
for line in sys.stdin:
    database = duckdb.connect(sys.argv[1], read_only=True) if line.strip() == "newest" else first
    print(database.execute("SELECT count(*) FROM recording_class_minutes").fetchall()[0][0], flush=True)
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
            assert publish(store, SETTINGS)
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
    publish(store, SETTINGS)
    assert len(store.files(CLASS_MINUTES)) < 10
    publish(store, SETTINGS)
    with open_results(store.data_folder) as results:
        assert results.execute("SELECT count(DISTINCT recording_id) FROM recording_class_minutes").fetchall() == [(70,)]


def test_clients_from_duckdb_1_4_on_can_open_the_results(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    publish(store, SETTINGS)
    with open_results(store.data_folder) as results:
        query = "SELECT tags['storage_version'] FROM duckdb_databases() WHERE NOT internal"
        assert results.execute(query).fetchall() == [("v1.4.0+",)]


def test_results_that_another_program_has_open_for_writing_give_a_sentence(store: Store) -> None:
    publish(store, SETTINGS)
    code = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    path = results_path(store.data_folder)
    command = [sys.executable, "-c", code, str(path.resolve())]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "open\n"
        sentence = rf"The results {path} are open for writing in .*\(PID {writer.pid}\): close them there"
        with pytest.raises(PipelineError, match=sentence):
            run_query(store.data_folder, "SELECT 1")
    finally:
        writer.kill()
        writer.communicate()
    run_query(store.data_folder, "SELECT 1")


def test_embeddings_stay_when_the_newest_recording_has_none(store: Store) -> None:
    (table,) = crop_model_tables("look", "embed")
    for recording_id, embedding in (("a", [0.6, 0.8]), ("b", None)):
        row = {"recording_id": recording_id, "track_id": 1, "rank": 1, "embedding": embedding}
        rows = pa.Table.from_pylist([row | {"model_id": "m", "engine_name": "e"}], table.arrow_schema)
        store.replace(table, [recording_id], rows)
    publish(store, SETTINGS)
    assert query(store, "SELECT recording_id FROM look_crop_embeddings WHERE embedding IS NOT NULL") == [("a",)]
