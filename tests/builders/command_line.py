"""Runs `cv-assets` as a person or a cron job does: in a process of its own, with a settings file of the test."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from resources.dagster_instance.postgres_database import POSTGRES_VARIABLE
from tests.builders.locations import BUNDLED_WEIGHTS

CV_ASSETS = Path(sys.executable).with_name("cv-assets")


def clean_environment(postgres_url: str | None = None) -> dict[str, str]:
    """The environment without this project's variables, except for the database of Dagster's history if given."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CV_ASSETS_", "DAGSTER_", "PYTEST_")) or name == "CV_ASSETS_CORPUS"
    }
    return environment | ({POSTGRES_VARIABLE: postgres_url} if postgres_url else {})


def write_settings(folder: Path, weights: Path = BUNDLED_WEIGHTS, **sections: Any) -> Path:
    """Write pipeline.yaml and create the watched folder recordings/; returns the settings file."""
    file = folder / "pipeline.yaml"
    settings = {"detections": {"weights": str(weights)}, "ingest": {"settle_s": 1.0}, **sections}
    file.write_text(yaml.safe_dump(settings))
    (folder / "recordings").mkdir(exist_ok=True)
    return file


def run_cv_assets(
    *arguments: object, timeout_s: float = 300, postgres_url: str | None = None, standard_input: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `cv-assets` with some arguments to its end."""
    return subprocess.run(
        [str(CV_ASSETS), *(str(argument) for argument in arguments)],
        capture_output=True,
        input=standard_input,
        text=True,
        env=clean_environment(postgres_url),
        timeout=timeout_s,
        cwd="/",
    )
