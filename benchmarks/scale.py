"""`python -m benchmarks.scale`: the response times of the pipeline with thousands of recordings known.

Fills a scratch data folder as if that many recordings had been processed (files, tables, runs and events), starts the
pipeline on it and measures sensor ticks, pages of the UI and the cost of idling. With `--queued N` it drops N short
recordings instead, and measures whether the pauses between runs grow while they drain.
"""

import math
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import pyarrow as pa

from benchmarks.pipeline import EmptyDagster, Pipeline
from benchmarks.report import Case, figure_case, max_case, max_ratio_case, print_table
from benchmarks.soak import draw_recordings
from cli.options import end_process
from resources.environment import choose_settings, prepare_data_folder

if TYPE_CHECKING:
    from cv_assets.asset_graph import AssetGraph
    from resources.storage.delta_store import Store

BATCH_SIZE = 20
_CAMERA_COUNT = 20
_IDLE_MINUTES = 4
_PAGES = {
    "asset page": """
        query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
            id description partitionStats { numMaterialized numPartitions numFailed numMaterializing }
            assetMaterializations(limit: 1) { runId timestamp metadataEntries { label } } staleStatus
            repository { id } jobs { id name } } } }""",
    "its partitions": """
        query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
            partitionKeysByDimension { name partitionKeys }
            assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions
            unmaterializedPartitions materializingPartitions } } } } }""",
    "one partition": """
        query($key: AssetKeyInput!, $partition: String!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
            staleStatus(partition: $partition) latestMaterializationByPartition(partitions: [$partition]) {
            runId timestamp metadataEntries { label } } } } }""",
    "the graph": """
        query { assetNodes { id assetKey { path } dependencyKeys { path } partitionStats { numMaterialized } } }""",
    "the runs": "query { runsOrError(limit: 25) { ... on Runs { results { id status tags { key value } } } } }",
}


def fill_data_folder(folder: Path, count: int) -> None:
    """Create a data folder in which `count` recordings are processed, with as many other files among them.

    Args:
        folder: Gets pipeline.yaml, recordings/ and data/.
        count: Number of recordings.
    """
    settings = choose_settings(settings=Pipeline(folder).settings_file)
    from cv_assets.recordings import file_columns
    from resources.file_identification import identify_files
    from resources.schema.operations_tables import STAGE_RUNS
    from resources.schema.recording_tables import RECORDING_CONTENTS, RECORDINGS
    from resources.schema.table_registry import TABLES
    from resources.source_index import SourceIndex, skipped_files
    from resources.storage.delta_store import Store
    from resources.watched_files import list_watched_files

    for number in range(count):
        subfolder = settings.watched_folder / f"camera-{number % _CAMERA_COUNT:02d}" / f"day-{number // 1000:03d}"
        subfolder.mkdir(parents=True, exist_ok=True)
        (subfolder / f"clip-{number:06d}.mp4").write_bytes(f"recording {number}".encode())
        (subfolder / f"clip-{number:06d}.json").write_bytes(b"{}")
    prepare_data_folder(settings)
    store = Store(settings.data_folder)
    listing = list_watched_files(settings)
    source_files = identify_files(settings, listing.files, {})
    SourceIndex(store).save([*source_files.values(), *skipped_files(listing, settings.watched_folders).values()])
    recording_ids = [str(file.recording_id) for file in source_files.values()]
    headers = [
        file_columns(file)
        | {
            "container_name": "mp4",
            "created_at_utc": datetime.fromtimestamp(1_700_000_000 + 60 * number, UTC),
            "duration_s_from_header": 60.0,
        }
        for number, file in enumerate(source_files.values())
    ]
    content = {"duration_s_from_content": 60.0, "frame_count": 1500, "rate_fps": 25.0, "width_px": 1280}
    contents = [
        dict.fromkeys(RECORDING_CONTENTS.arrow_schema.names) | content | {"recording_id": recording_id}
        for recording_id in recording_ids
    ]
    store.replace(RECORDINGS, recording_ids, pa.Table.from_pylist(headers, RECORDINGS.arrow_schema))
    store.replace(RECORDING_CONTENTS, recording_ids, pa.Table.from_pylist(contents, RECORDING_CONTENTS.arrow_schema))
    for table in TABLES.values():
        if table.per_recording and table not in (RECORDINGS, RECORDING_CONTENTS, STAGE_RUNS):
            store.replace(table, recording_ids, table.empty)
    _store_history(recording_ids, store)
    store.compact(STAGE_RUNS)  # as each publication does


