"""docs/deploy.md: its commands and the service units, with real servers, as far as one machine allows."""

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.config.settings_file import PROJECT_ROOT
from tests.builders.command_line import CV_ASSETS, clean_environment
from tests.builders.locations import BUNDLED_WEIGHTS
from tests.builders.redis_server import RedisServer

pytestmark = pytest.mark.long
SHARE = "/srv/cv-assets"
PAGE = (PROJECT_ROOT / "docs" / "deploy.md").read_text()
COMMANDS = [
    command
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for command in re.split(r"\n| && ", block.strip())
]


class Deployment:
    """The page's commands in a folder of the test instead of the share.

    Args:
        folder: The folder.
        addresses: By variable, the address of a server of the test.
    """

    def __init__(self, folder: Path, addresses: dict[str, str]) -> None:
        self.share = folder / "share"
        self.share.mkdir()
        (block,) = re.findall(r"^```ini\n(CV_ASSETS_.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
        documented = dict(line.split("=", 1) for line in block.replace(SHARE, str(self.share)).splitlines())
        assert addresses.keys() < documented.keys()
        self._environment = clean_environment() | documented | addresses
        self._environment["PATH"] = f"{CV_ASSETS.parent}{os.pathsep}{os.environ['PATH']}"
        self._log = folder / "services.log"
        self.services: list[subprocess.Popen[bytes]] = []

    def run(self, *command: str) -> str:
        """Run a command to its end; returns its output."""
        process = subprocess.run(
            command, capture_output=True, text=True, env=self._environment, cwd=self.share, timeout=300, check=False
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    def run_of_page(self, start: str) -> str:
        """Run each command of the page that starts with some words; returns the output of the last."""
        commands = list(dict.fromkeys(command for command in COMMANDS if command.startswith(start)))
        assert commands, start
        return [self.run(*shlex.split(command.replace(SHARE, str(self.share)))) for command in commands][-1]

    def start_unit(self, name: str, options: str = "") -> None:
        """Start the program of a service unit, and have `stop` end it as systemd does."""
        unit = (PROJECT_ROOT / "deploy" / "systemd" / name).read_text()
        (command,) = re.findall(r"^ExecStart=/opt/cv-assets/\.venv/bin/(.*)$", unit, re.MULTILINE)
        with self._log.open("ab") as log:
            self.services.append(
                subprocess.Popen(
                    shlex.split(command.replace("$WORKER_OPTIONS", options)),
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    env=self._environment,
                    cwd=PROJECT_ROOT,
                )
            )

    def stop(self) -> list[int]:
        """Stop all services, the last first; returns their exit statuses."""
        statuses = []
        for service in reversed(self.services):
            service.send_signal(signal.SIGTERM)
            statuses.append(service.wait(90))
        self.services.clear()
        return statuses

    def wait_for(self, text: str, *command: str) -> None:
        """Wait until the output of a command contains a text."""
        deadline_s = time.monotonic() + 600
        while True:
            process = subprocess.run(
                command, capture_output=True, text=True, env=self._environment, cwd=self.share, check=False
            )
            if text in process.stdout:
                return
            assert time.monotonic() < deadline_s, process.stdout + process.stderr + self._log.read_text()[-3000:]
            assert all(service.poll() is None for service in self.services), self._log.read_text()[-3000:]
            time.sleep(2)


@pytest.fixture
def deployment(tmp_path: Path, redis_server: RedisServer, postgres_url: str) -> Iterator[Deployment]:
    addresses = {
        "CV_ASSETS_POSTGRES": postgres_url,
        "CV_ASSETS_BROKER": redis_server.url,
        "CELERY_BROKER_URL": redis_server.url,
    }
    deployment = Deployment(tmp_path, addresses)
    yield deployment
    deployment.stop()


def test_the_commands_of_the_page_lead_to_results(deployment: Deployment) -> None:
    deployment.run_of_page("mkdir -p /srv/cv-assets/recordings")
    deployment.run_of_page("cv-assets init")
    settings_file = deployment.share / "pipeline.yaml"
    settings = yaml.safe_load(settings_file.read_text())
    settings["detections"]["weights"] = str(BUNDLED_WEIGHTS)
    settings_file.write_text(yaml.safe_dump(settings | {"ingest": {"settle_s": 1.0}}))
    assert "PostgreSQL: test_" in deployment.run_of_page("cv-assets doctor")

    worker_options = re.findall(r"""^echo 'WORKER_OPTIONS="(.*)"' > """, PAGE, re.MULTILINE)
    assert len(set(worker_options)) == 3
    deployment.start_unit("cv-assets.service")
    deployment.wait_for("dagster.yaml", "ls", "data/dagster")
    for options in dict.fromkeys(worker_options):
        deployment.start_unit("cv-assets-worker@.service", options.replace("cuda:0", "cpu"))
    deployment.wait_for("queue cpu: ", "cv-assets", "doctor")
    write_video(demo_scene(1, 3, {"car": 1}), deployment.share / "recordings" / "a.mp4")
    deployment.wait_for("ok", "cv-assets", "sql", "SELECT status FROM recordings JOIN summaries USING (recording_id)")
    assert "-gpu-" in deployment.run_of_page("cv-assets sql")
    assert deployment.stop() == [0, 0, 0, 0]
    left = [process for process in psutil.process_iter(["cmdline"]) if str(deployment.share) in str(process.info)]
    assert left == []
