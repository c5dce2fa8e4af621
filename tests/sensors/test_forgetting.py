"""Forgetting: nothing of a recording is left, other recordings are unaffected, and an interruption is completed."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dagster import AssetKey, AssetRecordsFilter, RunsFilter

from cv_assets.definitions import build_definitions
from cv_assets.partitions import recordings_partitions
from cv_assets.stage_asset import ANALYSIS
from resources.corrections.correction_log import Correction, append_corrections
from resources.errors import PipelineError
from resources.file_identification import identify_files
from resources.forgotten_files import exclude_forgotten
from resources.schema.correction_tables import CORRECTIONS
from resources.schema.operations_tables import KEPT_RECORDINGS, NOTIFICATIONS
from resources.schema.recording_tables import RECORDINGS, SOURCE_FILES
from resources.schema.track_tables import TRACK_LINKS, TRACKS
from resources.source_index import SourceIndex
from resources.storage.delta_store import Store
from resources.storage.erasure import erase_old_files
from resources.storage.integrity import check_storage
from resources.storage.results_database import open_results, publish
from resources.storage.vector_index import INDEX_FOLDER
from resources.watched_files import list_watched_files
from sensors import forgetting
from sensors.forgetting import (
    check_camera,
    check_known,
    find_recordings,
    forget_recordings,
    ingest_again,
    interrupted_recordings,
    keep_recordings,
    known_recordings,
    release_recordings,
)
from sensors.recording_states import read_recording_states
from sensors.staleness import stale_assets
from tests.builders.pipeline import Pipeline
from tests.builders.processed_pipelines import ingested_folder, open_pipeline, processed_folder
from tests.builders.table_rows import sparse_rows
from tests.builders.ui_staleness import stale_in_the_ui

pytestmark = pytest.mark.slow


@pytest.fixture
def pipeline(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline whose recordings were ingested in one run."""
    with open_pipeline(tmp_path, ingested_folder(tmp_path_factory), "data/dagster") as pipeline:
        yield pipeline


