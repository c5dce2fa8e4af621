"""The check of a data folder: damaged tables, and results that the tables have lost.

At a start it reads logs and the sizes of files, and no contents: rows are counted from the logs and compared with what
the attempts have recorded in stage_runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from resources.schema.operations_tables import STAGE_RUNS
from resources.schema.recording_tables import RECORDING_CLOCKS
from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors
from resources.storage.own_tables import find_stored_table
from resources.storage.recorded_commits import LostResult, RecordedCommits
from resources.storage.results_database import published_versions
from resources.storage.table_check import CheckedTable, TableDamage, check_table, repair_remedy

_NAMED_RECORDINGS = 3


@dataclass(frozen=True)
class StorageReport:
    """The result of a check.

    Attributes:
        data_folder: The data folder.
        damages: Damage that must be repaired before the pipeline can work.
        lost: Results that tables lack.
        rewritten: Sentences about lost rows that the pipeline writes again by itself.
        durable_versions: By table, the newest commit that is known to have been on the disk; later ones may have been
            cut off by a power cut, and no row of stage_runs names them. Without tables of which nothing is known.
        recorded: The commits that attempts have recorded.
        table_count: Number of tables.
        file_count: Number of their files.
    """

    data_folder: Path
    damages: tuple[TableDamage, ...]
    lost: tuple[LostResult, ...]
    rewritten: tuple[str, ...]
    durable_versions: Mapping[str, int]
    recorded: RecordedCommits
    table_count: int
    file_count: int

    @property
    def damage_sentences(self) -> list[str]:
        """A sentence with the remedy for each damaged table."""
        return [damage.describe(self.data_folder) for damage in self.damages]

    @property
    def lost_sentences(self) -> list[str]:
        """A sentence with the remedy for each table that lacks results."""
        return [f"{sentence}: {repair_remedy(self.data_folder)}" for sentence in describe_lost(self.lost)]


def check_storage(store: Store, *, contents: bool = False, is_idle: bool = True) -> StorageReport:
    """Check the tables of a data folder.

    Args:
        store: The tables.
        contents: Whether all files are read and compared with their checksums.
        is_idle: Whether no run is in progress.

    Raises:
        PipelineError: The tables cannot be reached.
    """
    published = published_versions(store.data_folder) or {}
    # Before the tables: what is recorded meanwhile is in the tables, too.
    recorded = RecordedCommits.read(store)
    names = dict.fromkeys([*(table.name for table in store.tables()), *recorded.versions])
    with disk_errors(store.data_folder):
        checked = {name: check_table(store.location, name, contents=contents) for name in names}
    whole = {name: table for name, table in checked.items() if table.damage is None}
    lost = recorded.find_lost(store, whole, is_idle=is_idle)
    with_lost_results = {result.table_name for result in lost}
    outdated = {
        name: table.version
        for name, table in whole.items()
        if table.version < published.get(name, -1) and name not in with_lost_results
    }
    rewritten = {name for name in outdated if is_rewritten(store.tables_folder, name)}
    damages = [table.damage for table in checked.values() if table.damage is not None] + [
        TableDamage(name, problem=f"its commits after {version} are lost")
        for name, version in outdated.items()
        if name not in rewritten
    ]
    return StorageReport(
        store.data_folder,
        tuple(damages),
        tuple(lost),
        tuple(f"{name}: the newest commits are lost; the pipeline writes their rows again." for name in rewritten),
        _durable_versions(checked, published, recorded),
        recorded,
        sum(table.version >= 0 or table.damage is not None for table in checked.values()),
        sum(table.file_count for table in checked.values()),
    )


def describe_lost(lost: Sequence[LostResult]) -> Iterator[str]:
    """Describe lost results: for each table the number of recordings and the first of them, as a part of a sentence."""
    for name, results in groupby(lost, key=lambda result: result.table_name):
        ids = list(dict.fromkeys(result.recording_id for result in results))
        listed = ", ".join(ids[:_NAMED_RECORDINGS]) + (", …" if len(ids) > _NAMED_RECORDINGS else "")
        recordings = "1 recording" if len(ids) == 1 else f"{len(ids)} recordings"
        yield f"{name}: rows of {recordings} are lost or outdated ({listed})"


def is_rewritten(tables_folder: Path, table_name: str) -> bool:
    """Whether the pipeline writes lost rows of a table again by itself."""
    table = find_stored_table(tables_folder, table_name)
    return table is None or not table.per_recording or table in (STAGE_RUNS, RECORDING_CLOCKS)


def _durable_versions(
    checked: Mapping[str, CheckedTable], published: Mapping[str, int], recorded: RecordedCommits
) -> dict[str, int]:
    is_recorded = checked.get(STAGE_RUNS.name, CheckedTable()).damage is None and recorded.unrecorded.num_rows == 0
    return {
        name: max(published.get(name, -1), recorded.versions.get(name, -1))
        for name in checked
        if published or is_recorded or name in recorded.versions
    }
