"""Damage of tables is found, reported in a sentence, and repaired without deleting anything."""

import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.schema.operations_tables import STAGE_RUNS
from resources.schema.recording_tables import RECORDING_CLOCKS
from resources.schema.summary_tables import CLASS_MINUTES, HEATMAP_CELLS
from resources.storage import delta_writes
from resources.storage.commit_recorder import Commit
from resources.storage.delta_store import Store
from resources.storage.integrity import StorageReport, check_storage
from resources.storage.results_database import publish
from resources.storage.stage_runs import StageRun, append_stage_runs
from resources.storage.table_repair import TableRepair
from tests.builders.class_minutes import class_minutes
from tests.builders.damaged_tables import (
    FILE_DAMAGES,
    LOG_DAMAGES,
    DamageTable,
    flip_bytes,
    lose_newest_entry,
    newest_file,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FOLDER = CLASS_MINUTES.name


def process(store: Store, name: str, count: int, minute: int = 0, status: str = "ok") -> None:
    """Store the rows of a recording and its attempt, as the batch loop does."""
    store.commits.start()
    store.replace(CLASS_MINUTES, [name], class_minutes(name, count))
    append(store, name, store.commits.stop(), minute, status)


def append(store: Store, name: str, commits: Sequence[Commit] | None, minute: int = 0, status: str = "ok") -> None:
    ended_at = NOON + timedelta(minutes=minute)
    version = "d" if status == "ok" else None
    run = StageRun(name, "summaries", 1, status, f"run {minute}", ended_at, "person", None, version, commits=commits)
    append_stage_runs(store, [run])


def lost_ids(store: Store) -> list[str]:
    return [result.recording_id for result in check_storage(store).lost]


def repair(store: Store) -> tuple[StorageReport, TableRepair]:
    tables = TableRepair(store)
    return tables.repair(check_storage(store, contents=True)), tables


@pytest.fixture
def two(store: Store) -> Store:
    """A store with 2 rows of the recording a, and then 3 rows of the recording b."""
    process(store, "a", 2)
    process(store, "b", 3, minute=1)
    return store


def test_an_attempt_records_its_commits_and_nothing_else(two: Store) -> None:
    two.replace(CLASS_MINUTES, ["c"], class_minutes("c", 1))  # outside an attempt
    commits = {row["recording_id"]: row["commits"] for row in two.read(STAGE_RUNS).to_pylist()}
    shared = {"table_name": "class_minutes"}
    assert commits == {
        "a": [shared | {"recording_id": "a", "delta_version": 1, "row_count": 2}],
        "b": [shared | {"recording_id": "b", "delta_version": 2, "row_count": 3}],
    }
    assert two.commits.stop() == []


def test_whole_tables_have_no_damage(two: Store) -> None:
    publish(two, Settings())
    for contents in (False, True):
        report = check_storage(two, contents=contents)
        assert (report.damages, report.lost, report.rewritten) == ((), (), ())
        assert report.durable_versions[CLASS_MINUTES.name] == 2


def test_an_empty_data_folder_has_no_damage(store: Store) -> None:
    report = check_storage(store, contents=True)
    assert (report.damages, report.lost, report.table_count) == ((), (), 0)


def test_a_lost_commit_is_found_and_names_its_recording(two: Store) -> None:
    lose_newest_entry(two.tables_folder / FOLDER)
    report = check_storage(two)
    assert report.damages == ()
    assert report.lost_sentences == [
        f"class_minutes: rows of 1 recording are lost or outdated (b): run cv-assets repair --data {two.data_folder}."
    ]


def test_a_lost_commit_is_found_after_others_have_taken_its_number(two: Store) -> None:
    process(two, "b", 3, minute=2)  # computed again, with as many rows
    lose_newest_entry(two.tables_folder / FOLDER)
    process(two, "c", 1, minute=3)
    assert two.row_count(CLASS_MINUTES) == 6
    assert lost_ids(two) == ["b"]
    process(two, "b", 3, minute=4)
    assert lost_ids(two) == []


def test_a_lost_table_loses_every_recording(two: Store) -> None:
    shutil.rmtree(two.tables_folder / FOLDER)
    assert lost_ids(two) == ["a", "b"]


def test_rows_of_another_attempt_than_the_recorded_one_are_outdated(two: Store) -> None:
    two.replace(CLASS_MINUTES, ["a"], class_minutes("a", 1))  # by a run that was killed before it recorded it
    assert lost_ids(two) == ["a"]
    assert check_storage(two, is_idle=False).lost == ()  # may be in progress


def test_failed_and_rejected_recordings_lose_nothing(two: Store) -> None:
    append(two, "a", None, minute=3, status="failed")
    append(two, "b", None, minute=3, status="rejected")
    shutil.rmtree(two.tables_folder / FOLDER)
    assert lost_ids(two) == []


def test_rows_of_another_recording_belong_to_the_attempt_that_wrote_them(two: Store) -> None:
    two.commits.start()
    two.replace(CLASS_MINUTES, ["a", "b"], pa.concat_tables([class_minutes("a", 1), class_minutes("b", 1)]))
    append(two, "a", two.commits.stop(), minute=2)
    assert lost_ids(two) == []
    lose_newest_entry(two.tables_folder / FOLDER)
    assert lost_ids(two) == ["a", "b"]


def test_rows_without_recorded_commits_are_no_loss(two: Store) -> None:
    append(two, "old", None)
    two.replace(CLASS_MINUTES, ["old"], class_minutes("old", 4))
    assert lost_ids(two) == []
    two.replace(CLASS_MINUTES, ["old", "b"], class_minutes("old", 0))
    assert lost_ids(two) == ["b"]


@pytest.mark.parametrize("damage", [*LOG_DAMAGES, *FILE_DAMAGES])
def test_damage_is_reported_in_a_sentence_and_repaired(two: Store, damage: DamageTable) -> None:
    damage(two.tables_folder / FOLDER)
    (sentence,) = check_storage(two).damage_sentences
    assert sentence.startswith("class_minutes: its ")
    assert sentence.endswith(f": run cv-assets repair --data {two.data_folder}.")
    with pytest.raises(PipelineError, match="class_minutes: its "):
        Store(two.data_folder).read(CLASS_MINUTES)
        Store(two.data_folder).check_readable(CLASS_MINUTES)
    report, tables = repair(two)
    assert report.damages == ()
    assert [result.recording_id for result in report.lost] == ["b"]
    assert two.read(CLASS_MINUTES)["recording_id"].unique().to_pylist() == ["a"]
    moved_names = {file.name for file in tables.folder.rglob("*") if file.is_file()}
    assert len(moved_names) == tables.moved_count == (0 if damage.__name__ == "lose_file" else 1)
    process(two, "b", 3, minute=5)
    assert lost_ids(two) == []


def test_flipped_bytes_are_found_by_their_checksum(two: Store) -> None:
    flip_bytes(two.tables_folder / FOLDER)
    assert check_storage(two).damages == ()
    (sentence,) = check_storage(two, contents=True).damage_sentences
    assert "with rows of b, has another content than when it was written" in sentence
    report, _ = repair(two)
    assert [result.recording_id for result in report.lost] == ["b"]


def test_a_file_without_checksum_is_decoded(two: Store) -> None:
    shutil.rmtree(two.tables_folder / FOLDER / "_checksums")
    assert check_storage(two, contents=True).damages == ()
    file = newest_file(two.tables_folder / FOLDER)
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    (sentence,) = check_storage(two, contents=True).damage_sentences
    assert "with rows of b, cannot be read (" in sentence


@pytest.mark.parametrize("damage", [*LOG_DAMAGES, *FILE_DAMAGES])
def test_commits_that_no_attempt_has_recorded_are_undone_at_a_start(two: Store, damage: DamageTable) -> None:
    two.replace(CLASS_MINUTES, ["a"], class_minutes("a", 5))
    damage(two.tables_folder / FOLDER)
    report = TableRepair(two).undo_unfinished_commits(check_storage(two))
    assert (report.damages, report.lost) == ((), ())
    assert two.read(CLASS_MINUTES, ["a"]).num_rows == 2  # those of the attempt before


@pytest.mark.parametrize("damage", [*LOG_DAMAGES, *FILE_DAMAGES])
def test_a_table_whose_first_commit_was_cut_off_is_moved_aside(store: Store, damage: DamageTable) -> None:
    append(store, "a", [])
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 5))
    lose_newest_entry(store.tables_folder / FOLDER)
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 5))
    damage(store.tables_folder / FOLDER)
    report = TableRepair(store).undo_unfinished_commits(check_storage(store))
    assert (report.damages, report.lost) == ((), ())
    assert store.read(CLASS_MINUTES).num_rows == 0
    process(store, "a", 5)
    assert lost_ids(store) == []


