"""Files dropped while the pipeline runs, materializations and backfills from the UI: all end in rows."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.scenes import demo_scene, write_video
from resources.schema import TABLES
from tests.end_to_end.stack import Stack

COUNTS = {"person": 1, "car": 1}
# What needs lines and zones, other weights, or pictures that are black, frozen or blurred.
EMPTY = {
    *(
        "zone_events",
        "zone_seconds",
        "zone_minutes",
        "line_minutes",
        "line_trips",
        "origin_destinations",
        "ground_tracks",
    ),
    *("track_links", "masks", "keypoints", "oriented_boxes", "frame_classes", "stretches"),
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("dev"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def recording_ids(stack: Stack) -> list[str]:
    """Three good recordings and a bad one, dropped while the pipeline runs and followed to their end."""
    for number in range(3):
        path = stack.watched / "gate" / f"gate {number}_2026-03-01_08-00-0{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(demo_scene(number, 8 + number, COUNTS), path)
    (stack.watched / "gate" / "bad.mp4").write_bytes(b"this is not a video")
    stack.until(
        lambda: (
            stack.sql("SELECT count(*) FROM summaries") == [(3,)]
            and stack.sql("SELECT count(*) FROM recordings WHERE status = 'rejected'") == [(1,)]
        ),
        240,
        "three summaries and a rejection",
    )
    rows = stack.sql("SELECT recording_id FROM recordings WHERE status = 'ok' ORDER BY source_path")
    return [str(row[0]) for row in rows]


def test_dropped_files_become_rows_of_every_table(stack: Stack, recording_ids: list[str]) -> None:
    assert len(recording_ids) == 3
    for name, table in TABLES.items():
        if table.per_recording:
            (count,) = stack.sql(f"SELECT count(DISTINCT recording_id) FROM {name}")[0]
            assert count == (4 if name == "recordings" else 0 if name in EMPTY else 3), name
    assert stack.sql("SELECT frame_count FROM summaries ORDER BY frame_count") == [(200,), (225,), (250,)]
    tracked = stack.sql("SELECT class_name, count(*) FROM tracks GROUP BY ALL ORDER BY ALL")
    assert tracked == [("car", 3), ("person", 3)]


def test_the_camera_and_its_clock_are_known(stack: Stack, recording_ids: list[str]) -> None:
    rows = stack.sql(
        "SELECT camera, started_at_source, started_at_utc::TEXT FROM recordings WHERE status = 'ok' "
        "ORDER BY source_path"
    )
    assert [row[:2] for row in rows] == [("gate", "file_name")] * 3
    assert str(rows[1][2]).startswith("2026-03-01 08:00:01")


def test_a_bad_file_has_its_row_and_its_sentence(stack: Stack, recording_ids: list[str]) -> None:
    rows = stack.sql("SELECT status, error FROM recordings WHERE source_path = 'gate/bad.mp4'")
    assert rows[0][0] == "rejected"
    assert "not a video that can be opened (19 bytes)" in str(rows[0][1])


def test_model_runs_are_tagged_and_others_are_not(stack: Stack, recording_ids: list[str]) -> None:
    query = "{ runsOrError { ... on Runs { results { pipelineName status tags { key value } } } } }"
    runs = stack.graphql(query)["runsOrError"]["results"]
    tags = {(run["pipelineName"], "gpu" in {tag["key"] for tag in run["tags"]}) for run in runs}
    assert tags == {("ingest", False), ("analysis", True)}


def test_a_materialization_from_the_ui_is_tagged_and_visible_soon(stack: Stack, recording_ids: list[str]) -> None:
    shown = "SELECT max(delta_version) FROM published_tables WHERE table_name = 'detections'"
    before = stack.sql(shown)
    run_id = stack.materialize("__ASSET_JOB", ["detections", "tracks", "track_boxes"], recording_ids[0])
    stack.until(lambda: stack.run(run_id)["status"] in ("SUCCESS", "FAILURE"), 120, "the run to end")
    ended = time.monotonic()
    found = stack.run(run_id)
    assert found["status"] == "SUCCESS"
    assert {"key": "gpu", "value": "true"} in found["tags"]
    stack.until(lambda: stack.sql(shown) != before, 5, "the results to show it")
    assert time.monotonic() - ended <= 5
    assert stack.sql("SELECT class_name, count(*) FROM tracks GROUP BY ALL ORDER BY ALL") == [("car", 3), ("person", 3)]


def test_a_backfill_from_the_ui_does_its_partitions_in_batches(stack: Stack, recording_ids: list[str]) -> None:
    shown = "SELECT max(delta_version) FROM published_tables WHERE table_name = 'crops'"
    before = stack.sql(shown)
    backfill_id = stack.backfill(["crops"], recording_ids)
    stack.until(lambda: stack.backfill_status(backfill_id).startswith("COMPLETED"), 180, "the backfill to end")
    assert stack.backfill_status(backfill_id) == "COMPLETED_SUCCESS"
    stack.until(lambda: stack.sql(shown) != before, 5, "the results to show it")
    query = "query($f: RunsFilter) { runsOrError(filter: $f) { ... on Runs { results { status } } } }"
    runs = stack.graphql(query, {"f": {"tags": [{"key": "dagster/backfill", "value": backfill_id}]}})
    statuses = [run["status"] for run in runs["runsOrError"]["results"]]
    # One batch, or two where the bad file was noticed between the good ones: a batch is a range of partitions.
    assert statuses in (["SUCCESS"], ["SUCCESS"] * 2)


def test_one_bad_partition_of_a_backfill_costs_only_itself(
    stack: Stack, recording_ids: list[str], tmp_path: Path
) -> None:
    video = stack.data / "media" / recording_ids[1] / "normalized.mp4"
    kept = video.rename(tmp_path / "kept.mp4")
    try:
        backfill_id = stack.backfill(["crops"], recording_ids)
        stack.until(lambda: stack.backfill_status(backfill_id).startswith("COMPLETED"), 180, "the backfill to end")
        assert stack.backfill_status(backfill_id) == "COMPLETED_FAILED"
        rows = stack.sql("SELECT recording_id, status, failed_stage, error FROM recordings WHERE status = 'failed'")
        assert [(row[0], row[2]) for row in rows] == [(recording_ids[1], "crops")]
    finally:
        kept.rename(video)
    # What is mended and made again by hand is well again.
    stack.materialize("__ASSET_JOB", ["crops"], recording_ids[1])
    stack.until(
        lambda: stack.sql("SELECT count(*) FROM recordings WHERE status = 'ok'") == [(3,)], 120, "the status to heal"
    )


def test_a_copy_under_another_name_costs_nothing(stack: Stack, recording_ids: list[str]) -> None:
    query = "{ runsOrError { ... on Runs { count } } }"
    before = stack.graphql(query)["runsOrError"]["count"]
    source = next((stack.watched / "gate").glob("gate 0*"))
    (stack.watched / "copy.mp4").write_bytes(source.read_bytes())
    stack.until(
        lambda: stack.sql("SELECT state FROM source_files WHERE source_path = 'copy.mp4'") == [("duplicate",)],
        60,
        "the copy to be recognised",
    )
    assert stack.graphql(query)["runsOrError"]["count"] == before
