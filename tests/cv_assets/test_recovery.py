"""Runs that die, are given up, or belong to the dead: what they may still do, and what is tried again."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dagster import (
    AssetExecutionContext,
    AssetKey,
    BackfillPolicy,
    DagsterInstance,
    DagsterRunStatus,
    ResourceParam,
    RunsFilter,
    asset,
    materialize,
    multi_asset,
)

from cv_assets.outstanding import Outstanding, observe, plan_runs, remove_replaced, set_aside
from cv_assets.partitions import recordings_partitions
from cv_assets.stage import Stage, table_asset, table_checks
from resources.errors import GivenUpError, RecordingError
from resources.schema import RECORDINGS, SCENES
from resources.settings import PROJECT_ROOT, BatchSettings
from resources.storage import Store
from resources.watched_folder import SourceFile, SourceIndex

IDS = ("a-1", "b-2", "c-3", "d-4")


def row_of(recording_id: str) -> dict[str, Any]:
    from cv_assets.recordings import file_columns

    return file_columns(SourceFile(f"{recording_id}.mp4", 1, 1, recording_id, recording_id, "known", None, None))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[tuple[DagsterInstance, Store]]:
    folder = tmp_path / "home"
    folder.mkdir()
    with DagsterInstance.local_temp(str(folder)) as instance:
        store = Store(tmp_path / "data")
        rows = [row_of(recording_id) for recording_id in IDS]
        store.replace(RECORDINGS, IDS, pa.Table.from_pylist(rows, RECORDINGS.arrow_schema))
        instance.add_dynamic_partitions(recordings_partitions.name or "", list(IDS))
        yield instance, store


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the walk be these assets, each a stage of its own."""
    monkeypatch.setattr("cv_assets.outstanding.assets_of", lambda job: names if job == "ingest" else ())
    monkeypatch.setattr("cv_assets.outstanding.made_with", lambda name: {name})
    for places in ("LAST_OF_STEP", "LAST_OF_STAGE"):
        monkeypatch.setattr(f"cv_assets.outstanding.{places}", {name: name for name in names})


def scenes_asset(work: Any) -> Any:
    """The asset `scenes`, doing other work."""
    stage = Stage("scenes", (SCENES,))

    @multi_asset(
        name="scenes",
        specs=[table_asset(SCENES, group="ingest", code_version="1")],
        check_specs=table_checks(SCENES),
        partitions_def=recordings_partitions,
    )
    def scenes(context: AssetExecutionContext, store: ResourceParam[Store]) -> Iterator[Any]:
        yield from stage.each_recording(context, store, lambda r, _: work(context, store, r))

    return scenes


def scene(recording_id: str) -> pa.Table:
    values: dict[str, Any] = {
        name: 0 if pa.types.is_integer(SCENES.arrow_schema.field(name).type) else 0.0
        for name in SCENES.arrow_schema.names
    }
    return pa.Table.from_pylist([values | {"recording_id": recording_id}], SCENES.arrow_schema)


def test_a_run_that_was_given_up_writes_nothing_more(home: tuple[DagsterInstance, Store]) -> None:
    instance, store = home
    reached = []

    def work(context: AssetExecutionContext, store: Store, recording_id: str) -> Any:
        reached.append(recording_id)
        if recording_id == "b-2":
            # As the daemon does with a run whose process it takes for dead.
            instance.report_run_failed(context.run, "The process is gone.")
        store.replace(SCENES, [recording_id], scene(recording_id))
        return {"scenes": {}}

    tags = {"dagster/asset_partition_range_start": IDS[0], "dagster/asset_partition_range_end": IDS[-1]}
    ended = materialize(
        [scenes_asset(work)], instance=instance, resources={"store": store}, tags=tags, raise_on_error=False
    )
    assert not ended.success
    assert reached == ["a-1", "b-2"]
    assert store.read(SCENES)["recording_id"].to_pylist() == ["a-1"]
    assert {row["status"] for row in store.read(RECORDINGS).to_pylist()} == {"ok"}
    assert not instance.get_materialized_partitions(AssetKey("scenes"))