@pytest.fixture
def processed(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline with all assets of its good recordings."""
    with open_pipeline(tmp_path, processed_folder(tmp_path_factory), "data/dagster") as pipeline:
        yield pipeline


def forget(pipeline: Pipeline, *names: str) -> None:
    forget_recordings(pipeline.instance, pipeline.store, pipeline.graph, [pipeline.ids[name] for name in names])


def files_with(folder: Path, text: str) -> list[str]:
    """Files below a folder that contain a text or have it in their path; without the logs of Delta and Dagster's."""
    return [
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file()
        and not {"_delta_log", "dagster"} & set(file.relative_to(folder).parts)
        and (text in str(file) or text.encode() in file.read_bytes())
    ]


def materializations(pipeline: Pipeline, name: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Data version and metadata of a recording's newest materializations, by asset."""
    newest = {}
    for asset_name in pipeline.graph.stage_of_asset:
        records_filter = AssetRecordsFilter(asset_key=AssetKey(asset_name), asset_partitions=[pipeline.ids[name]])
        for record in pipeline.instance.fetch_materializations(records_filter, limit=1).records:
            event = record.asset_materialization
            assert event is not None
            newest[asset_name] = (event.tags or {})["dagster/data_version"], dict(event.metadata)
    return newest


def test_nothing_of_a_forgotten_recording_is_left_and_others_are_unaffected(processed: Pipeline) -> None:
    pipeline, instance, store, ids = processed, processed.instance, processed.store, processed.ids
    publish(store, pipeline.settings)
    link = {"recording_id": ids["c"], "track_id": 1, "previous_recording_id": ids["a"], "previous_track_id": 1}
    store.replace(TRACK_LINKS, [ids["c"]], pa.Table.from_pylist([link | {"gap_s": 0.1}], TRACK_LINKS.arrow_schema))
    event: dict[str, Any] = {"event_id": "1", "channel": "ops", "kind": "success", "message": ids["a"], "state": "sent"}
    event |= {"attempt_count": 1, "reported_at_utc": datetime.now(UTC)}
    events = [{**event, "subject": ids["a"]}, {**event, "subject": "", "event_id": "2", "message": "start"}]
    store.replace(NOTIFICATIONS, [], sparse_rows(NOTIFICATIONS, *events))
    append_corrections(store, [Correction(ids["a"], "check", "ann", start_s=0.0, end_s=1.0)])
    publish(store, pipeline.settings)
    rows_of_c = store.read(TRACKS, [ids["c"]]).sort_by("track_id")
    before = materializations(pipeline, "c")
    assert any("contact sheet" in metadata for _, metadata in before.values())
    (store.data_folder / INDEX_FOLDER).mkdir()
    (store.data_folder / INDEX_FOLDER / "look_crop_embeddings.parquet").write_text(ids["a"])
    assert len(files_with(store.data_folder, ids["a"])) > 20

    forget(pipeline, "a")
    assert files_with(store.data_folder, ids["a"]) == []
    assert materializations(pipeline, "a") == {}
    assert instance.get_dynamic_partitions(recordings_partitions.name or "") == [ids["bad"], ids["c"]]
    assert not instance.get_runs(RunsFilter(tags={"dagster/partition": ids["a"]}))
    shards = {file.stem for file in (store.data_folder / "dagster" / "history" / "runs").glob("*-*.db")}
    assert shards == {run.run_id for run in instance.get_runs()}
    assert store.read(NOTIFICATIONS)["event_id"].to_pylist() == ["2"]
    assert store.read(CORRECTIONS).num_rows == 0
    with open_results(store.data_folder) as results:
        assert results.execute("SELECT recording_id FROM recordings ORDER BY ALL").fetchall() == sorted(
            [(ids["bad"],), (ids["c"],)]
        )
        assert results.execute("SELECT count(*) FROM track_links").fetchall() == [(0,)]

    assert store.read(TRACKS, [ids["c"]]).sort_by("track_id").equals(rows_of_c)
    assert materializations(pipeline, "c") == before
    assert stale_assets(store, {ids["c"]: "yard"}, pipeline.graph) == []
    assert stale_in_the_ui(instance, pipeline.graph, [ids["c"]]) == set()
    # The link to the forgotten recording is gone: what depends on it is computed again, and nothing counts as lost.
    (state,) = [s for s in read_recording_states(instance, store, pipeline.graph).states if s.recording_id == ids["c"]]
    assert (state.status, state.missing) == ("interrupted", frozenset({"track_links"}))
    report = check_storage(store, contents=True)
    assert (report.lost, report.damages) == ((), ())


def test_files_of_a_forgotten_recording_and_their_copies_are_not_ingested_until_it_is_undone(
    pipeline: Pipeline,
) -> None:
    forget(pipeline, "a")
    index, folder = SourceIndex(pipeline.store), pipeline.settings.watched_folder
    source = folder / "gate" / "2026-03-01_08-00-00_a.mp4"
    known = index.load()
    row = known["gate/2026-03-01_08-00-00_a.mp4"]
    assert (row.state, row.recording_id) == ("forgotten", None)
    assert (row.reason or "").startswith("Forgotten on ")
    (folder / "copy.mp4").write_bytes(source.read_bytes())
    source.touch()
    listed = list_watched_files(pipeline.settings).files
    identified = exclude_forgotten(identify_files(pipeline.settings, listed, known), known)
    assert {path: file.state for path, file in identified.items()} == {
        "bad.mp4": "known",
        "copy.mp4": "forgotten",
        "gate/2026-03-01_08-00-00_a.mp4": "forgotten",
        "yard/2026-03-02_08-00-00_c.mp4": "known",
    }
    index.save(identified.values())
    assert sorted(ingest_again(pipeline.store, pipeline.ids["a"])) == ["copy.mp4", "gate/2026-03-01_08-00-00_a.mp4"]
    assert set(index.load()) == {"bad.mp4", "yard/2026-03-02_08-00-00_c.mp4"}
    with pytest.raises(PipelineError, match="no forgotten file has this recording_id or path"):
        ingest_again(pipeline.store, pipeline.ids["a"])


def test_a_recording_whose_file_has_other_content_now_is_not_ingested_again_either(pipeline: Pipeline) -> None:
    index, path = SourceIndex(pipeline.store), "gate/2026-03-01_08-00-00_a.mp4"
    source = pipeline.settings.watched_folder / path
    content = source.read_bytes()
    source.write_bytes(b"other content")
    listed = list_watched_files(pipeline.settings).files
    index.save({**index.load(), **identify_files(pipeline.settings, {path: listed[path]}, index.load())}.values())
    forget(pipeline, "a")
    assert index.load()[path].state == "known"
    source.with_name("old.mp4").write_bytes(content)
    listed, known = list_watched_files(pipeline.settings).files, index.load()
    stable = {"gate/old.mp4": listed["gate/old.mp4"]}
    identified = exclude_forgotten(identify_files(pipeline.settings, stable, known), known)
    assert identified["gate/old.mp4"].state == "forgotten"


STEPS = ("_delete_history", "_delete_rows", "_delete_files", "publish", "erase_old_files", "remove_old_publications")


def test_an_interrupted_call_is_completed_by_the_next(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    publish(pipeline.store, pipeline.settings)
    for step in STEPS:
        with monkeypatch.context() as patch:
            patch.setattr(forgetting, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                forget(pipeline, "a")
        assert interrupted_recordings(pipeline.store) == {pipeline.ids["a"]}
        with pytest.raises(PipelineError, match="only partly forgotten: run cv-assets forget 2026"):
            ingest_again(pipeline.store, pipeline.ids["a"])
    forget(pipeline, "a")
    assert interrupted_recordings(pipeline.store) == set()
    assert files_with(pipeline.store.data_folder, pipeline.ids["a"]) == []
    assert pipeline.ids["a"] not in known_recordings(pipeline.instance, pipeline.store)


def test_a_recording_in_a_run_is_refused_and_nothing_is_deleted(pipeline: Pipeline) -> None:
    definitions = build_definitions(pipeline.settings)
    tags = {
        "dagster/asset_partition_range_start": pipeline.ids["bad"],
        "dagster/asset_partition_range_end": pipeline.ids["c"],
    }
    run = pipeline.instance.create_run_for_job(definitions.resolve_job_def(ANALYSIS), tags=tags)
    with pytest.raises(PipelineError, match=f"{pipeline.ids['c']}: the run {run.run_id[:8]} contains the recording"):
        forget(pipeline, "a", "c")
    assert len(pipeline.instance.get_dynamic_partitions(recordings_partitions.name or "")) == 3
    assert interrupted_recordings(pipeline.store) == set()
    forget(pipeline, "a")


def test_a_kept_recording_is_refused(pipeline: Pipeline) -> None:
    keep_recordings(pipeline.store, [pipeline.ids["a"]], "a court's request")
    with pytest.raises(PipelineError, match=f"the recording is kept; cv-assets keep --undo {pipeline.ids['a']}"):
        forget(pipeline, "a", "c")
    release_recordings(pipeline.store, [pipeline.ids["a"]])
    forget(pipeline, "a", "c")
    assert set(known_recordings(pipeline.instance, pipeline.store)) == {pipeline.ids["bad"]}


def test_recordings_are_selected_by_camera_and_start(pipeline: Pipeline) -> None:
    ids, noon = pipeline.ids, datetime(2026, 3, 1, 12, tzinfo=UTC)

    def select(camera: str | None = None, before: datetime | None = None) -> list[str]:
        return find_recordings(pipeline.store, pipeline.settings, camera, before)

    assert select(camera="gate") == [ids["a"]]
    assert select(camera="") == [ids["bad"]]
    assert select(camera="gaet") == []
    assert select(before=noon) == [ids["a"]]
    assert select(camera="yard", before=noon) == []
    assert select(before=datetime.now(UTC)) == [ids["a"], ids["c"], ids["bad"]]


def test_an_unknown_recording_is_an_error_with_the_nearest_id(store: Store) -> None:
    check_known(["gate-1"], {"gate-1"}, store)
    with pytest.raises(PipelineError, match=r"gate-2: no recording has this id; did you mean gate-1\?"):
        check_known(["gate-2"], {"gate-1", "other"}, store)


def test_a_forgotten_recording_is_not_taken_for_another_one(pipeline: Pipeline) -> None:
    forget(pipeline, "a")
    known = known_recordings(pipeline.instance, pipeline.store)
    with pytest.raises(PipelineError, match=f"{pipeline.ids['a']}: the recording was forgotten before"):
        check_known([pipeline.ids["a"]], known, pipeline.store)


def test_an_unknown_camera_is_an_error_with_the_known_ones(pipeline: Pipeline) -> None:
    check_camera(pipeline.store, "gate")
    check_camera(pipeline.store, "")
    with pytest.raises(PipelineError, match=r"--camera 'gaet': no recording is of this camera; there are: '', 'gate'"):
        check_camera(pipeline.store, "gaet")


def test_the_reason_for_keeping_a_recording_stays_unless_another_is_given(store: Store) -> None:
    keep_recordings(store, ["a"], "court")
    kept = store.read(KEPT_RECORDINGS).to_pylist()
    keep_recordings(store, ["a", "b"], None)
    assert [row for row in store.read(KEPT_RECORDINGS).to_pylist() if row["recording_id"] == "a"] == kept
    keep_recordings(store, ["a"], "police")
    assert {row["recording_id"]: row["reason"] for row in store.read(KEPT_RECORDINGS).to_pylist()} == {
        "a": "police",
        "b": None,
    }


def test_only_old_files_with_the_rows_are_erased(pipeline: Pipeline) -> None:
    store, ids = pipeline.store, pipeline.ids
    folder = store.tables_folder / RECORDINGS.name
    store.update(RECORDINGS, ids["c"], {"camera": "other"})  # leaves an old file
    before = set(folder.glob("*.parquet"))
    assert erase_old_files(store, RECORDINGS, "recording_id", ["unknown"]) == 0
    (folder / "partial.parquet").write_bytes(b"PAR1")
    store.replace(RECORDINGS, [ids["a"]], RECORDINGS.empty)
    assert erase_old_files(store, RECORDINGS, "recording_id", [ids["a"]]) > 0
    assert set(folder.glob("*.parquet")) < before | {folder / "partial.parquet", *map(Path, store.files(RECORDINGS))}
    assert set(store.read(RECORDINGS)["recording_id"].to_pylist()) == {ids["bad"], ids["c"]}
    store.vacuum(RECORDINGS)
    assert store.read(SOURCE_FILES).num_rows == 3
