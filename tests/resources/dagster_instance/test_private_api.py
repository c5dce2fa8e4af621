"""The private parts of Dagster that the wings use: a new Dagster that changes one fails here, in a sentence."""

import asyncio
from pathlib import Path
from typing import Any

import dagster
import pytest
import yaml
from dagster import AssetExecutionContext, AssetKey, DagsterInstance, StaticPartitionsDefinition, asset, materialize

from resources.dagster_instance.private_api import (
    add_asset_metadata,
    execute_launched_run,
    open_workspace,
    worker_health,
)

HINT = f"Dagster {dagster.__version__} has changed `step._metadata_accumulator`: correct add_asset_metadata."


def test_metadata_is_added_to_the_materialization_of_each_partition() -> None:
    @asset(partitions_def=StaticPartitionsDefinition(["a", "b"]))
    def counts(context: AssetExecutionContext) -> None:
        step = context.get_step_execution_context()
        assert hasattr(step, "_metadata_accumulator"), HINT
        add_asset_metadata(step, "counts", {"a": {"rows": 3}})
        add_asset_metadata(step, "counts", {"a": {"seconds": 0.5}})

    with DagsterInstance.ephemeral() as instance:
        materialize([counts], instance=instance, partition_key="a")
        event = instance.get_latest_materialization_event(AssetKey("counts"))
        assert event is not None and event.asset_materialization is not None
        metadata = event.asset_materialization.metadata
    assert {name: value.value for name, value in metadata.items()} == {"rows": 3, "seconds": 0.5}, HINT


@pytest.mark.filterwarnings("ignore:Error loading repository location")
def test_the_workspace_is_served_by_dagsters_web_application(tmp_path: Path) -> None:
    from dagster_webserver.app import create_app_from_workspace_process_context

    hint = f"Dagster {dagster.__version__} has changed WorkspaceProcessContext or WorkspaceFileTarget: correct them."
    file = tmp_path / "workspace.yaml"
    server = {"socket": str(tmp_path / "none"), "location_name": "cv_assets"}
    file.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http", "method": "GET", "path": "/graphql", "query_string": b"query={workspaceOrError{...on Workspace"
        b"{locationEntries{name}}}}", "headers": [], "root_path": "", "http_version": "1.1", "scheme": "http",
    }  # fmt: skip
    with DagsterInstance.local_temp(str(tmp_path)) as instance, open_workspace(instance, file) as workspace:
        app = create_app_from_workspace_process_context(workspace, live_data_poll_rate=2000)
        asyncio.run(app(scope, receive, send))
    assert messages[0]["status"] == 200, hint
    assert b'"name":"cv_assets"' in messages[1]["body"], hint


def test_the_answer_to_run_monitoring_has_dagsters_type() -> None:
    hint = f"Dagster {dagster.__version__} has changed CheckRunHealthResult: correct worker_health."
    assert [worker_health(is_alive=alive, message="m").status.name for alive in (True, False)] == [
        "RUNNING",
        "FAILED",
    ], hint
    assert worker_health(is_alive=False, message="m").msg == "m", hint


def job_of_this_file() -> dagster.JobDefinition:
    @dagster.op
    def add() -> int:
        return 1

    @dagster.job(executor_def=dagster.in_process_executor)
    def sums() -> None:
        add()

    return sums


def test_a_launched_run_is_executed_in_this_process() -> None:
    hint = f"Dagster {dagster.__version__} has changed _execute_run_command_body: correct execute_launched_run."
    with dagster.instance_for_test() as instance:
        job = dagster.reconstructable(job_of_this_file)
        run = instance.create_run_for_job(job.get_definition(), job_code_origin=job.get_python_origin())
        execute_launched_run(instance, run.run_id)
        ended_run = instance.get_run_by_id(run.run_id)
    assert ended_run is not None and ended_run.status == dagster.DagsterRunStatus.SUCCESS, hint