def test_an_orphan_overtaken_between_the_question_and_the_commit_loses(tmp_path: Path) -> None:
    store, other = Store(tmp_path), Store(tmp_path)
    store.replace(SCENES, ["a-1"], scene("a-1"))
    asked: list[int] = []

    def may_write() -> None:
        asked.append(len(asked))
        if len(asked) == 1:
            # Another run, begun after this one was given up, is faster by a hair.
            with ThreadPoolExecutor() as elsewhere:
                elsewhere.submit(other.replace, SCENES, ["a-1"], scene("a-1").slice(0, 0)).result()
        else:
            raise GivenUpError("given up")

    with store.written_by(may_write), pytest.raises(GivenUpError):
        store.replace(SCENES, ["a-1"], scene("a-1"))
    assert asked == [0, 1]
    assert store.read(SCENES).num_rows == 0


_DYING = """
import os, signal, sys
from pathlib import Path
from dagster import DagsterInstance, materialize, resource
from tests.cv_assets.test_recovery import scenes_asset, scene
from resources.schema import SCENES
from resources.storage import Store

def work(context, store, recording_id):
    if recording_id == "c-3":
        os.kill(os.getpid(), signal.SIGKILL)
    store.replace(SCENES, [recording_id], scene(recording_id))
    return {"scenes": {}}

tags = {"dagster/asset_partition_range_start": sys.argv[3], "dagster/asset_partition_range_end": sys.argv[4]}
if len(sys.argv) > 5:
    tags["cv_assets/attempt"] = sys.argv[5]
store = Store(Path(sys.argv[2]))
if len(sys.argv) > 6:
    store = resource(lambda: os.kill(os.getpid(), signal.SIGKILL))
with DagsterInstance.local_temp(sys.argv[1]) as instance:
    materialize([scenes_asset(work)], instance=instance, resources={"store": store}, tags=tags)
"""


def die(instance: DagsterInstance, store: Store, *arguments: str) -> None:
    """Run in a process that is killed while it works on c-3; then do as run monitoring does."""
    command = [sys.executable, "-c", textwrap.dedent(_DYING), instance.root_directory, str(store.data_folder)]
    ended = subprocess.run(
        [*command, *arguments], capture_output=True, env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED])):
        instance.report_run_failed(run, "The process is gone.")