@pytest.mark.parametrize("damage", [*LOG_DAMAGES, *FILE_DAMAGES])
def test_recorded_commits_are_never_undone_at_a_start(two: Store, damage: DamageTable) -> None:
    damage(two.tables_folder / FOLDER)
    tables = TableRepair(two)
    assert len(tables.undo_unfinished_commits(check_storage(two)).damages) == 1
    assert tables.moved_count == 0


def test_nothing_is_undone_where_older_versions_have_recorded_no_commits(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 2))
    append(store, "a", None)
    LOG_DAMAGES[0](store.tables_folder / FOLDER)
    tables = TableRepair(store)
    assert len(tables.undo_unfinished_commits(check_storage(store)).damages) == 1
    assert tables.moved_count == 0


@pytest.mark.parametrize("damage", [*LOG_DAMAGES, *FILE_DAMAGES, lose_newest_entry])
def test_lost_attempts_are_no_loss_of_results_and_can_be_appended_again(two: Store, damage: DamageTable) -> None:
    damage(two.tables_folder / STAGE_RUNS.name)
    report = check_storage(two)
    assert [found.table_name for found in report.damages] == ([] if damage is lose_newest_entry else ["stage_runs"])
    report, _ = repair(two)
    assert (report.damages, report.lost) == ((), ())
    assert two.read(STAGE_RUNS)["recording_id"].to_pylist() == ["a"]
    append(two, "b", None, minute=7)
    assert two.row_count(STAGE_RUNS) == 2