def _store_attempts(
    graph: "AssetGraph", recording_ids: Sequence[str], run_id: str, store: "Store", now: datetime
) -> None:
    """Store a successful attempt of every stage at some recordings, with the commits of `fill_data_folder`."""
    from cv_assets.camera_settings import NO_VERSION
    from resources.storage.commit_recorder import Commit
    from resources.storage.stage_runs import StageRun, append_stage_runs, encode_input_versions, worker_name

    attempts = []
    for assets in graph.assets:
        spec = next(iter(assets.specs))
        inputs = [dependency.asset_key for dependency in spec.deps]
        # A camera without settings of its own has the version of no settings.
        versions = {key.to_user_string(): NO_VERSION if key in graph.observer.aspects else "x" for key in inputs}
        attempts += [
            StageRun(
                recording_id,
                assets.op.name,
                1,
                "ok",
                run_id,
                now,
                "reconciliation",
                data_version="x",
                code_version=spec.code_version,
                input_versions=encode_input_versions(versions),
                started_at_utc=now,
                elapsed_s=1.0,
                worker=worker_name(),
                commits=[
                    Commit(name, recording_id, 1, int(name in ("recordings", "recording_contents")))
                    for name in graph.stages[assets.op.name]
                    if name != "normalized_video"
                ],
            )
            for recording_id in recording_ids
        ]
    append_stage_runs(store, attempts)


def _store_history(recording_ids: Sequence[str], store: "Store") -> None:
    """Store what the pipeline would have stored: partitions, runs, attempts, and a materialization per asset."""
    from dagster import AssetMaterialization, DagsterEvent, DagsterInstance, DagsterRun, DagsterRunStatus, EventLogEntry

    # Private, and in this benchmark only: the public call stores one event at a time, here a batch is stored at once.
    from dagster._core.events import StepMaterializationData

    from cv_assets.asset_graph import AssetGraph
    from cv_assets.partitions import recordings_partitions
    from cv_assets.stage_asset import ANALYSIS, INGEST
    from resources.config.settings_file import load_settings
    from sensors.run_planner import PlannedRun

    graph = AssetGraph.build(load_settings())
    specs = {spec.key.to_user_string(): spec for assets in graph.assets for spec in assets.specs}
    # All recordings share their commits here, so that all attempts must have ended at once.
    now = datetime.now(UTC)
    with DagsterInstance.get() as instance:
        storage: Any = instance.event_log_storage
        instance.add_dynamic_partitions(recordings_partitions.name or "", list(recording_ids))
        for job in (INGEST, ANALYSIS):
            for first in range(0, len(recording_ids), BATCH_SIZE):
                batch = recording_ids[first : first + BATCH_SIZE]
                tags = PlannedRun(job, (), tuple(batch)).tags
                run = DagsterRun(job_name=job, status=DagsterRunStatus.SUCCESS, tags=tags)
                instance.run_storage.add_run(run)
                if job == INGEST:
                    _store_attempts(graph, batch, run.run_id, store, now)
                with storage.index_transaction() as connection:
                    for name in graph.assets_of(job):
                        for recording_id in batch:
                            materialization = AssetMaterialization(
                                name,
                                partition=recording_id,
                                metadata={"seconds": 1.0, "dagster/partition_row_count": 100},
                                tags={
                                    "dagster/code_version": specs[name].code_version or "",
                                    "dagster/data_version": "x",
                                },
                            )
                            event = DagsterEvent(
                                "ASSET_MATERIALIZATION",
                                job,
                                event_specific_data=StepMaterializationData(materialization),
                            )
                            entry: Any = cast(Any, EventLogEntry)(
                                None, "info", "", run.run_id, time.time(), None, job, event
                            )
                            inserted = connection.execute(storage.prepare_insert_event(entry))
                            storage_id = inserted.inserted_primary_key[0]
                            storage._store_asset_event_tags(connection, [entry], [storage_id])
                        storage._store_asset_event(connection, entry, storage_id)


def _tick_durations_s() -> dict[str, list[float]]:
    """Seconds of every tick of each sensor so far, oldest first."""
    from dagster import DagsterInstance

    durations_s = {}
    with DagsterInstance.get() as instance:
        for state in instance.all_instigator_state():
            if state.instigator_type.value != "SENSOR":
                continue
            ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
            durations_s[state.instigator_name] = [
                tick.end_timestamp - tick.timestamp for tick in reversed(ticks) if tick.end_timestamp
            ]
    return durations_s


