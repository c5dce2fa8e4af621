"""The private parts of Dagster that the wings need. No other module of the wings uses a private part of Dagster.

`tests/resources/dagster_instance/test_private_api.py` fails with the name of Dagster's version if one of them changes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import dagster
from dagster import AssetKey, DagsterInstance, StepExecutionContext

if TYPE_CHECKING:
    from dagster._core.launcher import CheckRunHealthResult
    from dagster._core.workspace.context import WorkspaceProcessContext


def add_asset_metadata(
    step: StepExecutionContext, asset_name: str, metadata_by_partition: Mapping[str, Mapping[str, Any]]
) -> None:
    """Add metadata to the materialization of each partition of a run.

    The public context.add_asset_metadata checks each partition against all partitions: with ten thousand of them that
    takes a third of the time of a run of short recordings.
    """
    for partition, metadata in metadata_by_partition.items():
        step._metadata_accumulator = step._metadata_accumulator.with_additional_asset_metadata(
            AssetKey(asset_name), partition, metadata
        )


def open_workspace(instance: DagsterInstance, workspace_file: Path) -> "WorkspaceProcessContext":
    """Open the workspace that Dagster's web application serves; a context manager.

    The public ways to the web application are commands that serve it themselves, on a port that they leave unguarded.
    """
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget

    return WorkspaceProcessContext(instance, WorkspaceFileTarget([str(workspace_file)]), version=dagster.__version__)


def execute_launched_run(instance: DagsterInstance, run_id: str) -> None:
    """Execute a launched run in this process; errors of its steps are in the run's events.

    The public functions only execute runs that they create themselves. This is what Dagster's own command in the
    process of a run does.
    """
    from dagster._cli.api import _execute_run_command_body

    _execute_run_command_body(run_id, instance, lambda _: None, set_exit_code_on_failure=False)


def worker_health(*, is_alive: bool, message: str) -> "CheckRunHealthResult":
    """Build the answer of a run launcher to Dagster's run monitoring, whose type is not public."""
    from dagster._core.launcher import CheckRunHealthResult

    statuses = get_type_hints(CheckRunHealthResult)["status"]
    return CheckRunHealthResult(statuses.RUNNING if is_alive else statuses.FAILED, message)