def test_published_versions_show_that_other_tables_have_lost_commits(two: Store) -> None:
    clocks = {"recording_id": "a", "started_at_utc": NOON, "started_at_source": "mtime"}
    publish(two, Settings())
    two.replace(RECORDING_CLOCKS, ["a"], pa.Table.from_pylist([clocks], RECORDING_CLOCKS.arrow_schema))
    two.replace(HEATMAP_CELLS, ["a"], HEATMAP_CELLS.empty)
    publish(two, Settings())
    for table in (RECORDING_CLOCKS, HEATMAP_CELLS):
        lose_newest_entry(two.tables_folder / table.name)
    report = check_storage(two)
    assert [sentence.partition(":")[0] for sentence in report.rewritten] == ["recording_clocks"]
    assert [damage.table_name for damage in report.damages] == ["heatmap_cells"]
    publish(two, Settings())
    assert check_storage(two).damages == ()


def lose_checkpoint(log: Path) -> None:
    next(log.glob("*.checkpoint.parquet")).unlink()


def cut_checkpoint(log: Path) -> None:
    checkpoint = next(log.glob("*.checkpoint.parquet"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-20])


def cut_hint(log: Path) -> None:
    (log / "_last_checkpoint").write_text('{"ver')


@pytest.mark.parametrize("damage", [lose_checkpoint, cut_checkpoint, cut_hint])
def test_a_damaged_checkpoint_is_replaced_by_the_entries_before_it(two: Store, damage: Callable[[Path], None]) -> None:
    DeltaTable(str(two.tables_folder / FOLDER)).create_checkpoint()
    damage(two.tables_folder / FOLDER / "_delta_log")
    assert len(check_storage(two).damages) == 1
    report = TableRepair(two).undo_unfinished_commits(check_storage(two))
    assert (report.damages, report.lost) == ((), ())
    assert Store(two.data_folder).row_count(CLASS_MINUTES) == 5


def test_checksums_survive_compaction_and_go_with_their_files(two: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_writes, "_COMPACT_ABOVE_FILES", 1)
    two.compact(CLASS_MINUTES)
    (file,) = two.files(CLASS_MINUTES)
    checksums = two.tables_folder / FOLDER / "_checksums"
    assert (checksums / Path(file).name).exists()
    for old_file in (two.tables_folder / FOLDER).glob("*.parquet"):
        if old_file != Path(file):
            old_file.unlink()
    two.vacuum(CLASS_MINUTES)
    assert [entry.name for entry in checksums.iterdir()] == [Path(file).name]
    assert check_storage(two, contents=True).damages == ()
    assert lost_ids(two) == []