def scale_cases(folder: Path) -> Iterator[Case]:
    """Everything that is measured with a filled data folder."""
    from resources.config.settings_file import load_settings
    from resources.storage.delta_store import Store
    from resources.storage.integrity import check_storage
    from resources.watched_files import list_watched_files

    settings = load_settings()
    started_s = time.monotonic()
    listing = list_watched_files(settings)
    listing_s = time.monotonic() - started_s
    store, started_s = Store(settings.data_folder), time.monotonic()
    is_whole = not check_storage(store).lost_sentences
    yield max_case("check of the tables at a start", time.monotonic() - started_s if is_whole else math.inf, "s", 2.0)
    yield max_case(f"listing {len(listing.files) + len(listing.skipped)} files", listing_s, "s", 1.0)
    pipeline = Pipeline(folder)
    with pipeline.running():
        time.sleep(30)
        first_tick_s = _tick_durations_s()["reconciliation"][0]
        yield max_case("first tick of reconciliation after a start", first_tick_s, "s", 10.0)
        yield from _page_cases(pipeline)
        idle_percent = _measure_idle_percent(pipeline)
        for name, durations_s in _tick_durations_s().items():
            yield max_case(f"a tick of {name} without changes", statistics.median(durations_s[-10:]), "s", 1.0)
    # Waking up costs several times more on one machine, or in one minute on a shared one, than on another, so the
    # figure says little without what Dagster itself takes on the same machine at the same time.
    with tempfile.TemporaryDirectory() as scratch, (empty := EmptyDagster(Path(scratch))).running():
        empty_percent = _measure_idle_percent(empty)
    yield max_ratio_case("idle, of one core, vs Dagster without assets", idle_percent, empty_percent, "%", 2.0)
    yield from _tick_cases()


def _page_cases(pipeline: Pipeline) -> Iterator[Case]:
    """Seconds of the queries behind the pages of the UI, the first time and the median of three more."""
    variables = {"key": {"path": ["detections"]}, "partition": _first_partition()}
    for page, query in _PAGES.items():
        elapsed_s = []
        for _ in range(4):
            started_s = time.monotonic()
            pipeline.graphql(query, **{name: value for name, value in variables.items() if f"${name}" in query})
            elapsed_s.append(time.monotonic() - started_s)
        yield max_case(f"{page}: first time", elapsed_s[0], "s", 2.0)
        yield max_case(f"{page}: again", sorted(elapsed_s[1:])[1], "s", 2.0)


