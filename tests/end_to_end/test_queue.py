"""However a run is started, the queue bounds it: when model stages really ran, and how many runs there were at once."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cv_assets.commands.headless import script
from demo.scenes import demo_scene, write_video
from resources.settings import PROJECT_ROOT
from tests.end_to_end.stack import Stack

MODEL = ["detections"]
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
    """A run as the UI tells of it, and the spans in which it held a device, in seconds since 1970."""

    run_id: str
    job: str
    status: str
    tags: dict[str, str]
    start_s: float
    end_s: float
    holds: tuple[tuple[float, float], ...]


def all_runs(stack: Stack) -> list[Run]:
    found = []
    for run in stack.graphql(_RUNS)["runsOrError"]["results"]:
        events = stack.graphql(_MESSAGES, {"id": run["runId"]})["logsForRun"]["events"]
        told = [(event["message"], int(event["timestamp"]) / 1e3) for event in events if event]
        holds = [at for message, at in told if message.startswith("Holds ")]
        ends = [at for message, at in told if message.startswith("Gives back ")]
        has_ended = run["status"] in ("SUCCESS", "FAILURE")
        assert len(holds) == len(ends) or not has_ended
        tags = {tag["key"]: tag["value"] for tag in run["tags"]}
        found.append(
            Run(
                run["runId"],
                run["pipelineName"],
                run["status"],
                tags,
                run["startTime"] or 0.0,
                run["endTime"] or 0.0,
                tuple(zip(holds, ends, strict=has_ended)),
            )
        )
    return found


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """How many spans lie over each other at most; one that begins as another ends does not."""
    edges = sorted([(end, -1) for _, end in spans] + [(start, 1) for start, _ in spans])
    count = most = 0
    for _, change in edges:
        count += change
        most = max(most, count)
    return most


def reexecute(stack: Stack, run_id: str) -> str:
    params = {"parentRunId": run_id, "strategy": "FROM_FAILURE"}
    answer = stack.graphql(_REEXECUTE, {"params": params})["launchPipelineReexecution"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def launch_by_command(stack: Stack, recording_id: str) -> None:
    """`dagster job launch`, as an operator's script would."""
    tags = json.dumps({"dagster/partition": recording_id, "way": "command"})
    command = [script("dagster"), "job", "launch", "-w", str(PROJECT_ROOT / "workspace.yaml"), "-j", "analysis"]
    environment = {
        **stack.environment,
        "DAGSTER_HOME": str(stack.data / "dagster"),
        "CV_ASSETS_SETTINGS": str(stack.settings),
    }
    ended = subprocess.run(
        [*command, "--tags", tags], env=environment, capture_output=True, text=True, timeout=120, cwd=stack.data
    )
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.long), 2])
def limit(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def runs(
    limit: int, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Any]]:
    """Every way of starting a run, at once on one pipeline; with limit 1 on PostgreSQL."""
    url = request.getfixturevalue("postgres_server").create_database("queue") if limit == 1 else None
    # The sensor's second attempt may come before what the model lacks is given back: a third makes all well again.
    queue, batches = {"gpu_runs": limit, "cpu_runs": 2}, {"max_recordings": 1, "max_attempts": 3}
    stack = Stack(tmp_path_factory.mktemp(f"queue-{limit}"), url, queue=queue, batches=batches)
    for number in range(3):
        write_video(demo_scene(number, 4, {"car": 1}), stack.watched / f"clip {number}.mp4")
    stack.start()
    try:
        stack.until(lambda: stack.sql("SELECT count(*) FROM summaries") == [(3,)], 240, "three summaries by sensors")
        ids = [str(row[0]) for row in stack.sql("SELECT recording_id FROM recordings ORDER BY source_path")]
        yield started_in_every_way(stack, ids, limit)
    finally:
        stack.stop()


