"""dagster.yaml in DAGSTER_HOME: storage as configured, no password, the workers' launcher; else as in the project."""

from pathlib import Path

import pytest
import yaml

from resources.config.settings_file import PROJECT_ROOT
from resources.dagster_instance.instance_file import write_instance_file
from resources.dagster_instance.postgres_database import POSTGRES_VARIABLE
from resources.dagster_instance.run_launcher import WorkerRunLauncher
from resources.errors import PipelineError


def written_config(home: Path) -> dict[str, object]:
    write_instance_file(home)
    assert [file.name for file in home.iterdir()] == ["dagster.yaml"]
    config: dict[str, object] = yaml.safe_load((home / "dagster.yaml").read_text())
    return config


def test_only_storage_and_launcher_differ_from_the_projects_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_config = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())
    assert project_config.pop("storage") == {"sqlite": {"base_dir": "data/dagster"}}
    assert "run_launcher" not in project_config  # `dagster dev` by hand starts no workers
    project_config["run_launcher"] = {"module": WorkerRunLauncher.__module__, "class": WorkerRunLauncher.__name__}
    assert written_config(tmp_path) == project_config
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql+psycopg2://user:secret@host/database")
    storage = {"postgres": {"postgres_url": {"env": POSTGRES_VARIABLE}}}
    assert written_config(tmp_path) == project_config | {"storage": storage}
    assert "secret" not in (tmp_path / "dagster.yaml").read_text()
    monkeypatch.delenv(POSTGRES_VARIABLE)
    assert written_config(tmp_path) == project_config


def test_the_link_of_an_older_version_is_replaced_and_the_projects_file_is_kept(tmp_path: Path) -> None:
    project_text = (PROJECT_ROOT / "dagster.yaml").read_text()
    (tmp_path / "dagster.yaml").symlink_to(PROJECT_ROOT / "dagster.yaml")
    assert "storage" not in written_config(tmp_path)
    assert not (tmp_path / "dagster.yaml").is_symlink()
    assert (PROJECT_ROOT / "dagster.yaml").read_text() == project_text


def test_an_unchanged_file_is_not_written_again(tmp_path: Path) -> None:
    write_instance_file(tmp_path)
    before = (tmp_path / "dagster.yaml").stat()
    write_instance_file(tmp_path)
    after = (tmp_path / "dagster.yaml").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_invalid_url_leaves_the_file_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_instance_file(tmp_path)
    before = (tmp_path / "dagster.yaml").read_text()
    monkeypatch.setenv(POSTGRES_VARIABLE, "mysql://user:secret@host/database")
    with pytest.raises(PipelineError, match="not the URL of a PostgreSQL database"):
        write_instance_file(tmp_path)
    assert (tmp_path / "dagster.yaml").read_text() == before
