"""Tables of a real pipeline lose commits and files: exactly their stages are requested again, and give equal rows."""

import copy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from cli.start_check import publish_for_query
from cv_assets.normalized_video import NORMALIZED_VIDEO
from resources.schema.table_registry import find_table
from resources.storage.delta_store import Store
from resources.storage.integrity import check_storage
from resources.storage.results_database import publish
from resources.storage.table_repair import TableRepair
from sensors.lost_results import add_missing_videos, find_results_to_recompute, mark_as_interrupted
from sensors.recording_states import read_recording_states
from tests.builders.damaged_tables import cut_file, empty_newest_entry, flip_bytes, lose_file, lose_newest_entry
from tests.builders.pipeline import Pipeline
from tests.builders.processed_pipelines import CAMERA_PATHS, open_pipeline, processed_folder

pytestmark = pytest.mark.slow
TABLE_NAMES = (
    *("recordings", "frames", "recording_contents", "scenes", "stretches", "detections", "model_runs", "tracks"),
    *("track_boxes", "still_tracks", "track_links", "crops", "zone_events", "zone_presence", "zone_seconds"),
    *("line_trips", "ground_tracks", "summaries", "class_minutes", "heatmap_cells", "class_presence"),
    *("zone_minutes", "line_minutes", "origin_destinations"),
)


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline that has processed its recordings."""
    with open_pipeline(tmp_path_factory.mktemp("pipeline"), processed_folder(tmp_path_factory)) as pipeline:
        publish(pipeline.store, pipeline.settings)
        yield pipeline


@pytest.fixture
def pipeline(processed: Pipeline, tmp_path: Path) -> Pipeline:
    """The pipeline on a copy of its data folder."""
    pipeline = copy.copy(processed)
    shutil.copytree(processed.store.data_folder, tmp_path / "data", symlinks=True)
    pipeline.store = Store(tmp_path / "data")
    return pipeline


def missing_stages(pipeline: Pipeline) -> dict[str, set[str]]:
    """The stages that will be requested again, by name of the recording; without that of the file that is no video."""
    states = read_recording_states(pipeline.instance, pipeline.store, pipeline.graph).states
    missing = {state.recording_id: {pipeline.graph.stage_of_asset[name] for name in state.missing} for state in states}
    return {name: missing[pipeline.ids[name]] for name in ("a", "c") if missing[pipeline.ids[name]]}


def stored_rows(store: Store, name: str) -> pa.Table:
    """The rows of a table in the order of their keys, without how long it took to compute them."""
    table = find_table(name)
    assert table is not None
    rows = store.read(table).sort_by([(column, "ascending") for column in table.key])
    return rows.drop_columns(list({"elapsed_s"} & set(rows.column_names)))


def repair(pipeline: Pipeline) -> None:
    """Do what `cv-assets repair` does."""
    tables = TableRepair(pipeline.store)
    report = tables.repair(check_storage(pipeline.store, contents=True))
    results = find_results_to_recompute(report, pipeline.graph, tables.repaired_names)
    assert add_missing_videos(results, pipeline.store, pipeline.graph) == []
    mark_as_interrupted(results, pipeline.store)


def test_the_tables_of_a_real_pipeline_are_whole(pipeline: Pipeline) -> None:
    report = check_storage(pipeline.store, contents=True)
    assert (report.damages, report.lost, report.rewritten) == ((), (), ())
    assert set(report.recorded.versions) == set(TABLE_NAMES)
    assert report.table_count == len([*pipeline.store.tables_folder.glob("*/_delta_log")])


@pytest.mark.parametrize("name", TABLE_NAMES)
def test_exactly_the_stage_of_a_lost_commit_is_requested_again(pipeline: Pipeline, name: str) -> None:
    lose_newest_entry(pipeline.store.tables_folder / name)
    (sentence,) = check_storage(pipeline.store).lost_sentences
    assert sentence.startswith(f"{name}: rows of 1 recording are lost or outdated (") and "cv-assets repair" in sentence
    repair(pipeline)
    (missing,) = missing_stages(pipeline).values()
    assert missing == {pipeline.graph.stage_of_asset.get(name, "detections")}


def test_a_query_says_which_rows_are_lost(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    settings = pipeline.settings.model_copy(update={"data_folder": pipeline.store.data_folder})
    publish_for_query(settings)
    assert capsys.readouterr().err == ""
    shutil.rmtree(pipeline.store.data_folder / "published")
    lose_newest_entry(pipeline.store.tables_folder / "tracks")
    publish_for_query(settings)
    assert capsys.readouterr().err.startswith("tracks: rows of 1 recording are lost or outdated (")


@pytest.mark.parametrize(
    ("damage", "is_recomputed"),
    [
        pytest.param(lose_newest_entry, True, marks=pytest.mark.long),  # computing takes long
        (lose_newest_entry, False),
        (empty_newest_entry, False),
        (lose_file, True),
        (cut_file, False),
        (flip_bytes, False),
    ],
)
def test_damage_of_every_table_is_named_and_its_rows_are_computed_again(
    pipeline: Pipeline, damage: Callable[[Path], None], is_recomputed: bool
) -> None:
    rows_before = {name: stored_rows(pipeline.store, name) for name in TABLE_NAMES}
    # A table without rows has no files.
    damaged = [name for name in TABLE_NAMES if "entry" in damage.__name__ or rows_before[name].num_rows]
    for name in damaged:
        damage(pipeline.store.tables_folder / name)
    report = check_storage(pipeline.store, contents=damage is flip_bytes)
    sentences = [*report.damage_sentences, *report.lost_sentences]
    assert sorted(sentence.partition(":")[0] for sentence in sentences) == sorted(damaged)
    repair(pipeline)
    expected = {pipeline.graph.stage_of_asset.get(name, "detections") for name in damaged}
    assert set().union(*missing_stages(pipeline).values()) == expected
    if not is_recomputed:
        return
    for recording, stages in missing_stages(pipeline).items():
        for stage in pipeline.stage_names:  # upstream first
            if stage in stages:
                pipeline.run([stage], recording, recording)
    assert missing_stages(pipeline) == {}
    report = check_storage(pipeline.store, contents=True)
    assert (report.damages, report.lost) == ((), ())
    for name in TABLE_NAMES:
        assert stored_rows(pipeline.store, name).equals(rows_before[name]), name


def test_a_missing_video_is_computed_from_its_file_and_otherwise_named(pipeline: Pipeline) -> None:
    recording_id = pipeline.ids["a"]
    (pipeline.store.media_folder / recording_id / "normalized.mp4").unlink()
    results = {(recording_id, "crops"), (recording_id, "tracks")}
    assert add_missing_videos(results, pipeline.store, pipeline.graph) == []
    assert results == {(recording_id, "crops"), (recording_id, "tracks"), (recording_id, NORMALIZED_VIDEO)}
    source = pipeline.settings.watched_folder / f"{CAMERA_PATHS['a']}.mp4"
    hidden = source.rename(source.with_suffix(".hidden"))
    try:
        results = {(recording_id, "crops")}
        (sentence,) = add_missing_videos(results, pipeline.store, pipeline.graph)
        assert sentence == (
            f"{recording_id}: crops cannot be computed again, because neither its normalized video nor its file "
            f"exists: put the file back ({source})."
        )
        assert add_missing_videos({(recording_id, "tracks")}, pipeline.store, pipeline.graph) == []
        (sentence,) = add_missing_videos({(recording_id, "recordings")}, pipeline.store, pipeline.graph)
        assert "because its file is gone: put the file back" in sentence
    finally:
        hidden.rename(source)
