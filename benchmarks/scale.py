"""`python -m benchmarks.scale`: how the pipeline answers with thousands of recordings known.

Fills a scratch data folder as if that many recordings had been processed (files, tables, runs and events), starts the
pipeline on it and measures what an operator feels: looks of the sensors, pages of the UI, and what idling costs. With
`--queued N` it drops N short recordings instead, and measures whether the pauses between runs grow while they drain.
"""

import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import pyarrow as pa

from benchmarks.pipeline import EmptyDagster, Pipeline
from benchmarks.report import Case, alone, compared_at_most, show
from benchmarks.soak import drawn as draw_recordings
from resources.home import choose, prepare_data_folder

BATCH = 20
_CAMERAS = 20
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


def fill(home: Path, count: int) -> None:
    """Make a data folder in which `count` recordings are done, and as many files beside them that are none.

    Args:
        home: Gets pipeline.yaml, recordings/ and data/.
        count: Recordings.
    """
    settings = choose(settings=Pipeline(home).settings)
    from cv_assets.recordings import file_columns
    from resources.schema import RECORDINGS
    from resources.storage import Store
    from resources.watched_folder import SourceIndex, identify, list_recordings, skipped_files

    for number in range(count):
        folder = settings.watched_folder / f"camera-{number % _CAMERAS:02d}" / f"day-{number // 1000:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"clip-{number:06d}.mp4").write_bytes(f"recording {number}".encode())
        (folder / f"clip-{number:06d}.json").write_bytes(b"{}")
    prepare_data_folder(settings.data_folder)
    store = Store(settings.data_folder)
    listing = list_recordings(settings)
    found = identify(settings, listing.files, {})
    SourceIndex(store).save([*found.values(), *skipped_files(listing, settings.watched_folders).values()])
    recording_ids = [str(file.recording_id) for file in found.values()]
    rows = [_row(file_columns(file), number) for number, file in enumerate(found.values())]
    store.replace(RECORDINGS, recording_ids, pa.Table.from_pylist(rows, RECORDINGS.arrow_schema))
    _events(recording_ids)


def _row(row: dict[str, Any], number: int) -> dict[str, Any]:
    started = datetime.fromtimestamp(1_700_000_000 + 60 * number, UTC)
    return row | {
        **{"started_at_utc": started, "started_at_source": "file_name", "duration_s_from_content": 60.0},
        **{"frame_count": 1500, "frame_count_from_content": 1500, "width_px": 1280, "height_px": 720, "rate_fps": 25.0},
    }


def _events(recording_ids: Sequence[str]) -> None:
    """What Dagster would have stored: partitions, runs, and a materialization per asset and recording."""
    from dagster import AssetMaterialization, DagsterEvent, DagsterInstance, EventLogEntry
    from dagster._core.events import StepMaterializationData
    from dagster._core.storage.dagster_run import DagsterRun, DagsterRunStatus

    from cv_assets.outstanding import PlannedRun
    from cv_assets.partitions import recordings_partitions
    from cv_assets.stage import ANALYSIS, INGEST
    from cv_assets.walk import WALK, assets_of

    specs = {spec.key.to_user_string(): spec for assets in WALK for spec in assets.specs}
    with DagsterInstance.get() as instance:
        storage: Any = instance.event_log_storage
        instance.add_dynamic_partitions(recordings_partitions.name or "", list(recording_ids))
        for job in (INGEST, ANALYSIS):
            for first in range(0, len(recording_ids), BATCH):
                batch = recording_ids[first : first + BATCH]
                tags = PlannedRun(job, (), tuple(batch)).tags
                run = DagsterRun(job_name=job, status=DagsterRunStatus.SUCCESS, tags=tags)
                instance.run_storage.add_run(run)
                with storage.index_transaction() as connection:
                    for name in assets_of(job):
                        for recording_id in batch:
                            made = AssetMaterialization(
                                name,
                                partition=recording_id,
                                metadata={"seconds": 1.0, "dagster/partition_row_count": 100},
                                tags={
                                    "dagster/code_version": specs[name].code_version or "",
                                    "dagster/data_version": "x",
                                },
                            )
                            event = DagsterEvent(
                                "ASSET_MATERIALIZATION", job, event_specific_data=StepMaterializationData(made)
                            )
                            entry: Any = cast(Any, EventLogEntry)(
                                None, "info", "", run.run_id, time.time(), None, job, event
                            )
                            stored = connection.execute(storage.prepare_insert_event(entry))
                            number = stored.inserted_primary_key[0]
                            storage._store_asset_event_tags(connection, [entry], [number])
                        storage._store_asset_event(connection, entry, number)


