"""Retention: what is deleted by age and, above all, what is not, on a real instance with real runs."""

import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dagster import DagsterInstance, RunsFilter

from cli.process_folder import FolderProgress, _is_complete
from cv_assets.asset_graph import AssetGraph
from cv_assets.definitions import build_definitions
from cv_assets.partitions import recordings_partitions
from resources.config.camera_config import LineSettings
from resources.config.operations_config import RetentionSettings
from resources.dagster_instance.postgres_database import POSTGRES_VARIABLE, name_postgres_driver
from resources.file_identification import identify_files
from resources.schema.operations_tables import STAGE_RUNS
from resources.schema.recording_tables import RECORDING_CONTENTS
from resources.schema.track_tables import CROPS
from resources.source_index import SourceIndex
from resources.storage.results_database import open_results, publish
from resources.storage.stage_runs import StageRun, append_stage_runs, newest_stage_runs
from resources.watched_files import list_watched_files
from sensors import retention
from sensors.forgetting import keep_recordings, release_recordings
from sensors.recomputation import STALE_VARIABLE
from sensors.recording_states import RecordingState, read_recording_states
from sensors.retention import delete_old_data, is_required
from sensors.staleness import stale_assets
from tests.builders.pipeline import INGEST_STAGES, Pipeline
from tests.builders.processed_pipelines import CAMERA_PATHS, open_pipeline, processed_folder
from tests.builders.ui_staleness import stale_in_the_ui

pytestmark = pytest.mark.slow

DAY_S = 86_400.0
INGEST_ASSETS_OF_VIDEO = ("normalized_video", "frames", "recording_contents")


def delete_after(pipeline: Pipeline, days: float, **values: Any) -> str:
    """Run retention as if some days had passed, by default without deleting runs and logs; returns its sentence."""
    never = dict.fromkeys(("runs_after_days", "logs_after_days"))
    settings = pipeline.settings.model_copy(update={"retention": RetentionSettings(**never | values)})
    return delete_old_data(
        pipeline.instance, pipeline.store, AssetGraph.build(settings), time.time() + days * DAY_S
    ).sentence


def states_by_id(pipeline: Pipeline) -> Mapping[str, RecordingState]:
    states = read_recording_states(pipeline.instance, pipeline.store, pipeline.graph).states
    return {state.recording_id: state for state in states}


def asset_status(pipeline: Pipeline) -> dict[str, Any]:
    """Everything that tells whether recordings are complete: states, stale assets, data versions and UI status."""
    instance, ids = pipeline.instance, list(pipeline.ids.values())
    keys = [spec.key for assets in pipeline.graph.assets for spec in assets.specs]
    for key in keys:
        instance.wipe_asset_cached_status([key])
    return {
        "states": states_by_id(pipeline),
        "stale": stale_assets(pipeline.store, dict.fromkeys(ids), pipeline.graph),
        "stale in the UI": stale_in_the_ui(instance, pipeline.graph, ids),
        "versions": {
            (key, name): pipeline.versions(key.to_user_string(), name)[:1] for key in keys for name in pipeline.ids
        },
        "status": {key: instance.get_status_by_partition(key, ids, recordings_partitions) for key in keys},
    }


def store_results(pipeline: Pipeline, stage: str, *names: str, **values: Any) -> None:
    """Append an attempt of a stage that has stored results now."""
    defaults = {"code_version": "other settings", "data_version": "1", "input_versions": "{}"}
    rows = [
        StageRun(pipeline.ids[name], stage, 1, "ok", "run", datetime.now(UTC), "person", **defaults | values)
        for name in names
    ]
    append_stage_runs(pipeline.store, rows)


def newest_row(pipeline: Pipeline, name: str, stage: str) -> dict[str, Any]:
    """The newest attempt of a stage at a recording."""
    rows = newest_stage_runs(pipeline.store, [pipeline.ids[name]]).to_pylist()
    return next(row for row in rows if row["stage"] == stage)


