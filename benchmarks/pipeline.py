"""The pipeline as `cv-assets dev` runs it, on a folder of its own, to be watched, asked and killed."""

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

from benchmarks.material import BUNDLED_WEIGHTS
from resources.results import open_results, results_path

_LOADED = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"


class Pipeline:
    """UI, daemon and code server on a folder with settings, recordings/ and data/.

    Args:
        home: The folder; made if it is not there.
        settings: For pipeline.yaml, beside the bundled weights.
    """

    def __init__(self, home: Path, **settings: Any) -> None:
        home = home.absolute()
        self.home, self.watched, self.data = home, home / "recordings", home / "data"
        self.watched.mkdir(parents=True, exist_ok=True)
        self.settings = home / "pipeline.yaml"
        self.settings.write_text(yaml.safe_dump({"detections": {"weights": str(BUNDLED_WEIGHTS)}, **settings}))
        self._server: subprocess.Popen[bytes] | None = None
        self._port = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it until the block ends."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def start(self) -> None:
        """Start it, and wait until the UI has loaded the code."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port = int(found.getsockname()[1])
        program, *arguments = self._command()
        command = [str(Path(sys.executable).with_name(program)), *arguments, "--port", str(self._port)]
        with (self.home / "dev.log").open("ab") as log:
            # Nothing of what another case has chosen for this process.
            clean = {
                name: value for name, value in os.environ.items() if not name.startswith(("CV_ASSETS_", "DAGSTER_"))
            }
            self._server = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=self.home,
                env=clean,
            )
        self.until(self.is_loaded, 180, "the UI to load the code")

    def _command(self) -> list[str]:
        return ["cv-assets", "dev", "--settings", str(self.settings)]

    def stop(self) -> None:
        """Stop it as a service manager does."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait(90)
            self._server = None

    @property
    def has_ended(self) -> bool:
        """Whether `cv-assets dev` itself is gone."""
        return self._server is None or self._server.poll() is not None

    def is_loaded(self) -> bool:
        """Whether the UI answers and has loaded the code."""
        with suppress(OSError):
            return bool(self.ask(_LOADED)["repositoriesOrError"].get("nodes"))
        return False

    def drop(self, file: Path) -> None:
        """Put a copy of a file into the watched folder, there all at once."""
        partial = self.watched / f".{file.name}"
        shutil.copyfile(file, partial)
        partial.rename(self.watched / file.name)

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Ask the UI over GraphQL.

        Raises:
            OSError: It does not answer.
            RuntimeError: It answers with an error.
        """
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        if "errors" in found:
            raise RuntimeError(str(found["errors"])[:500])
        data: dict[str, Any] = found["data"]
        return data

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the newest results; nothing yet is an empty answer."""
        if not results_path(self.data).exists():
            return []
        with open_results(self.data) as results:
            return results.execute(query).fetchall()

    def until(self, look: Callable[[], Any], seconds: float, what: str, every_s: float = 0.25) -> None:
        """Wait until a look finds something.

        Raises:
            TimeoutError: It never did.
        """
        started = time.monotonic()
        while not look():
            if time.monotonic() - started > seconds:
                raise TimeoutError(f"Waited {seconds:.0f} s in vain for {what}; see {self.home / 'dev.log'}.")
            time.sleep(every_s)

    def processes(self, *words: str) -> list[psutil.Process]:
        """Its processes in whose command lines all the words stand."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            with suppress(psutil.Error):
                is_ours = process.environ().get("DAGSTER_HOME") == str(self.data / "dagster")
                if is_ours and all(word in line for word in words):
                    found.append(process)
        return found

    def cpu_s(self) -> float:
        """Seconds of CPU that it has used, its children included."""
        if self._server is None:
            return 0.0
        server = psutil.Process(self._server.pid)
        return sum(sum(process.cpu_times()[:2]) for process in (server, *server.children(recursive=True)))

    def kill(self, kind: str, chance: random.Random) -> int:
        """Kill by SIGKILL: a run worker, the daemon, the webserver, the code server, or everything.

        Returns:
            How many processes were killed.
        """
        words: dict[str, Sequence[str]] = {
            "run worker": ("spawn_main",),
            "daemon": ("dagster._daemon",),
            "webserver": ("dagster_webserver",),
            "code server": ("dagster", "api", "grpc"),
            "everything": (),
        }
        found = self.processes(*words[kind])
        if kind == "everything":
            if self._server is not None:
                self._server.kill()
                self._server.wait()
                self._server = None
        elif kind == "run worker":
            found = [chance.choice(found)] if found else []
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        return len(found)


class EmptyDagster(Pipeline):
    """Dagster alone by its own defaults, with a code location that holds nothing: what a pipeline cannot go below.

    Args:
        home: A folder for it.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        (self.home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")  # read where it is started
        (self.home / "empty.py").write_text("import dagster\n\ndefs = dagster.Definitions()\n")

    def _command(self) -> list[str]:
        return ["dagster", "dev", "-f", str(self.home / "empty.py")]

    def stop(self) -> None:
        """Kill it: it has nothing to lose, and asked to end it sometimes stays."""
        if self._server is not None:
            server = psutil.Process(self._server.pid)
            for process in (server, *server.children(recursive=True)):
                process.kill()
            self._server.wait()
            self._server = None
