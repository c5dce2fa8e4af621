"""Files of stages of one's own, and recordings on which they run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from resources.config.stage_config import OwnStageSettings
from resources.own_stages.stage_file import OwnStage, read_stage_file
from resources.schema.columns import Table
from resources.schema.recording_tables import FRAMES
from resources.storage.delta_store import Store
from tests.builders.numbered_videos import write_numbered_video
from tests.builders.table_rows import store_recordings

FRAME_STAGE = '''
from resources.own_stages import Batch, Column, stage

SIZE = 4

@stage(
    inputs=["frames"],
    key=["frame_index"],
    columns=["frame_index", "time_s", Column("brightness", "float", "Mean level", "0 to 255", minimum=0, maximum=255)],
    batch_size=SIZE,
)
def frame_levels(batch):
    """One row per frame with its brightness.

    More text.
    """
    {body}
    return [
        {{"frame_index": frame.frame_index, "time_s": frame.time_s, "brightness": frame.image.mean()}}
        for frame in batch.frames
    ]
'''
"""A valid stage on frames; `body` runs before its rows are computed."""


def write_stage(folder: Path, source: str, name: str = "my_stage.py") -> Path:
    """Write the file of a stage."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(source, encoding="utf-8")
    return file


def read_stage(file: Path, **limits: Any) -> OwnStage:
    """Read the declaration of a stage."""
    return read_stage_file(OwnStageSettings(file=file, **limits))


def complete_rows(table: Table, *rows: Mapping[str, Any]) -> pa.Table:
    """Build rows of a table in which columns without a value that must have one are empty or 0."""
    schema = table.arrow_schema
    empty = {
        field.name: None if field.nullable else "" if pa.types.is_string(field.type) else field.type.to_pandas_dtype()()
        for field in schema
    }
    return pa.Table.from_pylist([empty | dict(row) for row in rows], schema=schema)


def store_normalized_recording(
    store: Store, recording_id: str = "r", frame_count: int = 10, video: Path | None = None, **content: Any
) -> Path:
    """Store a recording at 10 frames/s with its frames and normalized video.

    Args:
        store: The tables.
        recording_id: Its id.
        frame_count: Number of frames.
        video: The normalized video; None writes a numbered one of 128 x 96 px.
        content: Further columns of its row.

    Returns:
        The normalized video.
    """
    path = store.media_folder / recording_id / "normalized.mp4"
    if video is None:
        write_numbered_video(path, frame_count, rate=10)
        content = {"width_px": 128, "height_px": 96, **content}
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video.read_bytes())
    relative = str(path.relative_to(store.data_folder))
    values = {"frame_count": frame_count, "duration_s_from_content": frame_count / 10, "video_path": relative}
    store_recordings(store, {"recording_id": recording_id, "normalized_by": "encode", **values, **content})
    frames = [
        {"recording_id": recording_id, "frame_index": index, "source_frame_index": index, "time_s": index / 10}
        for index in range(frame_count)
    ]
    store.replace(FRAMES, [recording_id], complete_rows(FRAMES, *frames))
    return path
