"""The checks of the PostgreSQL database: one sentence for each problem, without a password."""

import os
import shutil
from pathlib import Path

import psycopg2
import pytest
from dagster import DagsterInstance, job, op

from resources.config.settings import Settings
from resources.dagster_instance.postgres_database import (
    POSTGRES_VARIABLE,
    check_database,
    database_url,
    name_postgres_driver,
)
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError
from tests.builders.postgres_server import ENCODED_PASSWORD, PASSWORD, PostgresServer

pytestmark = pytest.mark.slow


def database_error(data_folder: Path) -> str:
    """The sentence with which every command refuses to start."""
    with pytest.raises(PipelineError) as caught:
        prepare_data_folder(Settings(data_folder=data_folder))
    sentence = str(caught.value)
    assert PASSWORD not in sentence and ENCODED_PASSWORD not in sentence
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://u:secret@h/d", "is not the URL of a PostgreSQL database"),
        ("postgresql://u:p@ss/w:rd@h:5432/d", "is not the URL of a PostgreSQL database"),  # @ and / are not encoded
        ("secret", "is not the URL of a PostgreSQL database"),
        ("postgresql://u@127.0.0.1:5432/", "is not the URL of a PostgreSQL database"),
        ("postgresql+asyncpg://u:secret@h/d", r"names the driver asyncpg, which Dagster's storage cannot use"),
        ("postgresql://u:secret@127.0.0.1:1/d", "cannot be used: Connection refused"),
        ("postgresql://u:secret@host.invalid/d", "cannot be used: could not translate host name"),
        ("postgresql://u:secret@127.0.0.1:1/d?nonsense=1", "has options that PostgreSQL does not know"),
    ],
)
def test_an_unusable_database_is_reported_in_one_sentence(
    url: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_VARIABLE, url)
    sentence = database_error(tmp_path / "data")
    assert expected in sentence
    assert "secret" not in sentence


def test_errors_of_the_server_are_reported_in_its_words(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_server.url("missing"))
    assert 'database "missing" does not exist' in database_error(tmp_path / "data")
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url.replace(ENCODED_PASSWORD, "wrong"))
    assert 'password authentication failed for user "owner"' in database_error(tmp_path / "data")
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS guest")
        cursor.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM public")
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url.replace(f"owner:{ENCODED_PASSWORD}", "guest:guest"))
    assert "The user guest may not create tables" in database_error(tmp_path / "data")


def test_a_url_without_a_driver_gets_the_one_that_dagster_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://user:p%40ss@host/database?sslmode=require")
    expected = "postgresql+psycopg2://user:p%40ss@host/database?sslmode=require"
    for _ in range(2):
        name_postgres_driver()
        assert os.environ[POSTGRES_VARIABLE] == expected
    url = database_url()
    assert url is not None and url.get_dialect().driver == "psycopg2"
    monkeypatch.delenv(POSTGRES_VARIABLE)
    name_postgres_driver()
    assert POSTGRES_VARIABLE not in os.environ


def test_dagster_keeps_its_history_in_the_configured_database(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    prepare_data_folder(choose_settings(data_folder=tmp_path))
    with DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("recordings", ["a-1"])
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT partition FROM dynamic_partitions")
        assert cursor.fetchall() == [("a-1",)]


def test_a_database_serves_one_data_folder_also_after_the_folder_is_moved(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    owner, other, copy, moved = (tmp_path / name for name in ("owner", "other", "copy", "moved"))
    prepare_data_folder(choose_settings(data_folder=owner))
    assert not check_database(owner)
    assert f"belongs to the data folder {owner}: give this data folder a database of its own" in database_error(other)
    shutil.copytree(owner, copy)
    assert f"belongs to the data folder {owner}" in database_error(copy)
    owner.rename(moved)
    assert check_database(moved)
    prepare_data_folder(Settings(data_folder=moved))
    assert not check_database(moved)
    assert f"belongs to the data folder {moved}" in database_error(other)
    for file in moved.rglob("*"):
        if file.is_file():
            assert ENCODED_PASSWORD.encode() not in file.read_bytes(), file


def test_a_database_of_another_dagster_instance_is_refused(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @op
    def other_op() -> None: ...

    @job
    def other_job() -> None:
        other_op()

    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    name_postgres_driver()
    home = tmp_path / "other"
    home.mkdir()
    (home / "dagster.yaml").write_text(f"storage: {{postgres: {{postgres_url: {{env: {POSTGRES_VARIABLE}}}}}}}")
    with DagsterInstance.from_config(str(home)) as instance:
        instance.create_run_for_job(other_job)
    assert "belongs to another Dagster instance" in database_error(tmp_path / "data")
