"""A real pipeline under test: UI, daemon and code server as `make dev` starts them, driven over GraphQL."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from resources.postgres import POSTGRES_VARIABLE
from resources.results import open_results, results_path
from tests.conftest import BUNDLED_WEIGHTS

_T = TypeVar("_T")
CV_ASSETS = Path(sys.executable).with_name("cv-assets")
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


def clean_environment(postgres_url: str | None = None) -> dict[str, str]:
    """The environment of a person who has set nothing of ours but, if given, the database of Dagster's history."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CV_ASSETS_", "DAGSTER_", "PYTEST_")) or name == "CV_ASSETS_CORPUS"
    }
    return environment | ({POSTGRES_VARIABLE: postgres_url} if postgres_url else {})


def write_settings(folder: Path, weights: Path = BUNDLED_WEIGHTS, **more: Any) -> Path:
    """A settings file in a folder, with a watched folder and a data folder beside it."""
    file = folder / "pipeline.yaml"
    settings = {"detections": {"weights": str(weights)}, "intake": {"settle_s": 1.0}, **more}
    file.write_text(yaml.safe_dump(settings))
    (folder / "recordings").mkdir(exist_ok=True)
    return file


class Stack:
    """`cv-assets dev` on folders of its own, with Dagster's history in SQLite or a given PostgreSQL database."""

    def __init__(self, folder: Path, postgres_url: str | None = None, **settings: Any) -> None:
        self.folder = folder
        self.environment = clean_environment(postgres_url)
        self.watched, self.data = folder / "recordings", folder / "data"
        self.settings = write_settings(folder, **settings)
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = int(found.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until the UI has loaded the code."""
        with (self.folder / "dev.log").open("ab") as log:
            self._process = subprocess.Popen(
                [CV_ASSETS, "dev", "--settings", self.settings, "--port", str(self.port)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                start_new_session=True,
            )
        self.until(lambda: self.is_loaded(), 120, "the code location to load")

    def stop(self) -> None:
        """Stop as a service manager does, and wait for the end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            finally:
                self._process.kill()
                self._process = None

    def kill(self) -> None:
        """End `cv-assets dev` as a power cut does; what it started lives on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def until(self, look: Callable[[], _T], seconds: float, what: str) -> _T:
        """Wait until a look finds something; fails with the end of the log when it never does."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := look():
                return found
            assert self._process is None or self._process.poll() is None, self._log()
            time.sleep(0.5)
        raise AssertionError(f"Waited {seconds:.0f} s in vain for {what}.\n{self._log()}")

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the webserver."""
        body = json.dumps({"query": query, "variables": dict(variables or {})}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = json.loads(answer.read())
        assert "errors" not in found, found
        data: dict[str, Any] = found["data"]
        return data

    def materialize(
        self, job: str, assets: Sequence[str], recording_id: str, tags: Mapping[str, str] | None = None
    ) -> str:
        """Launch a run as the UI's Materialize button does; returns its id. No assets means all of the job."""
        params = {
            "selector": {
                **_REPOSITORY,
                "pipelineName": job,
                **({"assetSelection": [{"path": [name]} for name in assets]} if assets else {}),
            },
            "executionMetadata": {
                "tags": [
                    {"key": key, "value": value}
                    for key, value in {"dagster/partition": recording_id, **(tags or {})}.items()
                ]
            },
        }
        answer = self.graphql(_LAUNCH, {"params": params})["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def launch(self, job: str) -> str:
        """Launch a job without assets as the UI's Launchpad does; returns the run's id."""
        params = {"selector": {**_REPOSITORY, "pipelineName": job}}
        answer = self.graphql(_LAUNCH, {"params": params})["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def backfill(self, assets: Sequence[str], recording_ids: Sequence[str]) -> str:
        """Launch a backfill as the UI does; returns its id."""
        params = {"assetSelection": [{"path": [name]} for name in assets], "partitionNames": list(recording_ids)}
        answer = self.graphql(_BACKFILL, {"params": params})["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return str(answer["backfillId"])

    def run(self, run_id: str) -> dict[str, Any]:
        """Status and tags of a run."""
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status tags { key value } } } }"
        found: dict[str, Any] = self.graphql(query, {"id": run_id})["runOrError"]
        return found

    def backfill_status(self, backfill_id: str) -> str:
        """Status of a backfill."""
        query = (
            "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
        )
        return str(self.graphql(query, {"id": backfill_id})["partitionBackfillOrError"]["status"])

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the newest results; nothing yet is an empty answer."""
        if not results_path(self.data).exists():
            return []
        with open_results(self.data) as results:
            return results.execute(query).fetchall()

    def is_loaded(self) -> bool:
        """Whether the UI answers and has loaded the code."""
        query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
        try:
            return bool(self.graphql(query)["repositoriesOrError"].get("nodes"))
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def _log(self) -> str:
        log = self.folder / "dev.log"
        return log.read_text(errors="replace")[-6000:] if log.exists() else ""