def drain_cases(folder: Path, count: int) -> Iterator[Case]:
    """Drop `count` short recordings at once among those already known, and measure how they drain.

    Continues with the recordings that an interrupted measurement has dropped in this folder.
    """
    from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

    from cli.local_workers import cpu_worker_count, gpu_worker_options
    from resources.config.settings_file import load_settings
    from resources.dagster_instance.run_launcher import CPU_TAG, GPU_TAG

    settings, pipeline = load_settings(), Pipeline(folder)
    recordings: list[Path] = []
    if not (folder / "drawn").exists():
        recordings, _ = draw_recordings(folder / "drawn", count, 0.0, random.Random(0))
    query = "SELECT count(*) FROM summaries JOIN recordings USING (recording_id) WHERE source_path LIKE 'good-%'"
    with pipeline.running():
        started_at = datetime.now(UTC)
        for path in recordings:
            pipeline.drop(path)
        for tenth in range(1, 11):
            target = count * tenth // 10
            pipeline.wait_until(partial(_has_reached, pipeline, query, target), 3600, "the recordings", interval_s=5)
            elapsed_s = (datetime.now(UTC) - started_at).total_seconds()
            click.echo(f"{elapsed_s:.0f} s: {target} of {count} recordings are processed", err=True)
    yield figure_case("recordings a minute", count / elapsed_s * 60)
    with DagsterInstance.get() as instance:
        for tag, limit in ((CPU_TAG, cpu_worker_count(settings)), (GPU_TAG, len(gpu_worker_options(settings)))):
            runs_filter = RunsFilter(statuses=[DagsterRunStatus.SUCCESS], tags=dict(tag), created_after=started_at)
            runs = [(run.start_time, run.end_time) for run in instance.get_run_records(runs_filter)]
            pauses_s = pauses_before_runs([(start, end) for start, end in runs if start and end], limit)
            third = max(1, len(pauses_s) // 3)
            first_s, last_s = statistics.median(pauses_s[:third]), statistics.median(pauses_s[-third:])
            (name,) = tag
            case = f"{len(pauses_s)} {name} runs: pause before the last third vs the first"
            yield max_ratio_case(case, last_s, first_s, "s", 1.25)


def _has_reached(pipeline: Pipeline, query: str, target: int) -> bool:
    return sum(int(count) for (count,) in pipeline.sql(query)) >= target


def pauses_before_runs(spans: Sequence[tuple[float, float]], limit: int) -> list[float]:
    """How long a slot of the queue had been free when each run started; without the runs that filled the first slots.

    Args:
        spans: When each run started and ended, in seconds.
        limit: How many runs may be active at once.
    """
    pauses_s = []
    for start_s, _ in sorted(spans):
        ends_s = sorted(end_s for other_start_s, end_s in spans if other_start_s < start_s)
        # All but `limit - 1` of the earlier runs must have ended; the slot was free from the end of the last of those.
        if len(ends_s) >= limit:
            pauses_s.append(start_s - ends_s[len(ends_s) - limit])
    return pauses_s


def _measure_idle_percent(pipeline: Pipeline) -> float:
    """CPU use of an idle pipeline in percent of one core, in the least disturbed of some minutes."""
    time.sleep(40)  # the ticks after a start
    shares = []
    for _ in range(_IDLE_MINUTES):
        cpu_before_s, started_s = pipeline.cpu_s(), time.monotonic()
        time.sleep(60)
        shares.append((pipeline.cpu_s() - cpu_before_s) / (time.monotonic() - started_s) * 100)
    click.echo("idle minutes: " + ", ".join(f"{share:.2f} %" for share in shares), err=True)
    return min(shares)


def _tick_cases() -> Iterator[Case]:
    """Seconds that the sensors compute in a tick after changes, without the time that they wait for changes."""
    from dagster import DagsterInstance

    from cv_assets.asset_graph import AssetGraph
    from resources.config.settings_file import load_settings
    from resources.source_index import SourceIndex, skipped_files
    from resources.storage.delta_store import Store
    from resources.watched_files import list_watched_files
    from sensors.recording_states import read_recording_states
    from sensors.run_planner import plan_runs

    settings = load_settings()
    store, graph = Store(settings.data_folder), AssetGraph.build(settings)
    with DagsterInstance.get() as instance:
        for _ in range(2):
            started_s = time.monotonic()
            plan_runs(read_recording_states(instance, store, graph), graph)
            reconciliation_s, started_s = time.monotonic() - started_s, time.monotonic()
            SourceIndex(store).load()
            skipped_files(list_watched_files(settings), settings.watched_folders)
            watched_folder_s = time.monotonic() - started_s
    yield max_case("a tick of reconciliation after changes", reconciliation_s, "s", 2.0)
    yield max_case("a tick of watched_folder after changes", watched_folder_s, "s", 2.0)


def _first_partition() -> str:
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        return str(instance.get_dynamic_partitions("recordings")[0])


@click.command()
@click.option("--recordings", "count", default=10_000, show_default=True)
@click.option("--queued", default=0, help="Drop that many more recordings and measure only how they drain.")
@click.option("--keep", type=click.Path(path_type=Path), help="Fill this folder, or measure it if it is filled.")
def main(count: int, queued: int, keep: Path | None) -> None:
    """Print the table; exit 1 where a figure misses its goal."""
    folder = (keep or Path(tempfile.mkdtemp(prefix="cv-assets-scale-"))).absolute()
    try:
        if not (folder / "pipeline.yaml").exists():
            folder.mkdir(parents=True, exist_ok=True)
            started_s = time.monotonic()
            fill_data_folder(folder, count)
            click.echo(f"Filled with {count} recordings in {time.monotonic() - started_s:.0f} s.")
        choose_settings(settings=folder / "pipeline.yaml")
        cases = []
        for case in drain_cases(folder, queued) if queued else scale_cases(folder):
            cases.append(case)
            click.echo(f"{case.case}: {case.ours:.2f} {case.unit} ({case.goal})")
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print_table(cases)
    end_process(0 if all(case.met for case in cases) else 1)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
