"""Tables on a real S3-compatible server: rows, copies, conflicts, kills, lost answers."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT
from resources.environment import prepare_data_folder
from resources.errors import PipelineError
from resources.schema.operations_tables import STAGE_RUNS
from resources.schema.summary_tables import CLASS_MINUTES
from resources.schema.track_tables import TRACK_BOXES
from resources.storage.bucket_files import BucketFiles
from resources.storage.bucket_tables import BucketTables
from resources.storage.delta_store import Store
from resources.storage.erasure import erase_old_files
from resources.storage.integrity import check_storage
from resources.storage.results_database import open_results, publish
from resources.storage.table_repair import TableRepair
from resources.storage.tables_choice import check_tables_url, record_tables_url
from tests.builders.class_minutes import class_minutes
from tests.builders.damaged_tables import flip_bytes, newest_file
from tests.builders.s3_server import S3Server

pytestmark = pytest.mark.slow
FOLDER = CLASS_MINUTES.name
_WRITER = """
import sys
from pathlib import Path
from resources.storage.delta_store import Store
from resources.schema.summary_tables import CLASS_MINUTES
from tests.builders.class_minutes import class_minutes
store, writer = Store(Path(sys.argv[1])), sys.argv[2]
"""


@pytest.fixture
def bucket_store(tmp_path: Path, tables_url: str) -> Store:
    """A store whose tables are in the bucket."""
    data_folder = tmp_path / "data"
    data_folder.mkdir()
    record_tables_url(data_folder, tables_url)
    return Store(data_folder)


def _start(store: Store, writer: str, code: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", _WRITER + code, str(store.data_folder), writer])


def test_rows_are_in_the_bucket_and_read_from_copies(bucket_store: Store, tables_url: str) -> None:
    store = bucket_store
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 1))
    store.append(CLASS_MINUTES, class_minutes("b", 2))
    store.update(CLASS_MINUTES, "a", {"track_count": 7})
    assert store.read(CLASS_MINUTES, ["a"])["track_count"].to_pylist() == [7]
    assert store.read(CLASS_MINUTES).num_rows == store.row_count(CLASS_MINUTES) == 3
    assert not (store.tables_folder / FOLDER / "_delta_log").exists()
    assert {Path(file).parent for file in store.files(CLASS_MINUTES)} == {store.tables_folder / FOLDER}
    other = Store(store.data_folder.parent / "other")
    other.data_folder.mkdir()
    record_tables_url(other.data_folder, tables_url)
    assert other.versions() == store.versions()
    assert other.read(CLASS_MINUTES).num_rows == 3


def test_results_are_read_without_the_storage(bucket_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_folder=bucket_store.data_folder)
    bucket_store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    commits = bucket_store.commit_times()
    assert publish(bucket_store, settings)
    assert not publish(bucket_store, settings)
    bucket_store.append(CLASS_MINUTES, class_minutes("b", 2))
    assert bucket_store.commit_times() != commits
    assert publish(bucket_store, settings)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with open_results(bucket_store.data_folder) as connection:
        assert connection.execute(f"SELECT count(*) FROM {CLASS_MINUTES.published_name}").fetchall() == [(5,)]


def test_writers_of_two_processes_lose_no_rows(bucket_store: Store) -> None:
    code = """
for turn in range(4):
    store.append(CLASS_MINUTES, class_minutes(f"{writer}{turn}", 2))
    store.replace(CLASS_MINUTES, ["shared"], class_minutes("shared", 3))
"""
    assert [writer.wait(120) for writer in [_start(bucket_store, name, code) for name in "ab"]] == [0, 0]
    assert bucket_store.row_count(CLASS_MINUTES) == 2 * 4 * 2 + 3
    assert bucket_store.read(CLASS_MINUTES, ["shared"]).num_rows == 3


def test_a_kill_while_rows_are_replaced_leaves_all_old_or_all_new_ones(bucket_store: Store) -> None:
    code = """
for turn in range(10**9):
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 100, track_count=turn))
    store.read(CLASS_MINUTES)
