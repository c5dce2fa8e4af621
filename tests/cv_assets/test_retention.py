"""What is removed after some days, and above all what is not: on a real instance with real runs."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dagster import AssetKey, AssetMaterialization, DagsterInstance, RunsFilter

from cv_assets.definitions import defs
from cv_assets.outstanding import STALE_VARIABLE, observe
from cv_assets.partitions import recordings_partitions
from cv_assets.retention import prune
from cv_assets.staleness import stale_assets
from cv_assets.walk import WALK
from resources.postgres import POSTGRES_VARIABLE
from resources.results import open_results, publish
from resources.schema import CROPS, RECORDINGS
from resources.settings import RetentionSettings
from resources.watched_folder import SourceIndex, identify, list_recordings
from tests.cv_assets.test_walk import Pipeline

DAY_S = 86_400.0
INGEST = WALK[:2]
SCENES = WALK[2:3]


def removed(pipeline: Pipeline, days: float, **wanted: Any) -> str:
    """What goes when that many days have passed."""
    nothing = dict.fromkeys(("runs_after_days", "logs_after_days"))
    settings = pipeline.settings.model_copy(update={"retention": RetentionSettings(**nothing | wanted)})
    return prune(pipeline.instance, pipeline.store, settings, time.time() + days * DAY_S).told


def seen(pipeline: Pipeline) -> dict[str, Any]:
    """Everything by which the work is judged."""
    instance, ids = pipeline.instance, list(pipeline.ids.values())
    specs = [spec for assets in WALK for spec in assets.specs]
    for spec in specs:
        instance.wipe_asset_cached_status([spec.key])
    return {
        "states": observe(instance, pipeline.store).states,
        "stale": stale_assets(instance, dict.fromkeys(ids)),
        "versions": {(s.key, n): pipeline.versions(s.key.to_user_string(), n)[:1] for s in specs for n in pipeline.ids},
        "status": {s.key: instance.get_status_by_partition(s.key, ids, recordings_partitions) for s in specs},
    }


def with_events(instance: DagsterInstance, run_ids: list[str]) -> list[int]:
    """Which of some runs have events left."""
    if os.environ.get(POSTGRES_VARIABLE):
        return [number for number, run_id in enumerate(run_ids) if instance.all_logs(run_id)]
    # A file for each run; asking Dagster would make it again.
    shards = {file.stem for file in (Path(instance.root_directory) / "history" / "runs").glob("*.db")}
    return [number for number, run_id in enumerate(run_ids) if run_id in shards]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def pipeline(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    home = tmp_path / "dagster"
    home.mkdir()
    if request.param == "postgres":
        monkeypatch.setenv(POSTGRES_VARIABLE, request.getfixturevalue("postgres_url"))
    where = {"module": "resources.dagster_storage", "class": "ChosenStorage", "config": {"base_dir": str(home)}}
    with DagsterInstance.local_temp(str(home), overrides={"storage": {"custom": where}}) as instance:
        yield Pipeline(tmp_path, instance)


def test_runs_go_when_nothing_refers_to_them_and_no_judgement_changes(pipeline: Pipeline) -> None:
    run_ids = [pipeline.run(INGEST, "a", "c").run_id for _ in range(2)]  # `bad` fails in both
    run_ids.append(pipeline.run(SCENES, "a", "a").run_id)
    run_ids += [pipeline.run(INGEST, name, name).run_id for name in ("a", "a", "c", "c")]
    before = seen(pipeline)

    def left() -> list[int]:
        known = {run.run_id for run in pipeline.instance.get_runs()}
        return [number for number, run_id in enumerate(run_ids) if run_id in known]

    assert removed(pipeline, days=29, runs_after_days=30).startswith("Removed 0 runs")
    assert removed(pipeline, days=31, runs_after_days=30).startswith("Removed 3 runs")
    # 1 holds the last attempt at `bad` and what scenes was made from; 2 scenes; 4 and 6 the newest of a and c.
    assert left() == [1, 2, 4, 6]
    assert seen(pipeline) == before
    assert removed(pipeline, days=99, runs_after_days=30).startswith("Removed 0 runs")
    assert with_events(pipeline.instance, run_ids) == left()

    pipeline.run(SCENES, "a", "a")
    pipeline.run(INGEST, "bad", "bad")
    before = seen(pipeline)
    assert removed(pipeline, days=31, runs_after_days=30).startswith("Removed 2 runs")
    assert left() == [4, 6]
    assert seen(pipeline) == before


def test_logs_go_and_their_runs_stay(pipeline: Pipeline) -> None:
    run_id = pipeline.run(INGEST, "a", "a").run_id
    logs = Path(pipeline.instance.storage_directory()) / run_id / "compute_logs"
    assert list(logs.iterdir())
    removed(pipeline, days=13, logs_after_days=14)
    assert list(logs.iterdir())
    removed(pipeline, days=15, logs_after_days=14)
    assert not logs.exists()
    assert pipeline.instance.get_runs(RunsFilter(run_ids=[run_id]))


def test_videos_go_and_what_needs_them_says_so(pipeline: Pipeline) -> None:
    pipeline.run(INGEST, "a", "a")
    pipeline.run(SCENES, "a", "a")
    before, recording_id = seen(pipeline), pipeline.ids["a"]
    video = pipeline.store.media_folder / recording_id / "normalized.mp4"
    removed(pipeline, days=9)
    assert video.exists()  # by setting only
    assert "the videos of 0 recordings" in removed(pipeline, days=1, media_after_days=2)
    assert "the videos of 1 recordings" in removed(pipeline, days=3, media_after_days=2)
    assert "the videos of 0 recordings" in removed(pipeline, days=3, media_after_days=2)
    assert not video.exists()
    assert seen(pipeline) == before
    (row,) = pipeline.store.read(RECORDINGS, [recording_id]).to_pylist()
    assert (row["status"], row["video_path"], row["frame_count"]) == ("ok", None, 100)

    detections = [assets for assets in WALK if AssetKey("detections") in assets.keys]
    assert not pipeline.run(detections, "a", "a").success
    (row,) = pipeline.store.read(RECORDINGS, [recording_id]).to_pylist()
    assert row["error"] == (
        "Its normalized video was removed to make room (retention.media_after_days) or by hand: materialize "
        "normalized_video again, for which its file must be in the watched folder."
    )
    assert pipeline.run(INGEST, "a", "a").success
    assert video.exists()


def test_what_became_stale_of_a_removed_video_is_made_from_its_file_again_or_left(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cv_assets.outstanding.current_settings", lambda: pipeline.settings)
    pipeline.run(WALK, "a", "a")
    removed(pipeline, days=3, media_after_days=2)
    recording_id = pipeline.ids["a"]

    def missing() -> frozenset[str]:
        return next(
            s for s in observe(pipeline.instance, pipeline.store).states if s.recording_id == recording_id
        ).missing

    monkeypatch.setenv(STALE_VARIABLE, "1")
    assert missing() == set()
    made_before = AssetMaterialization("crops", partition=recording_id, tags={"dagster/code_version": "other settings"})
    pipeline.instance.report_runless_asset_event(made_before)
    assert missing() == {"crops", "frames", "normalized_video"}
    (pipeline.settings.watched_folder / "a.mp4").unlink()
    assert missing() == set()


def test_pictures_go_and_their_rows_stay(pipeline: Pipeline) -> None:
    ids = list(pipeline.ids.values())
    for recording_id in ids:
        values: dict[str, Any] = dict.fromkeys(CROPS.arrow_schema.names, 1)
        values |= {"recording_id": recording_id, "class_name": "car", "jpeg": b"x" * 1000}
        pipeline.store.replace(CROPS, [recording_id], pa.Table.from_pylist([values], CROPS.arrow_schema))
    for recording_id in ids[:2]:
        pipeline.instance.report_runless_asset_event(AssetMaterialization("crops", partition=recording_id))
    assert "the pictures of 0" in removed(pipeline, days=1, crops_after_days=2)
    assert "the pictures of 2" in removed(pipeline, days=3, crops_after_days=2)
    assert "the pictures of 0" in removed(pipeline, days=3, crops_after_days=2)
    publish(pipeline.store)
    with open_results(pipeline.store.data_folder) as results:
        query = "SELECT recording_id, rank, octet_length(jpeg) FROM crops ORDER BY recording_id"
        rows = results.execute(query).fetchall()
    assert rows == [(recording_id, 1, None if recording_id in ids[:2] else 1000) for recording_id in sorted(ids)]


def test_leftovers_of_kills_go_once_nobody_needs_them(pipeline: Pipeline) -> None:
    pipeline.run(INGEST, "a", "a")
    data = pipeline.store.data_folder
    pipeline.instance.report_runless_asset_event(AssetMaterialization("detections", partition=pipeline.ids["c"]))
    parts = {name: data / "unfinished" / "detections" / name for name in (pipeline.ids["a"], pipeline.ids["c"], "gone")}
    for folder in parts.values():
        (folder / "version").mkdir(parents=True)
    media = pipeline.store.media_folder / pipeline.ids["a"]
    partial, fresh = media / ".0.partial.mp4", media / ".1.partial.mp4"
    partial.write_bytes(b"x")
    fresh.write_bytes(b"x")
    for path in (*parts.values(), partial, media / "normalized.mp4"):
        os.utime(path, (time.time() - 2 * DAY_S,) * 2)
    assert removed(pipeline, days=0).endswith("and 3 leftovers of unfinished work; closed 0 recordings.")
    assert [folder.exists() for folder in parts.values()] == [True, False, False]  # a can still be gone on with
    assert sorted(file.name for file in media.iterdir()) == [".1.partial.mp4", "normalized.mp4"]


def test_the_job_runs_daily_and_says_what_went(pipeline: Pipeline) -> None:
    job = defs.resolve_job_def("retention")
    assert defs.resolve_schedule_def("retention").cron_schedule == "0 3 * * *"
    resources = {"store": pipeline.store, "settings": pipeline.settings}
    assert job.execute_in_process(instance=pipeline.instance, resources=resources).success
    assert np.isclose(pipeline.settings.retention.runs_after_days or 0, 30)


def test_closed_recordings_are_no_partitions_any_more_but_all_their_rows_answer(pipeline: Pipeline) -> None:
    instance, store, ids = pipeline.instance, pipeline.store, pipeline.ids
    pipeline.run(INGEST, "a", "c")
    pipeline.run(WALK[2:], "c", "c")
    counts = {table.name: store.row_count(table) for table in store.tables() if table.per_recording}
    assert removed(pipeline, days=364, close_after_days=365).endswith("closed 0 recordings.")
    assert removed(pipeline, days=366, close_after_days=365).endswith("closed 2 recordings.")  # c is done, bad rejected
    assert [state.recording_id for state in observe(instance, store).states] == [ids["a"]]
    assert {table.name: store.row_count(table) for table in store.tables() if table.per_recording} == counts
    publish(store)
    with open_results(store.data_folder) as results:
        assert results.execute("SELECT recording_id FROM summaries").fetchall() == [(ids["c"],)]
    # Neither the folder nor a copy makes them recordings to be done again.
    known = SourceIndex(store).load()
    assert {path: file.state for path, file in known.items()} == {
        "a.mp4": "known",
        "bad.mp4": "closed",
        "c.mp4": "closed",
    }
    copy = pipeline.settings.watched_folder / "copy.mp4"
    copy.write_bytes((pipeline.settings.watched_folder / "c.mp4").read_bytes())
    listed = list_recordings(pipeline.settings).files
    assert identify(pipeline.settings, {"copy.mp4": listed["copy.mp4"]}, known)["copy.mp4"].state == "duplicate"
    # Opened again, they are as done as they were.
    instance.add_dynamic_partitions(recordings_partitions.name or "", [ids["c"]])
    opened = {state.recording_id: state for state in observe(instance, store).states}[ids["c"]]
    assert not opened.missing
