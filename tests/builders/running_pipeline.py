"""A real pipeline under test: UI, daemon and code server as `make dev` starts them, operated over GraphQL."""

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from resources.config.settings_file import PROJECT_ROOT, SETTINGS_VARIABLE
from resources.storage.results_database import open_results, results_path
from tests.builders.command_line import CV_ASSETS, clean_environment, write_settings

_T = TypeVar("_T")
_REPOSITORY = {"repositoryLocationName": "cv_assets", "repositoryName": "__repository__"}

_LAUNCH = """
mutation($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
_BACKFILL = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""


class RunningPipeline:
    """`cv-assets dev` on folders of its own, with Dagster's history in SQLite or in a PostgreSQL database.

    Args:
        folder: Gets pipeline.yaml, recordings/, data/ and dev.log.
        postgres_url: The database of Dagster's history; None means SQLite.
        sections: Sections of pipeline.yaml.
    """

    def __init__(self, folder: Path, postgres_url: str | None = None, **sections: Any) -> None:
        self.folder = folder
        self.environment = clean_environment(postgres_url)
        self.watched_folder, self.data_folder = folder / "recordings", folder / "data"
        self.settings_file = write_settings(folder, **sections)
        with socket.socket() as free_socket:
            free_socket.bind(("127.0.0.1", 0))
            self.port = int(free_socket.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start the pipeline with options of `cv-assets dev`, and wait until the UI has loaded the code location."""
        command = [str(CV_ASSETS), "dev", "--settings", str(self.settings_file), "--port", str(self.port)]
        self._start([*command, *options])

    def start_by_hand(self) -> None:
        """Run `dagster dev` without DAGSTER_HOME in the folder, which gets the project's files, as a developer does."""
        for name in ("dagster.yaml", "dg.toml", "workspace.yaml", "pyproject.toml"):
            shutil.copy(PROJECT_ROOT / name, self.folder)
        self._start(
            [str(CV_ASSETS.with_name("dagster")), "dev", "--host", "127.0.0.1", "--port", str(self.port)],
            **{SETTINGS_VARIABLE: str(self.settings_file)},
        )

    def _start(self, command: Sequence[str], **variables: str) -> None:
        with (self.folder / "dev.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment | variables,
                cwd=self.folder,
                start_new_session=True,
            )
        self.wait_until(self.is_loaded, 120, "the code location to load")

    def stop(self) -> None:
        """Stop the pipeline as a service manager does, and wait for its end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            finally:
                self._process.kill()
                self._process = None

    def kill(self) -> None:
        """Kill `cv-assets dev` itself; the processes that it started go on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def processes(self, *words: str) -> list[psutil.Process]:
        """The processes of this pipeline whose command lines contain all the words."""
        processes = []
        for process in psutil.process_iter(["cmdline"]):
            command_line = " ".join(process.info["cmdline"] or [])
            try:
                is_of_pipeline = process.environ().get("DAGSTER_HOME") == str(self.data_folder / "dagster")
            except psutil.Error:
                continue
            if is_of_pipeline and all(word in command_line for word in words):
                processes.append(process)
        return processes

    def wait_until(self, condition: Callable[[], _T], timeout_s: float, description: str) -> _T:
        """Wait until a condition is true, and return its value.

        Args:
            condition: Called again and again; true values end the waiting.
            timeout_s: How long to wait.
            description: What is waited for, for the error.

        Raises:
            AssertionError: The time is over, or `cv-assets dev` has ended; the message shows the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if value := condition():
                return value
            assert self._process is None or self._process.poll() is None, self._log_tail()
            time.sleep(0.5)
        raise AssertionError(f"Timed out after {timeout_s:.0f} s waiting for {description}.\n{self._log_tail()}")

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a query to the webserver; returns the data of the response."""
        body = json.dumps({"query": query, "variables": dict(variables or {})}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as http_response:
            response = json.loads(http_response.read())
        assert "errors" not in response, response
        data: dict[str, Any] = response["data"]
        return data

    def materialize(
        self, job: str, assets: Sequence[str], recording_id: str, tags: Mapping[str, str] | None = None
    ) -> str:
        """Launch a run as the UI's Materialize button does; returns its id. No assets means all of the job."""
        run_tags = {"dagster/partition": recording_id, **(tags or {})}
        params = {
            "selector": {
                **_REPOSITORY,
                "pipelineName": job,
                **({"assetSelection": [{"path": [name]} for name in assets]} if assets else {}),
            },
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in run_tags.items()]},
        }
        return self._launch(params)

    def launch(self, job: str) -> str:
        """Launch a job without assets as the UI's Launchpad does; returns the run's id."""
        return self._launch({"selector": {**_REPOSITORY, "pipelineName": job}})

    def backfill(self, assets: Sequence[str], recording_ids: Sequence[str]) -> str:
        """Launch a backfill as the UI does; returns its id."""
        params = {"assetSelection": [{"path": [name]} for name in assets], "partitionNames": list(recording_ids)}
        response = self.graphql(_BACKFILL, {"params": params})["launchPartitionBackfill"]
        assert response["__typename"] == "LaunchBackfillSuccess", response
        return str(response["backfillId"])

    def run(self, run_id: str) -> dict[str, Any]:
        """Status and tags of a run."""
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status tags { key value } } } }"
        run: dict[str, Any] = self.graphql(query, {"id": run_id})["runOrError"]
        return run

    def backfill_status(self, backfill_id: str) -> str:
        """Status of a backfill."""
        query = (
            "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
        )
        return str(self.graphql(query, {"id": backfill_id})["partitionBackfillOrError"]["status"])

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Query the newest results; no rows before the first publication."""
        if not results_path(self.data_folder).exists():
            return []
        with open_results(self.data_folder) as results:
            return results.execute(query).fetchall()

    def is_loaded(self) -> bool:
        """Whether the UI responds and has loaded the code location."""
        query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
        try:
            return bool(self.graphql(query)["repositoriesOrError"].get("nodes"))
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def _launch(self, params: Mapping[str, Any]) -> str:
        response = self.graphql(_LAUNCH, {"params": params})["launchPipelineExecution"]
        assert response["__typename"] == "LaunchRunSuccess", response
        return str(response["run"]["runId"])

    def _log_tail(self) -> str:
        log = self.folder / "dev.log"
        return log.read_text(errors="replace")[-6000:] if log.exists() else ""