def _ticks(home: Path) -> dict[str, list[float]]:
    """Seconds of every look of each sensor so far, oldest first."""
    from dagster import DagsterInstance
    from dagster._core.definitions.run_request import InstigatorType

    found = {}
    with DagsterInstance.get() as instance:
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
            ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
            done = [tick for tick in ticks if tick.end_timestamp]
            found[state.instigator_name] = [t.end_timestamp - t.timestamp for t in reversed(done) if t.end_timestamp]
    return found


def scale(home: Path, count: int) -> Iterator[Case]:
    """Everything that is measured with `count` recordings known."""
    from resources.settings import load_settings
    from resources.watched_folder import list_recordings

    settings = load_settings()
    started = time.monotonic()
    listing = list_recordings(settings)
    listing_s = time.monotonic() - started
    yield alone(f"listing {len(listing.files) + len(listing.skipped)} files", listing_s, "s", at_most=1.0)
    pipeline = Pipeline(home)
    with pipeline.running():
        time.sleep(30)
        # That of watched_folder goes on waiting for news, so its length says nothing; see `_looks`.
        first_look_s = _ticks(home)["reconciliation"][0]
        yield alone("first look of reconciliation after a start", first_look_s, "s", at_most=10.0)
        key, partition = {"path": ["detections"]}, _first_partition()
        for page, query in _PAGES.items():
            took = []
            for _ in range(4):
                started = time.monotonic()
                variables = {"key": key, "partition": partition}
                pipeline.ask(query, **{name: value for name, value in variables.items() if f"${name}" in query})
                took.append(time.monotonic() - started)
            yield alone(f"{page}: first time", took[0], "s", at_most=2.0)
            yield alone(f"{page}: again", sorted(took[1:])[1], "s", at_most=2.0)
        idle = _idle(pipeline)
    yield alone("idle, of one core", idle, "%", at_most=5.0)
    # Waking up costs several times more on one machine, or at one minute of a shared one, than on another, so the
    # figure says little without what Dagster itself takes there and then.
    with tempfile.TemporaryDirectory() as folder, (empty := EmptyDagster(Path(folder))).running():
        yield compared_at_most("idle, beside Dagster with nothing in it", idle, _idle(empty), "%", 1.25)
    yield from _looks()


