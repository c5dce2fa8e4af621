"""Which database keeps the history, whether it can be used, and whose it is: one sentence, without a password."""

import os
import shutil
import threading
from pathlib import Path

import psycopg2
import pytest

from cv_assets.history import bring_history, leave_postgres
from resources.dagster_storage import postgres_storage
from resources.errors import PipelineError
from resources.home import choose, prepare_data_folder
from resources.postgres import POSTGRES_VARIABLE, check_database, database_url
from tests.postgres import ENCODED_PASSWORD, PASSWORD, PostgresServer


def refusal(data_folder: Path) -> str:
    """The sentence with which every command refuses."""
    with pytest.raises(PipelineError) as refused:
        prepare_data_folder(data_folder)
    told = str(refused.value)
    assert PASSWORD not in told and ENCODED_PASSWORD not in told
    assert "\n" not in told
    return told


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("mysql://u:secret@h/d", "is no URL of a database"),
        ("postgresql://u:p@ss/w:rd@h:5432/d", "is no URL of a database"),  # an @ and a / that were not encoded
        ("secret", "is no URL of a database"),
        ("postgresql://u@127.0.0.1:5432/", "is no URL of a database"),
        ("postgresql://u:secret@127.0.0.1:1/d", "cannot be used: Connection refused"),
        ("postgresql://u:secret@host.invalid/d", "cannot be used: could not translate host name"),
        ("postgresql://u:secret@127.0.0.1:1/d?nonsense=1", "has options that PostgreSQL does not know"),
    ],
)
def test_a_database_that_cannot_be_is_told_in_one_sentence(
    url: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_VARIABLE, url)
    told = refusal(tmp_path / "data")
    assert sentence in told
    assert "secret" not in told


def test_what_the_server_refuses_is_told_in_its_words(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_server.url("missing"))
    assert 'database "missing" does not exist' in refusal(tmp_path / "data")
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url.replace(ENCODED_PASSWORD, "wrong"))
    assert 'password authentication failed for user "owner"' in refusal(tmp_path / "data")
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS guest")
        cursor.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM public")
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url.replace(f"owner:{ENCODED_PASSWORD}", "guest:guest"))
    assert "The user guest may not create tables" in refusal(tmp_path / "data")


def test_a_database_serves_one_data_folder_wherever_it_is_moved(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    mine, other, copy, moved = (tmp_path / name for name in ("mine", "other", "copy", "moved"))
    choose(data_folder=mine)
    prepare_data_folder(mine)
    bring_history(mine)
    prepare_data_folder(mine)
    assert f"belongs to the data folder {mine}: give this data folder a database of its own" in refusal(other)
    shutil.copytree(mine, copy, symlinks=True)
    assert f"belongs to the data folder {mine}" in refusal(copy)
    mine.rename(moved)
    prepare_data_folder(moved)
    for file in moved.rglob("*"):
        if file.is_file() and not file.is_symlink():
            assert ENCODED_PASSWORD.encode() not in file.read_bytes(), file


def test_a_start_without_the_variable_is_refused_until_the_history_is_back(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    choose(data_folder=data)
    prepare_data_folder(data)
    bring_history(data)
    monkeypatch.delenv(POSTGRES_VARIABLE)
    assert "lies in PostgreSQL (test_" in refusal(data)
    with pytest.raises(PipelineError, match="is not set"):
        leave_postgres(data)
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    leave_postgres(data)
    monkeypatch.delenv(POSTGRES_VARIABLE)
    check_database(data)
    assert POSTGRES_VARIABLE not in os.environ


def test_a_database_of_another_dagster_is_left_alone(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster import DagsterInstance, job, op

    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    prepare_data_folder(choose(data_folder=tmp_path / "theirs").data_folder)

    @op
    def work() -> None: ...

    @job
    def theirs() -> None:
        work()

    with DagsterInstance.get() as instance:
        instance.create_run_for_job(theirs)
    assert "belongs to another Dagster instance" in refusal(tmp_path / "mine")


def test_a_restart_of_the_server_is_not_seen_by_who_asks_after_it(
    postgres_server: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres_url)
    url = database_url()
    assert url is not None
    daemons, webservers = postgres_storage(url), postgres_storage(url)
    for part in (webservers.run_storage, webservers.event_log_storage, webservers.schedule_storage):
        part.optimize_for_webserver(statement_timeout=5000, pool_recycle=-1, max_overflow=20)
    for storage in (daemons, webservers):
        assert storage.run_storage.get_runs_count() == 0
    postgres_server.stop()
    # Who works waits for it, here in a thread; it is started only after that has begun to wait.
    waiting = threading.Thread(target=daemons.event_log_storage.add_dynamic_partitions, args=("recordings", ["a-1"]))
    waiting.start()
    waiting.join(1.0)
    assert waiting.is_alive()
    postgres_server.start()
    waiting.join(30)
    for storage in (daemons, webservers):
        assert storage.event_log_storage.get_dynamic_partitions("recordings") == ["a-1"]