def test_a_recording_that_kills_its_run_twice_is_set_aside_and_the_others_go_on(
    home: tuple[DagsterInstance, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, store = home
    SourceIndex(store).save(SourceFile(f"{name}.mp4", 1, 1, name, name, "known", None, None) for name in IDS)
    only(monkeypatch, "scenes")
    batches = BatchSettings()
    die(instance, store, IDS[0], IDS[-1])
    outstanding = observe(instance, store)
    assert [state.attempts for state in outstanding.states] == [0, 0, 1, 0]
    planned = plan_runs(outstanding, batches)
    assert [(run.recording_ids, run.attempt) for run in planned] == [(("a-1", "b-2"), 1), (("d-4",), 1)]
    assert set_aside(store, outstanding, batches.max_attempts) == []

    die(instance, store, "c-3", "c-3", "2")
    outstanding = observe(instance, store)
    assert [state.attempts for state in outstanding.states] == [0, 0, 2, 0]
    assert outstanding.states[2].is_done(batches.max_attempts)
    assert set_aside(store, outstanding, batches.max_attempts) == ["c-3"]
    assert set_aside(store, observe(instance, store), batches.max_attempts) == []
    (row,) = store.read(RECORDINGS, ["c-3"]).to_pylist()
    assert (row["status"], row["failed_stage"]) == ("failed", "scenes")
    assert row["error"].startswith("Its run died 2 times while scenes worked on it")
    assert [run.recording_ids for run in plan_runs(observe(instance, store), batches)] == [("a-1", "b-2"), ("d-4",)]


def test_what_fails_alone_of_a_batch_is_tried_alone_and_the_rest_goes_on_together(
    home: tuple[DagsterInstance, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, store = home
    only(monkeypatch, "scenes", "later")

    def work(context: AssetExecutionContext, store: Store, recording_id: str) -> Any:
        if recording_id == "b-2":
            raise RecordingError("It is broken.")
        store.replace(SCENES, [recording_id], scene(recording_id))
        return {"scenes": {}}

    @asset(partitions_def=recordings_partitions, deps=["scenes"], backfill_policy=BackfillPolicy.single_run())
    def later() -> None:
        raise AssertionError("a step before it failed")

    tags = {"dagster/asset_partition_range_start": IDS[0], "dagster/asset_partition_range_end": IDS[-1]}
    both = [scenes_asset(work), later]
    materialize(both, instance=instance, resources={"store": store}, tags=tags, raise_on_error=False)
    outstanding = observe(instance, store)
    assert [state.attempts for state in outstanding.states] == [0, 1, 0, 0]
    assert [state.missing for state in outstanding.states if state.recording_id != "b-2"] == [{"later"}] * 3
    planned = [(run.recording_ids, run.attempt) for run in plan_runs(outstanding, BatchSettings())]
    assert planned == [(("a-1",), 1), (("c-3", "d-4"), 1)]


def test_what_follows_goes_on_once_a_person_has_made_what_was_given_up(
    home: tuple[DagsterInstance, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, store = home
    only(monkeypatch, "scenes", "later")
    is_mended = False

    def work(context: AssetExecutionContext, store: Store, recording_id: str) -> Any:
        if not is_mended:
            raise RecordingError("It is broken.")
        store.replace(SCENES, [recording_id], scene(recording_id))
        return {"scenes": {}}

    @asset(partitions_def=recordings_partitions, deps=["scenes"])
    def later() -> None:
        raise AssertionError("it is still broken")

    def run(*assets: Any, attempt: int = 1) -> None:
        tags = {"dagster/partition": "b-2", "cv_assets/attempt": str(attempt)}
        resources = {"store": store}
        materialize(list(assets), instance=instance, resources=resources, tags=tags, raise_on_error=False)

    def planned() -> list[tuple[Any, ...]]:
        mine = [state for state in observe(instance, store).states if state.recording_id == "b-2"]
        return [(run.asset_names, run.attempt) for run in plan_runs(Outstanding(mine), BatchSettings(max_attempts=2))]

    monkeypatch.setattr("cv_assets.outstanding.with_downstream", lambda missing, job: tuple(sorted(missing)))
    scenes = scenes_asset(work)
    run(scenes, later)
    assert planned() == [(("later", "scenes"), 2)]
    run(scenes, later, attempt=2)
    assert planned() == []
    is_mended = True
    run(scenes)
    assert planned() == [(("later",), 1)]
    # What follows has attempts of its own.
    run(later)
    assert planned() == [(("later",), 2)]
    run(later, attempt=2)
    assert planned() == []


def test_a_run_that_was_killed_before_it_began_is_no_attempt_at_anything(
    home: tuple[DagsterInstance, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, store = home
    only(monkeypatch, "scenes")
    die(instance, store, IDS[0], IDS[-1], "1", "before")
    outstanding = observe(instance, store)
    assert [(state.failed, state.attempts) for state in outstanding.states] == [(frozenset({"scenes"}), 0)] * 4
    assert plan_runs(outstanding, BatchSettings()) == []
    later = plan_runs(outstanding, BatchSettings(), now=time.time() + 60)
    assert [(run.recording_ids, run.attempt) for run in later] == [(IDS, 1)]


def test_what_was_taken_up_of_a_growing_file_is_removed_and_its_row_says_so(
    home: tuple[DagsterInstance, Store],
) -> None:
    instance, store = home
    files = [SourceFile(f"{name}.mp4", 1, 1, name, name, "known", None, None) for name in ("a-1", "c-3", "d-4")]
    SourceIndex(store).save([*files, SourceFile("b-2.mp4", 2, 2, "e-5", "e-5", "known", None, None)])
    for recording_id in IDS:
        store.replace(SCENES, [recording_id], scene(recording_id))
    (store.media_folder / "b-2").mkdir(parents=True)
    for recording_id in ("a-1", "b-2"):  # the first is rejected, but its file is there
        store.update(RECORDINGS, recording_id, {"status": "rejected", "error": "the whole file is e-5"})
    assert remove_replaced(instance, store, observe(instance, store)) == ["b-2"]
    assert sorted(store.read(SCENES)["recording_id"].to_pylist()) == ["a-1", "c-3", "d-4"]
    (row,) = store.read(RECORDINGS, ["b-2"]).to_pylist()
    assert (row["status"], row["error"]) == ("rejected", "the whole file is e-5")
    assert not (store.media_folder / "b-2").exists()
    assert remove_replaced(instance, store, observe(instance, store)) == []