def drain(home: Path, count: int) -> Iterator[Case]:
    """What `count` short recordings wait for that are dropped all at once, beside the recordings already known.

    Goes on with what an interrupted measurement has dropped in this folder.
    """
    from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

    from resources.run_coordinator import GPU_TAG, INGEST_TAG
    from resources.settings import load_settings

    queue, pipeline = load_settings().queue, Pipeline(home)
    drawn: list[Path] = []
    if not (home / "drawn").exists():
        drawn, _ = draw_recordings(home / "drawn", count, 0.0, random.Random(0))
    done = "SELECT count(*) FROM summaries JOIN recordings USING (recording_id) WHERE source_path LIKE 'good-%'"
    with pipeline.running():
        started = datetime.now(UTC)
        for path in drawn:
            pipeline.drop(path)
        for share in range(1, 11):
            wanted = count * share // 10
            pipeline.until(partial(_has, pipeline, done, wanted), 3600, "the recordings", every_s=5)
            elapsed_s = (datetime.now(UTC) - started).total_seconds()
            click.echo(f"{elapsed_s:.0f} s: {wanted} of {count} recordings are done", err=True)
    yield Case("recordings a minute", count / elapsed_s * 60, None, count / elapsed_s * 60, "", "", True)
    with DagsterInstance.get() as instance:
        for tag, limit in ((INGEST_TAG, queue.cpu_runs), (GPU_TAG, queue.gpu_runs)):
            wanted_runs = RunsFilter(statuses=[DagsterRunStatus.SUCCESS], tags=dict(tag), created_after=started)
            worked = [(run.start_time, run.end_time) for run in instance.get_run_records(wanted_runs)]
            pauses = pauses_before([(start, end) for start, end in worked if start and end], limit)
            third = max(1, len(pauses) // 3)
            first_s, last_s = statistics.median(pauses[:third]), statistics.median(pauses[-third:])
            (name,) = tag
            told = f"{len(pauses)} {name} runs: pause before the last third vs the first"
            yield compared_at_most(told, last_s, first_s, "s", 1.25)


def _has(pipeline: Pipeline, query: str, wanted: int) -> bool:
    return sum(int(count) for (count,) in pipeline.sql(query)) >= wanted


def pauses_before(worked: Sequence[tuple[float, float]], limit: int) -> list[float]:
    """How long a place in the queue had been free when each run began to work, for those that found none at once.

    Args:
        worked: When each run began and ended, in seconds.
        limit: How many may work at once.
    """
    pauses = []
    for start_s, _ in sorted(worked):
        ended = sorted(end_s for other_s, end_s in worked if other_s < start_s)
        # All but `limit - 1` of the earlier ones must have ended; the place was free when the last of those had.
        if len(ended) >= limit:
            pauses.append(start_s - ended[len(ended) - limit])
    return pauses


def _idle(pipeline: Pipeline) -> float:
    """How much of one core it uses while nothing happens, in percent: in the least disturbed of some minutes."""
    time.sleep(40)  # the looks after a start
    shares = []
    for _ in range(_IDLE_MINUTES):
        before, since = pipeline.cpu_s(), time.monotonic()
        time.sleep(60)
        shares.append((pipeline.cpu_s() - before) / (time.monotonic() - since) * 100)
    click.echo("idle minutes: " + ", ".join(f"{share:.2f} %" for share in shares), err=True)
    return min(shares)


def _looks() -> Iterator[Case]:
    """What the sensors do in a look where there is news, without the time that they wait for it."""
    from dagster import DagsterInstance

    from cv_assets.outstanding import observe, plan_runs
    from resources.settings import load_settings
    from resources.storage import Store
    from resources.watched_folder import SourceIndex, list_recordings, skipped_files

    settings = load_settings()
    store = Store(settings.data_folder)
    with DagsterInstance.get() as instance:
        for _ in range(2):
            started = time.monotonic()
            plan_runs(observe(instance, store), settings.batches)
            reconciliation_s, started = time.monotonic() - started, time.monotonic()
            SourceIndex(store).load()
            skipped_files(list_recordings(settings), settings.watched_folders)
            folders_s = time.monotonic() - started
    yield alone("a look of reconciliation where there is news", reconciliation_s, "s", at_most=2.0)
    yield alone("a look of watched_folder where there is news", folders_s, "s", at_most=2.0)


def _first_partition() -> str:
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        return str(instance.get_dynamic_partitions("recordings")[0])


@click.command()
@click.option("--recordings", "count", default=10_000, show_default=True)
@click.option("--queued", default=0, help="Drop that many more and measure how they drain, nothing else.")
@click.option("--keep", type=click.Path(path_type=Path), help="Fill this folder, or measure it if it is filled.")
def main(count: int, queued: int, keep: Path | None) -> None:
    """Print the table; exit 1 where a figure misses its goal."""
    home = (keep or Path(tempfile.mkdtemp(prefix="cv-assets-scale-"))).absolute()
    try:
        if not (home / "pipeline.yaml").exists():
            home.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            fill(home, count)
            click.echo(f"Filled with {count} recordings in {time.monotonic() - started:.0f} s.")
        choose(settings=home / "pipeline.yaml")
        cases = []
        for case in drain(home, queued) if queued else scale(home, count):
            cases.append(case)
            click.echo(f"{case.case}: {case.ours:.2f} {case.unit} ({case.goal})")
    finally:
        if keep is None:
            shutil.rmtree(home, ignore_errors=True)
    show(cases)
    sys.exit(0 if all(case.met for case in cases) else 1)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
