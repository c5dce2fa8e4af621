"""The instance file: the copy of dagster.yaml in DAGSTER_HOME, with the storage and run launcher of the commands."""

import os
from pathlib import Path

import yaml

from resources.config.settings_file import PROJECT_ROOT
from resources.dagster_instance.postgres_database import POSTGRES_VARIABLE, database_url

_HEADER = "# Written by cv-assets at every start from {source}: edit that file.\n"


def write_instance_file(dagster_home: Path) -> None:
    """Write dagster.yaml into DAGSTER_HOME; processes that run never see a partial file.

    Without a configured database the copy names no storage, so that Dagster uses SQLite in DAGSTER_HOME, also after
    the data folder was moved. Else it names the environment variable with the URL, and so contains no password.

    Args:
        dagster_home: Dagster's home; it exists.

    Raises:
        PipelineError: The configured database has no valid URL.
    """
    source = PROJECT_ROOT / "dagster.yaml"
    config = yaml.safe_load(source.read_text(encoding="utf-8"))
    del config["storage"]
    # `dagster dev` by hand starts no workers, so only the copy names the launcher that needs them.
    config["run_launcher"] = {"module": "resources.dagster_instance.run_launcher", "class": "WorkerRunLauncher"}
    if database_url() is not None:
        config["storage"] = {"postgres": {"postgres_url": {"env": POSTGRES_VARIABLE}}}
    text = _HEADER.format(source=source) + yaml.safe_dump(config, sort_keys=False)
    target = dagster_home / "dagster.yaml"
    if not target.is_symlink() and target.exists() and target.read_text(encoding="utf-8") == text:
        return
    draft = dagster_home / f".dagster.yaml.{os.getpid()}"
    draft.write_text(text, encoding="utf-8")
    draft.replace(target)
