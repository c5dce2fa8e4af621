"""The queue limits runs with a model stage however they are started: when they held a device, how many at once."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.dagster_processes import find_script
from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.config.settings_file import PROJECT_ROOT
from resources.dagster_instance.postgres_database import POSTGRES_VARIABLE
from tests.builders.running_pipeline import RunningPipeline

pytestmark = pytest.mark.long
MODEL_ASSETS = ["detections"]
_RUNS = """
{ runsOrError { ... on Runs { results {
    runId pipelineName status startTime endTime tags { key value }
} } } }
"""
_MESSAGES = """
query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection {
    events { ... on MessageEvent { message timestamp } }
} } }
"""
_REEXECUTE = """
mutation($params: ReexecutionParams!) { launchPipelineReexecution(reexecutionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
} }
"""


@dataclass(frozen=True)
class Run:
    """A run as the UI shows it.

    Attributes:
        run_id: Its id.
        job: Its job.
        status: Its status.
        tags: Its tags.
        start_s: When it started, in seconds since 1970.
        end_s: When it ended.
        lease_spans: Start and end of each lease of a device.
    """

    run_id: str
    job: str
    status: str
    tags: dict[str, str]
    start_s: float
    end_s: float
    lease_spans: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class StartedRuns:
    """All runs of the pipeline after runs were started in every way.

    Attributes:
        runs: All runs.
        run_ids: By way of starting it, the id of a run.
        backfill_tag: The tag of the backfill's runs.
    """

    runs: list[Run]
    run_ids: dict[str, str]
    backfill_tag: tuple[str, str]

    @property
    def of_backfill(self) -> list[Run]:
        """The runs of the backfill."""
        return [run for run in self.runs if self.backfill_tag in run.tags.items()]

    @property
    def by_way(self) -> dict[str, Run]:
        """By way of starting it, a run."""
        by_id = {run.run_id: run for run in self.runs}
        return {way: by_id[run_id] for way, run_id in self.run_ids.items()}


def list_runs(pipeline: RunningPipeline) -> list[Run]:
    runs = []
    for run in pipeline.graphql(_RUNS)["runsOrError"]["results"]:
        events = pipeline.graphql(_MESSAGES, {"id": run["runId"]})["logsForRun"]["events"]
        messages = [(event["message"], int(event["timestamp"]) / 1e3) for event in events if event]
        lease_starts_s = [time_s for message, time_s in messages if message.startswith("Leased ")]
        lease_ends_s = [time_s for message, time_s in messages if message.startswith("Released ")]
        has_ended = run["status"] in ("SUCCESS", "FAILURE")
        assert len(lease_starts_s) == len(lease_ends_s) or not has_ended
        runs.append(
            Run(
                run["runId"],
                run["pipelineName"],
                run["status"],
                {tag["key"]: tag["value"] for tag in run["tags"]},
                run["startTime"] or 0.0,
                run["endTime"] or 0.0,
                tuple(zip(lease_starts_s, lease_ends_s, strict=has_ended)),
            )
        )
    return runs


def max_concurrency(spans: list[tuple[float, float]]) -> int:
    """The largest number of spans that overlap; one that starts as another ends does not overlap it."""
    changes = sorted([(end, -1) for _, end in spans] + [(start, 1) for start, _ in spans])
    count = max_count = 0
    for _, change in changes:
        count += change
        max_count = max(max_count, count)
    return max_count


def reexecute(pipeline: RunningPipeline, run_id: str) -> str:
    params = {"parentRunId": run_id, "strategy": "FROM_FAILURE"}
    response = pipeline.graphql(_REEXECUTE, {"params": params})["launchPipelineReexecution"]
    assert response["__typename"] == "LaunchRunSuccess", response
    return str(response["run"]["runId"])


def launch_by_command(pipeline: RunningPipeline, recording_id: str) -> None:
    """`dagster job launch`, as an operator's script would."""
    tags = json.dumps({"dagster/partition": recording_id, "way": "command"})
    command = [find_script("dagster"), "job", "launch", "-w", str(PROJECT_ROOT / "workspace.yaml"), "-j", "analysis"]
    environment = {
        **pipeline.environment,
        "DAGSTER_HOME": str(pipeline.data_folder / "dagster"),
        "CV_ASSETS_SETTINGS": str(pipeline.settings_file),
    }
    if url := environment.get(POSTGRES_VARIABLE):  # without a driver SQLAlchemy chooses one that is not installed
        environment[POSTGRES_VARIABLE] = url.replace("postgresql://", "postgresql+psycopg2://")
    process = subprocess.run(
        [*command, "--tags", tags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=pipeline.data_folder,
    )
    assert process.returncode == 0, process.stderr


@pytest.fixture(scope="module", params=[1, 2])
def gpu_run_limit(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def started(
    gpu_run_limit: int, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[StartedRuns]:
    """Runs started in every way at once on one pipeline; with limit 1 its history is in PostgreSQL."""
    url = request.getfixturevalue("postgres_server").create_database("queue") if gpu_run_limit == 1 else None
    # The sensor's second attempt may come before the hidden video is back; the third attempt succeeds.
    queue, batches = {"gpu_runs": gpu_run_limit, "cpu_runs": 2}, {"max_recordings": 1, "max_attempts": 3}
    folder = tmp_path_factory.mktemp(f"queue-{gpu_run_limit}")
    pipeline = RunningPipeline(folder, url, queue=queue, batches=batches)
    for number in range(3):
        write_video(demo_scene(number, 4, {"car": 1}), pipeline.watched_folder / f"clip {number}.mp4")
    pipeline.start()
    try:
        pipeline.wait_until(
            lambda: pipeline.sql("SELECT count(*) FROM summaries") == [(3,)], 240, "three summaries by sensors"
        )
        rows = pipeline.sql("SELECT recording_id FROM recordings ORDER BY source_path")
        yield start_runs_in_every_way(pipeline, [str(row[0]) for row in rows])
    finally:
        pipeline.stop()


def start_runs_in_every_way(pipeline: RunningPipeline, recording_ids: list[str]) -> StartedRuns:
    backfill_tag = ("dagster/backfill", pipeline.backfill(MODEL_ASSETS, recording_ids))
    pipeline.wait_until(
        lambda: sum(backfill_tag in run.tags.items() for run in list_runs(pipeline)) == 3, 120, "the backfill's runs"
    )
    # A run that fails: the model stage lacks the video of the second recording for a while.
    video = pipeline.data_folder / "media" / recording_ids[1] / "normalized.mp4"
    hidden_video = video.rename(Path(pipeline.folder) / "hidden.mp4")
    run_ids = {
        "materialize": pipeline.materialize("__ASSET_JOB", MODEL_ASSETS, recording_ids[0]),
        "graphql": pipeline.materialize("analysis", [], recording_ids[2]),
        "retried": pipeline.materialize("__ASSET_JOB", MODEL_ASSETS, recording_ids[1], {"dagster/max_retries": "1"}),
    }
    launch_by_command(pipeline, recording_ids[0])

    def runs_if_all_ended() -> list[Run]:
        runs = list_runs(pipeline)
        is_retried = any(run.tags.get("dagster/retry_number") == "1" for run in runs)
        return runs if is_retried and all(run.status in ("SUCCESS", "FAILURE") for run in runs) else []

    pipeline.wait_until(runs_if_all_ended, 240, "all runs to end")
    hidden_video.rename(video)
    run_ids["reexecution"] = reexecute(pipeline, run_ids["retried"])

    def runs_if_all_good() -> list[Run]:
        good_count = pipeline.sql("SELECT count(*) FROM recordings WHERE status = 'ok'")
        return runs_if_all_ended() if good_count == [(3,)] else []

    # Ends once the failures are retried. Runs that the sensor may request after that are not examined: a run gets its
    # tag when it is queued, just after it was created.
    runs = pipeline.wait_until(runs_if_all_good, 240, "all recordings to be good again")
    run_ids["command"] = next(run.run_id for run in runs if run.tags.get("way") == "command")
    return StartedRuns(runs, run_ids, backfill_tag)


def test_every_way_of_starting_a_model_run_is_tagged_and_leases_a_device(started: StartedRuns) -> None:
    by_sensor = [run for run in started.runs if run.tags.get("dagster/sensor_name") == "reconciliation"]
    retries = [run for run in started.runs if run.tags.get("dagster/retry_number") == "1"]
    assert (len(started.of_backfill), len(retries)) == (3, 1)
    # The sensor's runs that follow a materialization of the model's own asset by hand need no device.
    with_lease = [run for run in by_sensor if run.lease_spans]
    assert len(with_lease) >= 3
    assert all(run.tags["gpu"] == "true" for run in with_lease)
    assert all(("gpu" in run.tags) != ("cpu" in run.tags) for run in by_sensor)
    for run in (*started.by_way.values(), *started.of_backfill, *retries):
        assert run.tags["gpu"] == "true", run
        assert run.lease_spans, run
    for way in ("materialize", "graphql", "command", "reexecution"):
        assert started.by_way[way].status == "SUCCESS", way
    ingest = [run for run in started.runs if run.job == "ingest"]
    assert ingest
    assert all("gpu" not in run.tags and run.tags["cpu"] == "true" and not run.lease_spans for run in ingest)


def test_a_device_is_leased_to_one_model_stage_at_a_time(started: StartedRuns) -> None:
    assert max_concurrency([span for run in started.runs for span in run.lease_spans]) == 1


def test_no_more_runs_are_active_than_their_tag_allows(started: StartedRuns, gpu_run_limit: int) -> None:
    tagged_gpu = [run for run in started.runs if run.tags.get("gpu") == "true"]
    assert max_concurrency([(run.start_s, run.end_s) for run in tagged_gpu]) == gpu_run_limit
    tagged_cpu = [run for run in started.runs if run.tags.get("cpu") == "true"]
    assert max_concurrency([(run.start_s, run.end_s) for run in tagged_cpu]) <= 2


def test_a_run_requested_by_a_person_starts_before_a_backlog_ends(started: StartedRuns) -> None:
    assert started.by_way["materialize"].start_s < max(run.start_s for run in started.of_backfill)
