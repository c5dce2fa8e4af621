"""Launches and ends runs through the GraphQL API of Dagster's UI, which `cv-assets dev` serves."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resources.dagster_instance.server_addresses import DAGSTER_UI, read_address
from resources.errors import PipelineError
from serve.problems import ProblemError

_TIMEOUT_S = 60.0
_SELECTOR = {
    "repositoryLocationName": "cv_assets",
    "repositoryName": "__repository__",
    "pipelineName": "__ASSET_JOB",
}
_LAUNCH = """
mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }
"""
_TERMINATE = """
mutation($runIds: [String!]!) { terminateRuns(runIds: $runIds, terminatePolicy: SAFE_TERMINATE) {
  __typename ... on PythonError { message }
  ... on TerminateRunsResult { terminateRunResults { __typename ... on TerminateRunFailure { message } } } } }
"""


class DagsterClient:
    """The API of the UI of a data folder's pipeline.

    Args:
        data_folder: The data folder.
    """

    def __init__(self, data_folder: Path) -> None:
        self._data_folder = data_folder

    @property
    def address(self) -> str | None:
        """Address of the UI; None while it does not run."""
        return read_address(self._data_folder, DAGSTER_UI)

    def launch_run(self, asset_names: Sequence[str], tags: Mapping[str, str]) -> str:
        """Launch a run that materializes assets; returns its id.

        Raises:
            PipelineError: The UI does not run.
            ProblemError: Dagster refuses the run.
        """
        params = {
            "selector": {**_SELECTOR, "assetSelection": [{"path": [name]} for name in asset_names]},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        answer = self._send(_LAUNCH, {"params": params})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise ProblemError(409, f"Dagster refuses the run: {answer.get('message') or answer['__typename']}.")
        return str(answer["run"]["runId"])

    def terminate_runs(self, run_ids: Sequence[str]) -> None:
        """End runs that are queued or executing.

        Raises:
            PipelineError: The UI does not run.
            ProblemError: Dagster cannot end a run.
        """
        answer = self._send(_TERMINATE, {"runIds": list(run_ids)})["terminateRuns"]
        results = [answer, *answer.get("terminateRunResults", ())]
        for result in results:
            if message := result.get("message"):
                raise ProblemError(
                    409, f"Dagster cannot end the run now: {str(message).rstrip('.')}. Try again in a few seconds."
                )

    def _send(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        address = self.address
        if address is None:
            raise PipelineError("The pipeline does not run, so no run can be launched or ended: start cv-assets dev.")
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
        # Without the proxies of the environment: the address is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_TIMEOUT_S) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(300).decode(errors="replace").strip()
            raise PipelineError(f"Dagster's UI at {address} answers {error.code}: {text}") from error
        except (OSError, ValueError) as error:
            raise PipelineError(f"Dagster's UI at {address} cannot be reached: start cv-assets dev again.") from error
        if errors := answer.get("errors"):
            raise PipelineError(f"Dagster's UI answers: {errors[0].get('message', 'an error')}")
        data: dict[str, Any] = answer["data"]
        return data
