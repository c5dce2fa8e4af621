"""Examples for a linear probe: stored embeddings of crops, or pictures in folders."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from cli.crop_files import INDEX_NAME, SHEET_NAME
from resources.config.settings import Settings
from resources.crop_search import embed_image, open_embeddings
from resources.crop_search import embedding_model as find_embedding_model
from resources.errors import PipelineError
from resources.inference.linear_probe import EMBEDDING, FEATURES, LinearProbe, read_features, train_probe

_MIN_TRACKS = 5  # of each kind: one for each part of the cross-validation
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class Lesson:
    """A probe and how it was trained.

    Attributes:
        probe: The probe.
        accuracy: Share of tracks that are right in cross-validation; the mean of that of both kinds.
        positive_count: Number of positive examples.
        negative_count: Number of negative examples.
        embeddings_name: Name of the crop model whose embeddings it reads.
    """

    probe: LinearProbe
    accuracy: float
    positive_count: int
    negative_count: int
    embeddings_name: str


@dataclass(frozen=True)
class _Example:
    """An example.

    Attributes:
        embedding: Shape (n,).
        features: Shape (m,); None if the network has none, or an older version computed the embedding.
        model_id: Model of the embedding.
        group: Its track, or its file.
    """

    embedding: np.ndarray
    features: np.ndarray | None
    model_id: str
    group: tuple[str, ...]


def teach_probe(settings: Settings, name: str, positive: Sequence[str], negative: Sequence[str]) -> Lesson:
    """Train a probe on examples.

    Args:
        settings: The data folder, and the crop model whose embeddings are used.
        name: Name of the class.
        positive: Crops as RECORDING:TRACK or RECORDING:TRACK:RANK, files with one of them per line, and folders of
            pictures.
        negative: The same of examples of anything else.

    Raises:
        PipelineError: An example does not exist, they are too few, or a track has both kinds.
    """
    model = find_embedding_model(settings)
    connection, table = open_embeddings(settings)
    with connection:
        examples = [
            [example for source in sources for example in _read_examples(source, connection, table, settings)]
            for sources in (positive, negative)
        ]
    groups = [{example.group for example in kind} for kind in examples]
    if both := sorted(groups[0] & groups[1]):
        raise PipelineError(f"The example {':'.join(both[0])} is both positive and negative: remove one of the two.")
    for kind, tracks in zip(("positive", "negative"), groups, strict=True):
        if len(tracks) < _MIN_TRACKS:
            raise PipelineError(
                f"{name} has {len(tracks)} {kind} tracks or pictures with an embedding, but needs at least "
                f"{_MIN_TRACKS}; 20 are a good number."
            )
    joined = [*examples[0], *examples[1]]
    model_ids = sorted({example.model_id for example in joined})
    if len(model_ids) > 1:
        raise PipelineError(
            f"The examples have embeddings of {' and '.join(model_ids)}: recompute the stale ones first "
            "(cv-assets process --stale)."
        )
    is_positive = np.arange(len(joined)) < len(examples[0])
    features = [example.features for example in joined if example.features is not None]
    has_features = len(features) == len(joined)
    values = np.stack(features if has_features else [example.embedding for example in joined])
    training = train_probe(values, is_positive, [example.group for example in joined])
    reads = FEATURES if has_features else EMBEDDING
    probe = LinearProbe(name, model_ids[0], training.weights, training.bias, reads)
    return Lesson(probe, training.accuracy, len(examples[0]), len(examples[1]), model.name)


def _read_examples(
    source: str, connection: duckdb.DuckDBPyConnection, table: str, settings: Settings
) -> Iterator[_Example]:
    """Read the examples of a folder of pictures, a file of crops, or a crop.

    Raises:
        PipelineError: It does not exist, or is none of these.
    """
    path = Path(source)
    if path.is_dir():
        yield from _read_folder(path, connection, table, settings)
    elif path.is_file():
        lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        for line in lines:
            if line and not line.startswith("#"):
                yield from _read_crops(line, connection, table)
    else:
        yield from _read_crops(source, connection, table)


def _read_crops(crop: str, connection: duckdb.DuckDBPyConnection, table: str) -> Iterator[_Example]:
    """Read the embeddings of a track, or of one of its crops; those without an embedding are left out."""
    recording_id, _, numbers = crop.partition(":")
    parts = numbers.split(":")
    if not recording_id or len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise PipelineError(
            f"The example {crop!r} is neither a folder nor a file, nor of the form RECORDING:TRACK or "
            "RECORDING:TRACK:RANK."
        )
    condition = "recording_id = ? AND track_id = ?" + (" AND rank = ?" if len(parts) == 2 else "")
    query = f"SELECT embedding, features, model_id FROM {table} WHERE {condition} ORDER BY rank"
    rows = connection.execute(query, [recording_id, *map(int, parts)]).fetchall()
    if not rows:
        raise PipelineError(
            f"The example {crop} has no row in {table}: see the keys with cv-assets sql 'FROM {table}'."
        )
    for embedding, features, model_id in rows:
        if embedding is not None:
            values = None if features is None else read_features(features)
            yield _Example(np.array(embedding, np.float32), values, model_id, (recording_id, parts[0]))


def _read_folder(
    folder: Path, connection: duckdb.DuckDBPyConnection, table: str, settings: Settings
) -> Iterator[_Example]:
    """Read the examples of a folder; of pictures that cv-assets crops wrote, the stored embeddings.

    Raises:
        PipelineError: The folder has no pictures, or one cannot be read.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _IMAGE_SUFFIXES)
    pictures = [file for file in files if file.name != SHEET_NAME]
    if not pictures:
        raise PipelineError(f"The folder {folder} has no pictures ({', '.join(_IMAGE_SUFFIXES)}).")
    keys = _read_index(folder / INDEX_NAME)
    model = find_embedding_model(settings)
    for picture in pictures:
        if key := keys.get(picture.name):
            yield from _read_crops(key, connection, table)
            continue
        embedding, model_id = embed_image(picture, model)
        features = None if embedding.features is None else embedding.features.astype(np.float32)
        yield _Example(embedding.vector, features, model_id, (str(picture),))


def _read_index(file: Path) -> dict[str, str]:
    """Read from the index of cv-assets crops which crop each picture shows; empty if there is none."""
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as text:
        rows: list[dict[str, Any]] = list(csv.DictReader(text))
    return {
        str(row["file"]): f"{row['recording_id']}:{row['track_id']}:{row['rank']}"
        for row in rows
        if {"file", "recording_id", "track_id", "rank"} <= row.keys()
    }
