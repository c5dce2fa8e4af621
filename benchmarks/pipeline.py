"""The pipeline as `cv-assets dev` runs it, on a folder of its own, to be watched, queried and killed."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.inputs import BUNDLED_WEIGHTS
from resources.storage.results_database import open_results, results_path

_LOADED = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"


class Pipeline:
    """UI, daemon and code server on a folder with settings, recordings/ and data/.

    Args:
        folder: The folder; created if it does not exist.
        sections: Sections of pipeline.yaml, in addition to the bundled weights.
    """

    def __init__(self, folder: Path, **sections: Any) -> None:
        folder = folder.absolute()
        self.folder, self.watched_folder, self.data_folder = folder, folder / "recordings", folder / "data"
        self.watched_folder.mkdir(parents=True, exist_ok=True)
        self.settings_file = folder / "pipeline.yaml"
        self.settings_file.write_text(yaml.safe_dump({"detections": {"weights": str(BUNDLED_WEIGHTS)}, **sections}))
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the pipeline until the block ends."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def start(self) -> None:
        """Start the pipeline, and wait until the UI has loaded the code location; its output goes into dev.log."""
        with socket.socket() as free_socket:
            free_socket.bind(("127.0.0.1", 0))
            self._port = int(free_socket.getsockname()[1])
        program, *arguments = self._command()
        command = [str(Path(sys.executable).with_name(program)), *arguments, "--port", str(self._port)]
        # Without the variables that another case has set in this process.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("CV_ASSETS_", "DAGSTER_"))
        }
        with (self.folder / "dev.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=self.folder,
                env=environment | self.variables,
            )
        self.wait_until(self.is_loaded, 180, "the UI to load the code location")

    @property
    def variables(self) -> dict[str, str]:
        """Further environment variables of the processes."""
        return {}

    def _command(self) -> list[str]:
        return ["cv-assets", "dev", "--settings", str(self.settings_file)]

    def stop(self) -> None:
        """Stop the pipeline as a service manager does."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(90)
            self._process = None

    @property
    def has_ended(self) -> bool:
        """Whether `cv-assets dev` itself has ended."""
        return self._process is None or self._process.poll() is not None

    def is_loaded(self) -> bool:
        """Whether the UI responds and has loaded the code location."""
        with suppress(OSError):
            return bool(self.graphql(_LOADED)["repositoriesOrError"].get("nodes"))
        return False

    def drop(self, file: Path) -> None:
        """Copy a file into the watched folder, where it appears complete."""
        partial = self.watched_folder / f".{file.name}"
        shutil.copyfile(file, partial)
        partial.rename(self.watched_folder / file.name)

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """Send a query to the UI; returns the data of the response.

        Raises:
            OSError: The UI does not respond.
            RuntimeError: The response is an error.
        """
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as http_response:
            response: dict[str, Any] = json.loads(http_response.read())
        if "errors" in response:
            raise RuntimeError(str(response["errors"])[:500])
        data: dict[str, Any] = response["data"]
        return data

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Query the newest results; no rows before the first publication."""
        if not results_path(self.data_folder).exists():
            return []
        with open_results(self.data_folder) as results:
            return results.execute(query).fetchall()

    def wait_until(
        self, condition: Callable[[], Any], timeout_s: float, description: str, interval_s: float = 0.25
    ) -> None:
        """Wait until a condition is true.

        Raises:
            TimeoutError: The time is over; the message shows what was waited for.
        """
        started_s = time.monotonic()
        while not condition():
            if time.monotonic() - started_s > timeout_s:
                raise TimeoutError(
                    f"Timed out after {timeout_s:.0f} s waiting for {description}; see {self.folder / 'dev.log'}."
                )
            time.sleep(interval_s)

    def processes(self, *words: str) -> list[psutil.Process]:
        """The processes of this pipeline whose command lines contain all the words."""
        processes = []
        for process in psutil.process_iter(["cmdline"]):
            command_line = " ".join(process.info["cmdline"] or [])
            with suppress(psutil.Error):
                is_of_pipeline = process.environ().get("DAGSTER_HOME") == str(self.data_folder / "dagster")
                if is_of_pipeline and all(word in command_line for word in words):
                    processes.append(process)
        return processes

    def cpu_s(self) -> float:
        """CPU seconds used so far, child processes included."""
        if self._process is None:
            return 0.0
        process = psutil.Process(self._process.pid)
        return sum(sum(child.cpu_times()[:2]) for child in (process, *process.children(recursive=True)))

    def kill(self, kind: str, rng: random.Random) -> int:
        """Kill by SIGKILL: a run worker, the daemon, the webserver, the code server, or everything.

        Returns:
            How many processes were killed.
        """
        words_by_kind: dict[str, Sequence[str]] = {
            "run worker": ("run_executor",),
            "daemon": ("dagster-daemon",),
            "webserver": ("serve.dagster_ui",),
            "code server": ("dagster", "api", "grpc"),
            "everything": (),
        }
        processes = self.processes(*words_by_kind[kind])
        if kind == "everything":
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._process = None
        elif kind == "run worker":
            processes = [rng.choice(processes)] if processes else []
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        return len(processes)


class EmptyDagster(Pipeline):
    """Dagster by its own defaults with an empty code location: the lower bound for what a pipeline costs.

    Args:
        folder: A folder for it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")  # read where Dagster is started
        (self.folder / "empty.py").write_text("import dagster\n\ndefs = dagster.Definitions()\n")

    @property
    def variables(self) -> dict[str, str]:
        """Further environment variables of the processes."""
        return {}

    def _command(self) -> list[str]:
        return ["dagster", "dev", "-f", str(self.folder / "empty.py")]

    def stop(self) -> None:
        """Kill the processes: they have nothing to lose, and after SIGTERM they sometimes stay."""
        if self._process is not None:
            process = psutil.Process(self._process.pid)
            for child in (process, *process.children(recursive=True)):
                child.kill()
            self._process.wait()
            self._process = None
