"""An index of embeddings for more than a million crops (FAISS): derived files, which may be deleted at any time."""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resources.errors import PipelineError, summarize_exception

logger = logging.getLogger(__name__)

INDEX_FOLDER = "index"
"""Folder of the data folder that has the indexes of embeddings."""
_TRAINED_PER_LIST, _MAX_LISTS, _PROBED_LISTS = 64, 4096, (1, 2, 4, 8, 16, 32, 64, 128)
_BATCH, _QUERIES, _NEAREST = 50_000, 100, 10
_MIN_RECALL = 0.97
_KEY = ("recording_id", "track_id", "rank")


@dataclass(frozen=True)
class IndexDescription:
    """What an index was built from, and how good it is.

    Attributes:
        table_version: Version of the table of embeddings.
        model_id: Model of the embeddings.
        vector_count: Number of its vectors.
        recall: Share of the true 10 nearest crops that it finds, for crops of its own.
        probed_lists: Number of lists that a search compares.
    """

    table_version: int
    model_id: str
    vector_count: int
    recall: float
    probed_lists: int


def build_index(
    connection: duckdb.DuckDBPyConnection, table: str, table_version: int, model_id: str, folder: Path
) -> IndexDescription:
    """Build the index of a table of embeddings, and measure its recall; memory does not grow with the table.

    Args:
        connection: The published results.
        table: The view of the embeddings.
        table_version: Its version.
        model_id: Only embeddings of this model.
        folder: Gets the files.

    Raises:
        PipelineError: The package faiss-cpu is not installed, there are no embeddings, or the folder cannot be written.
    """
    if find_spec("faiss") is None:
        raise PipelineError(
            "faiss-cpu is not installed: run pip install 'cv-assets[index]', or search without an index."
        )
    import faiss

    condition = f"FROM {table} WHERE model_id = ? AND embedding IS NOT NULL"
    ((count,),) = connection.execute(f"SELECT count(*) {condition}", [model_id]).fetchall()
    if not count:
        raise PipelineError(f"{table} has no embeddings of {model_id}: process recordings first.")
    lists = int(np.clip(4 * np.sqrt(count), 1, min(_MAX_LISTS, max(1, count // _TRAINED_PER_LIST))))
    sample = f"SELECT embedding {condition} USING SAMPLE reservoir({lists * _TRAINED_PER_LIST} ROWS) REPEATABLE (1)"
    training = _vectors(connection.sql(sample, params=[model_id]).to_arrow_table().column("embedding").combine_chunks())
    index = faiss.index_factory(training.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(training)
    queries = np.ascontiguousarray(training[:_QUERIES])
    nearest, keys = _NearestVectors(queries), list[pa.Table]()
    for batch_keys, vectors in _read_batches(connection, condition, model_id):
        nearest.add(vectors, index.ntotal)
        index.add(vectors)
        keys.append(batch_keys)
    probed_lists, recall = _choose_probed_lists(index, queries, nearest.positions, lists)
    description = IndexDescription(table_version, model_id, count, recall, probed_lists)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _description_file(folder, table).unlink(missing_ok=True)  # written last: without it, there is no index
        faiss.write_index(index, str(folder / f"{table}.faiss"))
        pq.write_table(pa.concat_tables(keys), folder / f"{table}.parquet")
        _description_file(folder, table).write_text(json.dumps(asdict(description)))
    except (OSError, RuntimeError) as error:
        raise PipelineError(f"The index in {folder} cannot be written: {error}.") from error
    return description


def _read_batches(
    connection: duckdb.DuckDBPyConnection, condition: str, model_id: str
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Read keys and vectors, in the order in which they become positions of the index."""
    query = f"SELECT {', '.join(_KEY)}, embedding {condition}"
    reader: Any = connection.sql(query, params=[model_id]).to_arrow_reader(_BATCH)
    for batch in reader:
        yield pa.Table.from_batches([batch.select(list(_KEY))]), _vectors(batch.column("embedding"))


def _vectors(column: pa.Array) -> np.ndarray:
    """Vectors of a column without NULL, float32 of shape (rows, values)."""
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values.reshape(len(column), -1), np.float32)


class _NearestVectors:
    """The exact nearest vectors of some queries, over vectors that come in batches."""

    def __init__(self, queries: np.ndarray) -> None:
        self._queries = queries
        self._scores = np.full((len(queries), _NEAREST), -np.inf, np.float32)
        self.positions = np.full((len(queries), _NEAREST), -1)

    def add(self, vectors: np.ndarray, first_position: int) -> None:
        """Compare with further vectors, the first of which has this position."""
        scores = np.concatenate([self._scores, self._queries @ vectors.T], axis=1)
        new_positions = np.broadcast_to(first_position + np.arange(len(vectors)), (len(self._queries), len(vectors)))
        positions = np.concatenate([self.positions, new_positions], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :_NEAREST]
        self._scores = np.take_along_axis(scores, best, 1)
        self.positions = np.take_along_axis(positions, best, 1)


def _choose_probed_lists(index: Any, queries: np.ndarray, truth: np.ndarray, lists: int) -> tuple[int, float]:
    """Choose the smallest number of lists with which the recall is good enough; returns it and the recall."""
    probed_lists, recall = lists, 1.0
    for probed_lists in (*(number for number in _PROBED_LISTS if number < lists), lists):
        index.nprobe = probed_lists
        found = index.search(queries, _NEAREST)[1]
        known = truth >= 0
        hits = (found[:, :, None] == truth[:, None, :]).any(axis=1) & known
        recall = float(hits.sum() / max(1, known.sum()))
        if recall >= _MIN_RECALL:
            break
    return probed_lists, recall


class VectorIndex:
    """An index, opened for searches.

    Args:
        folder: Its folder.
        table: The view of the embeddings.
        description: What it was built from.
    """

    def __init__(self, folder: Path, table: str, description: IndexDescription) -> None:
        import faiss

        self.description = description
        self._index = cast(Any, faiss.read_index(str(folder / f"{table}.faiss")))
        self._index.nprobe = description.probed_lists
        self._keys = pq.read_table(folder / f"{table}.parquet")

    def search(self, embedding: np.ndarray, count: int) -> pa.Table:
        """Keys of the crops whose embeddings are most similar, shape (count or fewer rows)."""
        positions = self._index.search(np.ascontiguousarray(embedding[None], np.float32), count)[1][0]
        return self._keys.take(pa.array(positions[positions >= 0]))


def open_index(folder: Path, table: str, table_version: int | None, model_id: str | None) -> VectorIndex | None:
    """Open the index of a table; None if none is current, it is damaged, or FAISS is missing."""
    try:
        description = IndexDescription(**json.loads(_description_file(folder, table).read_text()))
    except (OSError, ValueError, TypeError):
        return None  # not built, or of another version of this program
    is_current = (description.table_version, description.model_id) == (table_version, model_id)
    if not is_current or find_spec("faiss") is None:
        return None
    try:
        return VectorIndex(folder, table, description)
    except (OSError, RuntimeError, ValueError) as error:
        logger.warning("The index in %s is damaged (%s): build it again.", folder, summarize_exception(error))
        return None


def remove_indexes(data_folder: Path) -> None:
    """Delete all indexes, which contain embeddings of recordings."""
    shutil.rmtree(data_folder / INDEX_FOLDER, ignore_errors=True)


def _description_file(folder: Path, table: str) -> Path:
    return folder / f"{table}.json"
