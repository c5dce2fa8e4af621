"""The checks of the PostgreSQL database: one sentence for each problem, without a password."""

import os
import shutil
import threading
from pathlib import Path

import psycopg2
import pytest

from cv_assets.asset_graph import AssetGraph
from resources.config.settings import Settings
from resources.dagster_instance.event_log import AssetHistory
from resources.dagster_instance.instance_storage import postgres_storage
from resources.dagster_instance.postgres_database import POSTGRES_VARIABLE, check_database, database_url
from resources.dagster_instance.postgres_migration import move_history_to_postgres, move_history_to_sqlite
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError
from tests.builders.postgres_server import ENCODED_PASSWORD, PASSWORD, PostgresServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def history() -> AssetHistory:
    return AssetGraph.build(Settings()).history


def database_error(data_folder: Path) -> str:
    """The sentence with which every command refuses to start."""
    with pytest.raises(PipelineError) as caught:
        prepare_data_folder(data_folder)
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


def test_a_database_serves_one_data_folder_also_after_the_folder_is_moved(
    history: AssetHistory, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    owner, other, copy, moved = (tmp_path / name for name in ("owner", "other", "copy", "moved"))
    choose_settings(data_folder=owner)
    prepare_data_folder(owner)
    move_history_to_postgres(owner, history)
    prepare_data_folder(owner)
    assert f"belongs to the data folder {owner}: give this data folder a database of its own" in database_error(other)
    shutil.copytree(owner, copy, symlinks=True)
    assert f"belongs to the data folder {owner}" in database_error(copy)
    owner.rename(moved)
    prepare_data_folder(moved)
    for file in moved.rglob("*"):
        if file.is_file() and not file.is_symlink():
            assert ENCODED_PASSWORD.encode() not in file.read_bytes(), file


def test_a_start_without_the_variable_is_refused_until_the_history_is_back_in_sqlite(
    history: AssetHistory, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_folder = tmp_path / "data"
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    choose_settings(data_folder=data_folder)
    prepare_data_folder(data_folder)
    move_history_to_postgres(data_folder, history)
    monkeypatch.delenv(POSTGRES_VARIABLE)
    assert "is in PostgreSQL (test_" in database_error(data_folder)
    with pytest.raises(PipelineError, match="is not set"):
        move_history_to_sqlite(data_folder, history)
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    move_history_to_sqlite(data_folder, history)
    monkeypatch.delenv(POSTGRES_VARIABLE)
    check_database(data_folder)
    assert POSTGRES_VARIABLE not in os.environ


def test_a_database_of_another_dagster_instance_is_refused(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster import DagsterInstance, job, op

    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    prepare_data_folder(choose_settings(data_folder=tmp_path / "other").data_folder)

    @op
    def other_op() -> None: ...

    @job
    def other_job() -> None:
        other_op()

    with DagsterInstance.get() as instance:
        instance.create_run_for_job(other_job)
    assert "belongs to another Dagster instance" in database_error(tmp_path / "data")


def test_queries_wait_while_the_server_restarts(
    postgres_server: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    url = database_url()
    assert url is not None
    daemon_storage, webserver_storage = postgres_storage(url), postgres_storage(url)
    for part in (
        webserver_storage.run_storage,
        webserver_storage.event_log_storage,
        webserver_storage.schedule_storage,
    ):
        part.optimize_for_webserver(statement_timeout=5000, pool_recycle=-1, max_overflow=20)
    for storage in (daemon_storage, webserver_storage):
        assert storage.run_storage.get_runs_count() == 0
    postgres_server.stop()
    # The query waits in a thread; the server is started again only after it has begun to wait.
    query = threading.Thread(
        target=daemon_storage.event_log_storage.add_dynamic_partitions, args=("recordings", ["a-1"])
    )
    query.start()
    query.join(1.0)
    assert query.is_alive()
    postgres_server.start()
    query.join(30)
    for storage in (daemon_storage, webserver_storage):
        assert storage.event_log_storage.get_dynamic_partitions("recordings") == ["a-1"]