def started_in_every_way(stack: Stack, ids: list[str], limit: int) -> dict[str, Any]:
    backfill_id = stack.backfill(MODEL, ids)
    backfilled = [("dagster/backfill", backfill_id)]
    stack.until(
        lambda: sum(backfilled[0] in run.tags.items() for run in all_runs(stack)) == 3, 120, "the backfill's runs"
    )
    # A model that cannot work on the second recording for now.
    video = stack.data / "media" / ids[1] / "normalized.mp4"
    kept = video.rename(Path(stack.folder) / "kept.mp4")
    ways = {
        "materialize": stack.materialize("__ASSET_JOB", MODEL, ids[0]),
        "graphql": stack.materialize("analysis", [], ids[2]),
        "retried": stack.materialize("__ASSET_JOB", MODEL, ids[1], {"dagster/max_retries": "1"}),
    }
    launch_by_command(stack, ids[0])

    def all_ended() -> list[Run]:
        found = all_runs(stack)
        is_retried = any(run.tags.get("dagster/retry_number") == "1" for run in found)
        return found if is_retried and all(run.status in ("SUCCESS", "FAILURE") for run in found) else []

    stack.until(all_ended, 240, "all runs to end")
    kept.rename(video)
    ways["reexecution"] = reexecute(stack, ways["retried"])

    def all_well() -> list[Run]:
        return all_ended() if stack.sql("SELECT count(*) FROM recordings WHERE status = 'ok'") == [(3,)] else []

    # Ends as all that the failures left undone is done again. What the sensor may start after that is not looked at: a
    # run gets its tag when it is queued, just after it has come to be.
    found = stack.until(all_well, 240, "all to be well again")
    ways["command"] = next(run.run_id for run in found if run.tags.get("way") == "command")
    return {"ways": ways, "runs": found, "backfill": backfilled[0]}


def test_every_way_is_tagged_and_held_a_device(runs: dict[str, Any]) -> None:
    by_id = {run.run_id: run for run in runs["runs"]}
    ways = {way: by_id[run_id] for way, run_id in runs["ways"].items()}
    sensed = [run for run in runs["runs"] if run.tags.get("dagster/sensor_name") == "reconciliation"]
    backfilled = [run for run in runs["runs"] if runs["backfill"] in run.tags.items()]
    retries = [run for run in runs["runs"] if run.tags.get("dagster/retry_number") == "1"]
    assert (len(backfilled), len(retries)) == (3, 1)
    # What the sensor makes once only the model's own asset was made by hand needs no device.
    looked = [run for run in sensed if run.holds]
    assert len(looked) >= 3
    assert all(run.tags["gpu"] == "true" for run in looked)
    assert all(("gpu" in run.tags) != ("cpu" in run.tags) for run in sensed)
    for run in (*ways.values(), *backfilled, *retries):
        assert run.tags["gpu"] == "true", run
        assert run.holds, run
    for way in ("materialize", "graphql", "command", "reexecution"):
        assert ways[way].status == "SUCCESS", way
    ingest = [run for run in runs["runs"] if run.job == "ingest"]
    assert ingest
    assert all("gpu" not in run.tags and run.tags["cpu"] == "true" and not run.holds for run in ingest)


def test_a_device_served_one_model_stage_at_a_time(runs: dict[str, Any]) -> None:
    assert most_at_once([span for run in runs["runs"] for span in run.holds]) == 1


def test_no_more_runs_than_the_tag_allows(runs: dict[str, Any], limit: int) -> None:
    tagged = [run for run in runs["runs"] if run.tags.get("gpu") == "true"]
    assert most_at_once([(run.start_s, run.end_s) for run in tagged]) == limit
    untagged = [run for run in runs["runs"] if run.tags.get("cpu") == "true"]
    assert most_at_once([(run.start_s, run.end_s) for run in untagged]) <= 2


def test_what_a_person_asks_for_overtakes_a_backlog(runs: dict[str, Any]) -> None:
    by_id = {run.run_id: run for run in runs["runs"]}
    backfilled = [run for run in runs["runs"] if runs["backfill"] in run.tags.items()]
    assert by_id[runs["ways"]["materialize"]].start_s < max(run.start_s for run in backfilled)