"""
    for attempt in range(2):
        before = bucket_store.versions().get(FOLDER, 0)
        writer = _start(bucket_store, "a", code)
        deadline = time.monotonic() + 60
        while bucket_store.versions().get(FOLDER, 0) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.Random(attempt).uniform(0, 0.1))
        writer.kill()
        writer.wait()
        rows = bucket_store.read(CLASS_MINUTES)
        assert rows.num_rows == 100
        assert len(rows["track_count"].unique()) == 1
        assert check_storage(bucket_store, contents=True).damages == ()
    bucket_store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 1))
    assert bucket_store.read(CLASS_MINUTES).num_rows == 1


def test_a_commit_whose_answer_is_lost_is_not_repeated(bucket_store: Store, s3_server: S3Server) -> None:
    command = [sys.executable, "-m", "tests.builders.s3_proxy", s3_server.endpoint, FOLDER]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT_ROOT) as proxy,
        pytest.MonkeyPatch.context() as m,
    ):
        try:
            assert proxy.stdout is not None
            m.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{int(proxy.stdout.readline())}")
            store = Store(bucket_store.data_folder)
            store.append(CLASS_MINUTES, class_minutes("a", 2))
        finally:
            proxy.kill()
    assert bucket_store.row_count(CLASS_MINUTES) == 2


def test_copies_are_made_again_and_removed_with_their_objects(
    bucket_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = bucket_store, bucket_store.tables_folder / FOLDER
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 3))
    assert store.read(CLASS_MINUTES).num_rows == 3
    flip_bytes(folder)
    assert check_storage(store, contents=True).damages == ()
    assert store.read(CLASS_MINUTES)["track_count"].to_pylist() == [0, 1, 2]
    newest_file(folder).unlink()
    assert check_storage(store).damages == ()
    assert len([*folder.glob("*.parquet")]) == 1

    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 1))
    assert store.read(CLASS_MINUTES).num_rows == 1
    assert len([*folder.glob("*.parquet")]) == 2
    delta = store.location.open(FOLDER)
    delta.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    store.vacuum(CLASS_MINUTES)
    assert [str(file) for file in folder.glob("*.parquet")] == store.files(CLASS_MINUTES)
    assert len([*(folder / "_checksums").iterdir()]) == 1


def test_erased_rows_are_in_no_object_and_no_copy(bucket_store: Store) -> None:
    store = bucket_store
    store.append(CLASS_MINUTES, class_minutes("a", 3))
    store.append(CLASS_MINUTES, class_minutes("b", 2))
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 0))
    assert erase_old_files(store, CLASS_MINUTES, "recording_id", ["a"]) == 1
    assert erase_old_files(store, CLASS_MINUTES, "recording_id", ["a"]) == 0
    assert store.read(CLASS_MINUTES)["recording_id"].to_pylist() == ["b", "b"]


def test_a_deleted_object_is_found_and_repaired(bucket_store: Store) -> None:
    store = bucket_store
    store.append(CLASS_MINUTES, class_minutes("a", 3))
    store.append(CLASS_MINUTES, class_minutes("b", 2))
    (name,) = (Path(file).name for file in store.files(CLASS_MINUTES) if _has_rows_of(file, "a"))
    store.location.delete_file(FOLDER, name)
    report = check_storage(store)
    assert [damage.files[0].problem for damage in report.damages] == ["is missing"]
    with pytest.raises(PipelineError, match=f"^{FOLDER}: its file {name}"):
        store.read(CLASS_MINUTES)
    repair = TableRepair(store)
    assert repair.repair(report).damages == ()
    assert store.read(CLASS_MINUTES)["recording_id"].to_pylist() == ["b", "b"]


def _has_rows_of(file: str, recording_id: str) -> bool:
    import pyarrow.parquet as pq

    return recording_id in pq.read_table(file)["recording_id"].to_pylist()


@pytest.mark.parametrize(
    ("variables", "url", "sentence"),
    [
        (
            {},
            "s3://no-such-bucket/p",
            r"^tables_url: s3://no-such-bucket/p cannot be used, because its bucket does not",
        ),
        ({"AWS_SECRET_ACCESS_KEY": "x"}, "s3://tables/p", "^tables_url: s3://tables/p refuses these credentials: set"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            "s3://tables/p",
            r"^tables_url: s3://tables/p cannot be reached at http://127.0.0.1:1 \(Connection refused",
        ),
    ],
    ids=["bucket", "credentials", "endpoint"],
)
def test_a_start_names_what_is_wrong(
    tmp_path: Path,
    tables_url: str,
    variables: dict[str, str],
    url: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PipelineError, match=sentence):
        prepare_data_folder(Settings(data_folder=tmp_path / "data", tables_url=url))
    assert not (tmp_path / "data" / "tables_url").exists()


def test_a_lost_connection_is_one_sentence_and_rows_are_kept(
    bucket_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket_store.append(CLASS_MINUTES, class_minutes("a", 3))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    away = Store(bucket_store.data_folder)
    away.location = BucketTables(away.tables_folder, away.location.address, patience_s=0)
    operations: list[Callable[[], object]] = [
        lambda: away.read(STAGE_RUNS),
        lambda: away.append(CLASS_MINUTES, class_minutes("b", 1)),
        lambda: away.versions(),
        lambda: away.scan(TRACK_BOXES, ["a"]),
        lambda: check_storage(away),
        lambda: publish(away, Settings(data_folder=away.data_folder)),
    ]
    for operation in operations:
        with pytest.raises(PipelineError, match=r"^tables_url: s3://\S+ cannot be reached at http://127.0.0.1:1"):
            operation()


def test_tables_are_not_lost_from_view_by_a_changed_setting(tmp_path: Path, tables_url: str) -> None:
    data_folder = tmp_path / "data"
    prepare_data_folder(Settings(data_folder=data_folder, tables_url=tables_url))
    prepare_data_folder(Settings(data_folder=data_folder, tables_url=tables_url))
    for other_url, text in ((None, "not set"), ("s3://tables/other", "s3://tables/other")):
        with pytest.raises(
            PipelineError, match=f"^tables_url is {text}, but the tables of the data folder .* are at s3:"
        ):
            prepare_data_folder(Settings(data_folder=data_folder, tables_url=other_url))
    entries = BucketFiles(tables_url, patience_s=0).list_entries("", is_recursive=True)
    assert [entry.path for entry in entries if entry.size] == []
    local = Store(tmp_path / "local")
    local.append(CLASS_MINUTES, class_minutes("a", 1))
    with pytest.raises(PipelineError, match=r"^tables_url is s3://.*, but the tables of the data folder .* are in "):
        check_tables_url(local.data_folder, tables_url)
