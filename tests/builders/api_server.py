"""`cv-assets serve` in a process of its own, as a person starts it."""

import re
import subprocess
import time
from pathlib import Path

import psutil

from tests.builders.command_line import CV_ASSETS, clean_environment, write_settings

_START_S = 60.0


class ApiServer:
    """A server of `folder`/data, whose watched folder is `folder`/recordings, on a free port.

    Args:
        folder: Gets pipeline.yaml, recordings/, data/ and serve.log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.watched_folder = folder, folder / "recordings"
        self._settings_file = write_settings(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def start(self) -> None:
        """Start the server, and wait until it prints its address."""
        log = self.folder / "serve.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(CV_ASSETS), "serve", "--settings", str(self._settings_file)],
                stdout=output, stderr=output, env=clean_environment(), cwd=self.folder,
            )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while not (match := re.search(r"Pages and API: (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert time.monotonic() < deadline and self._process.poll() is None, log.read_text()
            time.sleep(0.1)
        self.address = match[1]

    @property
    def memory_bytes(self) -> int:
        """Memory that the server has for itself, without the pages of libraries that others share."""
        assert self._process is not None
        memory = psutil.Process(self._process.pid).memory_info()
        return int(memory.rss - memory.shared)

    def stop(self) -> int:
        """Stop the server as a service manager does; returns its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def kill(self) -> None:
        """Kill the server."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
