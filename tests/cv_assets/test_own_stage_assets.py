"""Stages of one's own as assets: tables, versions, broken files, and what a fault of one costs."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from dagster import DagsterInstance

from cv_assets.asset_graph import AssetGraph
from cv_assets.definitions import build_definitions
from cv_assets.own_stage_assets import compute_rows
from cv_assets.stage_inputs import StageInputs
from resources.config.setting_changes import describe_changes
from resources.config.settings import Settings
from resources.config.stage_config import OwnStageSettings
from resources.dagster_instance.run_coordinator import GPU_POOL
from resources.errors import RecordingError
from resources.storage.delta_store import Store
from resources.storage.integrity import check_storage
from resources.storage.own_tables import find_stored_table, store_own_table
from resources.storage.results_database import open_results, publish
from resources.storage.stage_runs import newest_stage_runs
from tests.builders.own_stage_files import FRAME_STAGE, read_stage, store_normalized_recording, write_stage
from tests.builders.pipeline import INGEST_STAGES, Pipeline

VALID = FRAME_STAGE.format(body="")
TRACK_RULE = '''
from resources.own_stages import Column, stage

@stage(inputs=["tracks", "frame_levels"], key=["track_id"], columns=["track_id"], device="auto")
def bright_tracks(batch):
    """One row per track in a bright frame."""
    return []
'''


def build_settings(*files: Path) -> Settings:
    return Settings(stages=tuple(OwnStageSettings(file=file) for file in files))


def test_a_stage_becomes_an_asset_with_inputs_queue_and_comments(tmp_path: Path) -> None:
    rule = write_stage(tmp_path, TRACK_RULE, "rule.py")
    graph = AssetGraph.build(build_settings(write_stage(tmp_path, VALID), rule))
    assert graph.own_stages.problems == {}
    specs = {spec.key.to_user_string(): spec for assets in graph.assets for spec in assets.specs}
    frame_levels, bright_tracks = specs["frame_levels"], specs["bright_tracks"]
    assert {dep.asset_key.to_user_string() for dep in frame_levels.deps} == {"normalized_video", "frames"}
    assert {dep.asset_key.to_user_string() for dep in bright_tracks.deps} == {"corrected_tracks", "frame_levels"}
    columns = {column.name: column for column in frame_levels.metadata["dagster/column_schema"].columns}
    assert columns["brightness"].description == "Mean level [0 to 255]"
    pools = {assets.op.name: assets.op.pool for assets in graph.assets}
    assert (pools["frame_levels"], pools["bright_tracks"]) == (None, GPU_POOL)
    assert {"frame_levels", "bright_tracks"} <= graph.costly_assets


def test_code_and_version_of_the_file_are_in_the_code_version(tmp_path: Path) -> None:
    file = write_stage(tmp_path, VALID)
    before = AssetGraph.build(build_settings(file)).versions["frame_levels"]
    write_stage(tmp_path, VALID.replace("batch_size=SIZE", 'batch_size=SIZE, version="2"'))
    after = AssetGraph.build(build_settings(file)).versions["frame_levels"]
    assert before.code_version != after.code_version
    change = describe_changes(before.settings, after.settings)
    assert change.startswith("stages.frame_levels.version was 1, is now 2; stages.frame_levels.file was content ")


def test_a_broken_file_costs_its_own_asset_and_says_what_is_wrong(tmp_path: Path) -> None:
    broken = write_stage(tmp_path, "def f(:", "broken.py")
    unknown = write_stage(tmp_path, VALID.replace('"frames"', '"frame"').replace("frame_levels", "a1"), "unknown.py")
    taken = write_stage(tmp_path, VALID.replace("frame_levels", "tracks"), "taken.py")
    catalog = write_stage(tmp_path, VALID.replace("frame_levels", "published_tables"), "catalog.py")
    of_model = write_stage(tmp_path, VALID.replace("frame_levels", "late_detections"), "of_model.py")
    settings = build_settings(broken, write_stage(tmp_path, VALID), unknown, taken, catalog, of_model)
    graph = AssetGraph.build(settings)
    assert "frame_levels" in graph.stage_of_asset
    problems = graph.own_stages.problems
    assert "not valid Python" in problems["broken"]
    assert problems["unknown"].endswith("no stage before it writes the input 'frame'; did you mean frames?")
    assert "a table or an asset has the name published_tables already" in problems["catalog"]
    assert problems["of_model"].endswith("models have names like late_detections: give the function another name.")
    assert problems["taken"].endswith(
        "a table or an asset has the name tracks already: give the function another name."
    )
    specs = {spec.key.to_user_string(): spec for spec in build_definitions(settings).resolve_all_asset_specs()}
    assert specs["broken"].description == problems["broken"]


def test_no_file_keeps_the_code_location_from_loading(tmp_path: Path) -> None:
    definitions = build_definitions(Settings())
    jobs = definitions.get_repository_def().get_all_jobs()
    names = {node.name for job in jobs for node in job.graph.nodes} | {job.name for job in jobs}
    assets = {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}
    own_names = sorted((names | assets) - {"__ASSET_JOB"})
    files = [write_stage(tmp_path, VALID.replace("frame_levels", name), f"{name}.py") for name in own_names]
    broken = [write_stage(tmp_path / "broken", "def f(:", f"{name}.py") for name in ("tracks", "tracks_file")]
    settings = build_settings(*files, *broken)
    specs = build_definitions(settings).resolve_all_asset_specs()
    problems = [spec for spec in specs if spec.description and ".py" in spec.description and ":" in spec.description]
    assert len(problems) >= len(files) + len(broken)
    build_definitions(settings).get_repository_def().get_all_jobs()


def test_frames_come_in_batches_with_the_rows_of_the_declared_tables(store: Store, tmp_path: Path) -> None:
    store_normalized_recording(store, frame_count=10)
    source = VALID.replace('["frames"]', '["frames", "stretches", "frame_levels"]').replace("def frame_levels", "def b")
    stage = read_stage(write_stage(tmp_path, source.replace("batch_size=SIZE", "batch_size=4, max_rate_fps=5")))
    store_own_table(store.tables_folder, read_stage(write_stage(tmp_path, VALID)).table)
    batches = list(StageInputs.read(stage, "r", store).batches())
    assert [[frame.frame_index for frame in batch.frames] for batch in batches] == [[0, 2, 4, 6], [8]]
    assert [batch.state for batch in batches] == [{"is_first": True}, {"is_first": False}]
    assert batches[0].frames[1].time_s == pytest.approx(0.2)
    assert batches[0].frames[0].image.shape == (96, 128, 3)
    assert batches[0].tables["frame_levels"].num_rows == 0


def test_a_key_with_the_name_of_a_word_of_sql_is_published_without_rows(store: Store, tmp_path: Path) -> None:
    source = VALID.replace('key=["frame_index"]', 'key=["order"]').replace('"brightness", "float"', '"order", "int"')
    table = read_stage(write_stage(tmp_path, source)).table
    store_own_table(store.tables_folder, table)
    store.replace(table, ["r"], table.empty)
    publish(store, Settings(data_folder=store.data_folder))
    with open_results(store.data_folder) as results:
        assert results.execute('SELECT "order" FROM frame_levels').fetchall() == []


def test_rows_that_break_the_declaration_fail_the_recording(store: Store, tmp_path: Path) -> None:
    store_normalized_recording(store, frame_count=3)
    stage = read_stage(write_stage(tmp_path, VALID.replace("maximum=255", "maximum=1")))
    with pytest.raises(RecordingError, match="frame_levels: 3 of 3 rows break the rule: brightness is at most 1"):
        compute_rows(StageInputs.read(stage, "r", store), lambda *_: None)
    stage = read_stage(write_stage(tmp_path, VALID.replace('"frame_index": frame.frame_index', '"frame_index": 1')))
    with pytest.raises(RecordingError, match=r"1 keys \(recording_id, frame_index\) are in more than one row"):
        compute_rows(StageInputs.read(stage, "r", store), lambda *_: None)


def shared_bytes() -> int:
    """Size of the memory in which this process exchanges frames with its child processes."""
    total = 0
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            total += file.stat().st_size if "memfd:frames" in str(file.readlink()) else 0
    return total


def test_a_function_that_fails_leaves_no_frames_in_memory(store: Store, tmp_path: Path) -> None:
    store_normalized_recording(store, frame_count=3)
    before = shared_bytes()
    stage = read_stage(write_stage(tmp_path, FRAME_STAGE.format(body="raise ValueError")))
    with pytest.raises(RecordingError, match="its function raised ValueError"):
        compute_rows(StageInputs.read(stage, "r", store), lambda *_: None)
    assert shared_bytes() <= before


def test_a_stored_table_outlives_its_stage_and_changes_only_compatibly(store: Store, tmp_path: Path) -> None:
    store_normalized_recording(store, frame_count=3)
    stage = read_stage(write_stage(tmp_path, VALID))
    rows = compute_rows(StageInputs.read(stage, "r", store), lambda *_: None)
    store_own_table(store.tables_folder, stage.table)
    store.replace(stage.table, ["r"], rows)
    assert find_stored_table(store.tables_folder, "frame_levels") == stage.table
    publish(store, Settings(data_folder=store.data_folder))
    with open_results(store.data_folder) as results:
        comments = (
            "SELECT comment FROM duckdb_columns() WHERE table_name = 'frame_levels' AND column_name = 'brightness'"
        )
        assert results.execute(comments).fetchall() == [("Mean level [0 to 255]",)]
        assert results.execute("SELECT count(*), any_value(camera) FROM frame_levels").fetchall() == [(3, "gate")]
    assert check_storage(store, contents=True).damages == ()
    renamed = read_stage(write_stage(tmp_path, VALID.replace("One row per frame with", "One row per picture with")))
    store_own_table(store.tables_folder, renamed.table)
    store.replace(renamed.table, ["r"], rows)
    publish(store, Settings(data_folder=store.data_folder))
    with open_results(store.data_folder) as results:
        grain = results.execute("SELECT grain FROM published_tables WHERE table_name = 'frame_levels'").fetchone()
    assert grain == ("One row per picture with its brightness.",)
    other_type = read_stage(write_stage(tmp_path, VALID.replace('"brightness", "float"', '"brightness", "int"')))
    with pytest.raises(RecordingError, match="frame_levels: the column brightness was double and is now int64"):
        store_own_table(store.tables_folder, other_type.table)
    without = VALID.replace(', Column("brightness", "float", "Mean level", "0 to 255", minimum=0, maximum=255)', "")
    added = without.replace('"time_s"]', '"time_s", Column("note", "text", "A note")]')
    table = read_stage(write_stage(tmp_path, added)).table
    store_own_table(store.tables_folder, table)
    assert store.read(table)["note"].to_pylist() == [None] * 3
    new_rows = rows.drop_columns("brightness").append_column("note", [["a", "b", "c"]])
    store.replace(table, ["r"], new_rows)
    assert sorted(store.read(table)["note"].to_pylist()) == ["a", "b", "c"]
    publish(store, Settings(data_folder=store.data_folder))
    with open_results(store.data_folder) as results:
        assert results.execute("SELECT max(note) FROM frame_levels").fetchall() == [("c",)]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with DagsterInstance.ephemeral() as instance:
        pipeline = Pipeline(tmp_path_factory.mktemp("pipeline"), instance)
        pipeline.run(INGEST_STAGES, "a", "c")
        yield pipeline


@pytest.mark.long
def test_a_crash_costs_the_attempt_of_its_recording_and_nothing_else(pipeline: Pipeline, tmp_path: Path) -> None:
    crash = f"import os; batch.recording.recording_id == {pipeline.ids['a']!r} and os.abort()"
    file = write_stage(tmp_path, FRAME_STAGE.format(body=crash))
    pipeline.use_settings(pipeline.settings.model_copy(update={"stages": (OwnStageSettings(file=file),)}))
    assert not pipeline.run(["frame_levels"], "a", "c").success
    rows = {
        row["recording_id"]: row
        for row in newest_stage_runs(pipeline.store).to_pylist()
        if row["stage"] == "frame_levels"
    }
    assert rows[pipeline.ids["a"]]["error"] == "frame_levels: its process crashed (SIGABRT)."
    assert (rows[pipeline.ids["a"]]["status"], rows[pipeline.ids["c"]]["status"]) == ("failed", "ok")
    version = pipeline.versions("frame_levels", "c")[0]
    file.write_text(VALID)
    pipeline.use_settings(pipeline.settings)
    assert pipeline.run(["frame_levels"], "a", "a").success
    assert pipeline.versions("frame_levels", "a")[0] != version
