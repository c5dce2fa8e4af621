"""Objects similar to an example, by the embeddings of their crops, where a crop model has stored some."""

from dataclasses import dataclass

import duckdb

_COLUMNS = ("recording_id", "track_id", "rank", "embedding", "model_id")


@dataclass(frozen=True)
class Example:
    """The object that others are compared with.

    Attributes:
        recording_id: Its recording.
        track_id: Its track.
    """

    recording_id: str
    track_id: int

    @classmethod
    def parse(cls, text: str) -> "Example | None":
        """Read an example as addresses of pages have it, RECORDING/TRACK; None if it is none."""
        recording_id, _, track = text.rpartition("/")
        return cls(recording_id, int(track)) if recording_id and track.isascii() and track.isdigit() else None


def find_embedding_table(connection: duckdb.DuckDBPyConnection) -> str | None:
    """Name of a table with embeddings of crops; None if there is none."""
    names = ", ".join(f"'{name}'" for name in _COLUMNS)
    query = f"""
        SELECT table_name FROM duckdb_columns() WHERE column_name IN ({names}) AND NOT internal
        GROUP BY table_name HAVING count(*) = {len(_COLUMNS)} ORDER BY table_name LIMIT 1
    """
    rows = connection.execute(query).fetchall()
    return rows[0][0] if rows else None


def similar_sql(table: str) -> str:
    """SQL of all other objects with their score: the greatest cosine with the embedding of the example's best crop.

    Only embeddings of the same model are compared. The parameters are $like_recording_id and $like_track_id.

    Args:
        table: The table with embeddings.
    """
    quoted = '"' + table.replace('"', '""') + '"'
    return f"""
        SELECT recording_id, track_id,
            max(list_cosine_similarity(others.embedding::FLOAT[], example.embedding::FLOAT[])) AS score
        FROM {quoted} AS others JOIN (
            SELECT embedding, model_id FROM {quoted}
            WHERE recording_id = $like_recording_id AND track_id = $like_track_id AND embedding IS NOT NULL
            ORDER BY rank LIMIT 1
        ) AS example USING (model_id)
        WHERE others.embedding IS NOT NULL
            AND (others.recording_id, others.track_id) <> ($like_recording_id, $like_track_id)
        GROUP BY recording_id, track_id
    """
