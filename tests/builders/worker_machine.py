"""A further machine under test: `cv-assets worker` with a home of its own, on the data folder of a pipeline."""

import signal
import subprocess

from tests.builders.command_line import CV_ASSETS
from tests.builders.running_pipeline import RunningPipeline


class WorkerMachine:
    """The workers of one queue on a machine of their own: another home means other device leases.

    Args:
        pipeline: The pipeline whose runs they execute.
        name: Name of the machine.
        options: Options of `cv-assets worker`.
    """

    def __init__(self, pipeline: RunningPipeline, name: str, *options: str) -> None:
        self._pipeline, self._options = pipeline, options
        self.home = pipeline.folder / name
        self.home.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the command; its workers' names contain it."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What its workers have printed."""
        return (self.home / "worker.log").read_text(errors="replace")

    def start(self) -> None:
        """Start the workers."""
        environment = {name: value for name, value in self._pipeline.environment.items() if name != "XDG_CACHE_HOME"}
        with (self.home / "worker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(CV_ASSETS), "worker", *self._options, "--settings", str(self._pipeline.settings_file)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment | {"HOME": str(self.home)},
                cwd=self.home,
            )

    def kill(self) -> None:
        """Kill the command as the kernel does when memory is short."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> int:
        """Stop the workers as a service manager does; returns the exit status."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(90)
        finally:
            self._process.kill()
            self._process = None