def runs_with_events(instance: DagsterInstance, run_ids: list[str]) -> list[int]:
    """Which of some runs still have events, by position."""
    if os.environ.get(POSTGRES_VARIABLE):
        return [number for number, run_id in enumerate(run_ids) if instance.all_logs(run_id)]
    # One file per run; asking Dagster for its events would create the file again.
    shards = {file.stem for file in (Path(instance.root_directory) / "history" / "runs").glob("*.db")}
    return [number for number, run_id in enumerate(run_ids) if run_id in shards]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def pipeline(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    home = tmp_path / "data" / "dagster"
    home.mkdir(parents=True)
    overrides: dict[str, Any] = {}
    if request.param == "postgres":
        monkeypatch.setenv(POSTGRES_VARIABLE, request.getfixturevalue("postgres_url"))
        name_postgres_driver()
        overrides = {"storage": {"postgres": {"postgres_url": os.environ[POSTGRES_VARIABLE]}}}
    with DagsterInstance.local_temp(str(home), overrides=overrides) as instance:
        yield Pipeline(tmp_path, instance)


@pytest.fixture
def processed(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline with all assets of its good recordings."""
    with open_pipeline(tmp_path, processed_folder(tmp_path_factory)) as pipeline:
        yield pipeline


@pytest.mark.long
def test_runs_without_latest_materializations_are_deleted_and_asset_status_is_unaffected(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PAGE_SIZE", 1)
    run_ids = [pipeline.run(INGEST_STAGES, "a", "c").run_id for _ in range(2)]  # `bad` fails in both
    run_ids.append(pipeline.run(["scenes"], "a", "a").run_id)
    run_ids += [pipeline.run(INGEST_STAGES, name, name).run_id for name in ("a", "a", "c", "c")]
    before = asset_status(pipeline)

    def remaining() -> list[int]:
        known = {run.run_id for run in pipeline.instance.get_runs()}
        return [number for number, run_id in enumerate(run_ids) if run_id in known]

    assert delete_after(pipeline, days=29, runs_after_days=30).startswith("Deleted 0 runs")
    assert delete_after(pipeline, days=31, runs_after_days=30).startswith("Deleted 3 runs")
    # 1: the last attempt at `bad`, and the inputs of scenes; 2: scenes; 4 and 6: the latest of a and c.
    assert remaining() == [1, 2, 4, 6]
    assert set(pipeline.store.read(STAGE_RUNS)["run_id"].to_pylist()) == {run_ids[number] for number in remaining()}
    assert asset_status(pipeline) == before
    assert delete_after(pipeline, days=99, runs_after_days=30).startswith("Deleted 0 runs")
    assert runs_with_events(pipeline.instance, run_ids) == remaining()

    pipeline.run(["scenes"], "a", "a")
    pipeline.run(INGEST_STAGES, "bad", "bad")
    before = asset_status(pipeline)
    assert delete_after(pipeline, days=31, runs_after_days=30).startswith("Deleted 2 runs")
    assert remaining() == [4, 6]
    assert asset_status(pipeline) == before


def test_attempts_that_must_stay_are_the_newest_those_with_results_and_their_inputs() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def attempt(minute: int, stage: str, version: str | None, **values: Any) -> StageRun:
        status = "ok" if version else "failed"
        finished_at = noon + timedelta(minutes=minute)
        return StageRun("a", stage, 1, status, f"run {minute}", finished_at, "person", data_version=version, **values)

    attempts = [
        attempt(1, "tracks", "v1"),
        attempt(2, "tracks", "v1"),
        attempt(4, "crops", "c1", started_at_utc=noon + timedelta(minutes=3), input_versions='{"track_boxes": "v1"}'),
        attempt(5, "tracks", "v1"),
        attempt(6, "tracks", "v2"),
        attempt(7, "tracks", None),
        attempt(8, "tracks", None),
        attempt(9, "scenes", None),
    ]
    rows = pa.Table.from_pylist([vars(row) for row in attempts], STAGE_RUNS.arrow_schema)
    stages = {"tracks": "tracks", "track_boxes": "tracks", "crops": "crops"}
    is_kept = is_required(rows, stages).to_pylist()
    # crops were computed from the second v1; the newest tracks are v2; of the failures only the last is a state.
    assert [row.run_id for row, is_row_kept in zip(attempts, is_kept, strict=True) if is_row_kept] == [
        f"run {minute}" for minute in (2, 4, 6, 8, 9)
    ]
    assert is_required(STAGE_RUNS.empty, stages).to_pylist() == []


def test_logs_are_deleted_and_their_runs_stay(pipeline: Pipeline) -> None:
    run_id = pipeline.run(INGEST_STAGES, "a", "a").run_id
    logs = Path(pipeline.instance.storage_directory()) / run_id / "compute_logs"
    assert list(logs.iterdir())
    delete_after(pipeline, days=13, logs_after_days=14)
    assert list(logs.iterdir())
    delete_after(pipeline, days=15, logs_after_days=14)
    assert not logs.exists()
    assert pipeline.instance.get_runs(RunsFilter(run_ids=[run_id]))


def test_videos_are_deleted_and_stages_that_need_them_fail_with_the_remedy(pipeline: Pipeline) -> None:
    pipeline.run(INGEST_STAGES, "a", "a")
    pipeline.run(["scenes"], "a", "a")
    before, recording_id = asset_status(pipeline), pipeline.ids["a"]
    video = pipeline.store.media_folder / recording_id / "normalized.mp4"
    delete_after(pipeline, days=9)
    assert video.exists()  # by default videos stay
    assert "the videos of 0 recordings" in delete_after(pipeline, days=1, media_after_days=2)
    assert "the videos of 1 recordings" in delete_after(pipeline, days=3, media_after_days=2)
    assert "the videos of 0 recordings" in delete_after(pipeline, days=3, media_after_days=2)
    assert not video.exists()
    assert asset_status(pipeline) == before
    (row,) = pipeline.store.read(RECORDING_CONTENTS, [recording_id]).to_pylist()
    assert (row["video_path"], row["frame_count"]) == (None, 100)

    assert not pipeline.run(["detections"], "a", "a").success
    error = newest_row(pipeline, "a", "detections")["error"]
    assert "retention.media_after_days" in error
    assert "normalized_video again" in error
    assert pipeline.run(INGEST_STAGES, "a", "a").success
    assert video.exists()


def test_stale_assets_of_a_deleted_video_are_recomputed_from_the_source_file_or_kept(
    processed: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = processed
    delete_after(pipeline, days=3, media_after_days=2)
    recording_id = pipeline.ids["a"]
    monkeypatch.setenv(STALE_VARIABLE, "all")
    assert states_by_id(pipeline)[recording_id].missing == set()
    values = {name: newest_row(pipeline, "a", "crops")[name] for name in ("data_version", "input_versions")}
    store_results(pipeline, "crops", "a", **values)
    assert states_by_id(pipeline)[recording_id].missing == {"crops", *INGEST_ASSETS_OF_VIDEO}
    monkeypatch.setenv(STALE_VARIABLE, "cheap")
    assert states_by_id(pipeline)[recording_id].missing == set()  # the video is not normalized again for crops
    monkeypatch.setenv(STALE_VARIABLE, "all")
    (pipeline.settings.watched_folder / f"{CAMERA_PATHS['a']}.mp4").unlink()
    assert states_by_id(pipeline)[recording_id].missing == set()
    line = LineSettings(name="door", points=((0.1, 1), (0.1, 0)))
    cameras = {"gate": pipeline.settings.cameras["gate"].model_copy(update={"lines": (line,)})}
    pipeline.use_settings(pipeline.settings.model_copy(update={"cameras": cameras}))
    zone_assets = {name for stage in ("zone_events", "zone_summaries") for name in pipeline.graph.stages[stage]}
    for selection in ("cheap", "all"):
        monkeypatch.setenv(STALE_VARIABLE, selection)
        assert states_by_id(pipeline)[recording_id].missing == zone_assets  # which need no video


def test_crop_images_are_deleted_and_their_rows_stay(pipeline: Pipeline) -> None:
    ids = list(pipeline.ids.values())
    for recording_id in ids:
        values: dict[str, Any] = dict.fromkeys(CROPS.arrow_schema.names, 1)
        values |= {"recording_id": recording_id, "class_name": "car", "jpeg": b"x" * 1000}
        pipeline.store.replace(CROPS, [recording_id], pa.Table.from_pylist([values], CROPS.arrow_schema))
    store_results(pipeline, "crops", "a", "bad")
    assert "the crop images of 0" in delete_after(pipeline, days=1, crops_after_days=2)
    assert "the crop images of 2" in delete_after(pipeline, days=3, crops_after_days=2)
    assert "the crop images of 0" in delete_after(pipeline, days=3, crops_after_days=2)
    publish(pipeline.store, pipeline.settings)
    with open_results(pipeline.store.data_folder) as results:
        query = "SELECT recording_id, rank, octet_length(jpeg) FROM crops ORDER BY recording_id"
        rows = results.execute(query).fetchall()
    assert rows == [(recording_id, 1, None if recording_id in ids[:2] else 1000) for recording_id in sorted(ids)]


def test_kept_recordings_stay_as_they_are(pipeline: Pipeline) -> None:
    pipeline.run(INGEST_STAGES, "a", "c")
    keep_recordings(pipeline.store, [pipeline.ids["a"], pipeline.ids["bad"]], None)
    sentence = delete_after(pipeline, days=999, media_after_days=2, archive_after_days=3)
    assert "the videos of 1 recordings" in sentence
    assert sentence.endswith("archived 0 recordings.")
    assert (pipeline.store.media_folder / pipeline.ids["a"] / "normalized.mp4").exists()
    release_recordings(pipeline.store, [pipeline.ids["bad"]])
    assert delete_after(pipeline, days=999, archive_after_days=3).endswith("archived 1 recordings.")


def test_leftovers_of_crashed_runs_are_deleted_once_no_recording_needs_them(pipeline: Pipeline) -> None:
    pipeline.run(INGEST_STAGES, "a", "a")
    data_folder = pipeline.store.data_folder
    store_results(pipeline, "detections", "c")
    checkpoints = [
        data_folder / "unfinished" / "detections" / name for name in (pipeline.ids["a"], pipeline.ids["c"], "gone")
    ]
    for folder in checkpoints:
        (folder / "version").mkdir(parents=True)
    media = pipeline.store.media_folder / pipeline.ids["a"]
    old_partial, new_partial = media / ".0.partial.mp4", media / ".1.partial.mp4"
    old_partial.write_bytes(b"x")
    new_partial.write_bytes(b"x")
    for path in (*checkpoints, old_partial, media / "normalized.mp4"):
        os.utime(path, (time.time() - 2 * DAY_S,) * 2)
    sentence = delete_after(pipeline, days=0)
    assert sentence.endswith("and 3 leftover files of crashed runs; archived 0 recordings.")
    assert [folder.exists() for folder in checkpoints] == [True, False, False]  # a still lacks detections
    assert sorted(file.name for file in media.iterdir()) == [".1.partial.mp4", "normalized.mp4"]


def test_the_retention_job_runs_daily(pipeline: Pipeline) -> None:
    definitions = build_definitions(pipeline.settings)
    job = definitions.resolve_job_def("retention")
    assert definitions.resolve_schedule_def("retention").cron_schedule == "0 3 * * *"
    resources = {"store": pipeline.store}
    assert job.execute_in_process(instance=pipeline.instance, resources=resources).success
    assert np.isclose(pipeline.settings.retention.runs_after_days or 0, 30)


@pytest.mark.long
def test_archived_recordings_are_no_partitions_and_their_rows_can_be_queried(pipeline: Pipeline) -> None:
    instance, store, ids = pipeline.instance, pipeline.store, pipeline.ids
    pipeline.run(INGEST_STAGES, "a", "c")
    pipeline.run([name for name in pipeline.stage_names if name not in INGEST_STAGES], "c", "c")
    counts = {table.name: store.row_count(table) for table in store.tables() if table.per_recording}
    assert delete_after(pipeline, days=364, archive_after_days=365).endswith("archived 0 recordings.")
    # c is complete, bad is rejected.
    assert delete_after(pipeline, days=366, archive_after_days=365).endswith("archived 2 recordings.")
    assert list(states_by_id(pipeline)) == [ids["a"]]
    assert {table.name: store.row_count(table) for table in store.tables() if table.per_recording} == counts
    publish(store, pipeline.settings)
    with open_results(store.data_folder) as results:
        assert results.execute("SELECT recording_id FROM summaries").fetchall() == [(ids["c"],)]
    # Neither the watched folder nor a copy of the file adds the partitions again.
    known = SourceIndex(store).load()
    assert {path: file.state for path, file in known.items()} == {
        "a.mp4": "known",
        "bad.mp4": "archived",
        "c.mp4": "archived",
    }
    copy = pipeline.settings.watched_folder / "copy.mp4"
    copy.write_bytes((pipeline.settings.watched_folder / "c.mp4").read_bytes())
    listed = list_watched_files(pipeline.settings).files
    found = identify_files(pipeline.settings, {"copy.mp4": listed["copy.mp4"]}, known)
    assert found["copy.mp4"].state == "duplicate"
    # The command process does not wait for it.
    SourceIndex(store).save((known | found).values())
    progress = FolderProgress()
    assert not _is_complete(instance, store, pipeline.graph, progress)
    assert progress.source_paths == {ids["a"]: "a.mp4"} and progress.unstable_file_count == 0
    # If the partition is added again, the recording is as complete as before.
    instance.add_dynamic_partitions(recordings_partitions.name or "", [ids["c"]])
    assert not states_by_id(pipeline)[ids["c"]].missing
