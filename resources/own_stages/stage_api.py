"""What a stage of one's own imports: the decorator, its columns, and what its function receives."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

Rows: TypeAlias = "Iterable[Mapping[str, Any]] | pa.Table"
"""Rows as dictionaries with a value for each declared column, or an Arrow table with these columns."""
Function = TypeVar("Function", bound=Callable[["Batch"], Rows])


@dataclass(frozen=True)
class Column:
    """A column of the table that a stage writes; a value may be None, except in the key.

    Attributes:
        name: Lower-case letters, digits and `_`; with its unit at its end, such as `distance_m`.
        type: Type of the values.
        meaning: What the column holds, which becomes its comment.
        unit: Unit of the values, such as `px`; empty for names, counts and flags.
        minimum: Least allowed value.
        maximum: Greatest allowed value.
    """

    name: str
    type: Literal["text", "float", "int", "flag"]
    meaning: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Recording:
    """The recording of a batch.

    Attributes:
        recording_id: Its id.
        camera: Its camera; None for a file directly in a watched folder.
        width_px: Width of the normalized video.
        height_px: Height of the normalized video.
        rate_fps: Frames per second of the normalized video.
        duration_s: Its duration.
        frame_count: Number of frames of the normalized video.
    """

    recording_id: str
    camera: str | None
    width_px: int
    height_px: int
    rate_fps: float
    duration_s: float
    frame_count: int


@dataclass(frozen=True)
class Frame:
    """A frame of the normalized video.

    Attributes:
        frame_index: Its index, from 0.
        time_s: Its media time.
        image: uint8 BGR array of shape (height_px, width_px, 3).
    """

    frame_index: int
    time_s: float
    image: np.ndarray


@dataclass(frozen=True)
class Crop:
    """A crop of a track.

    Attributes:
        row: Its row of the table crops, without the picture.
        image: uint8 BGR array of shape (crop_height_px, crop_width_px, 3); None if retention has deleted the picture.
    """

    row: Mapping[str, Any]
    image: np.ndarray | None


@dataclass(frozen=True)
class Batch:
    """What the function of a stage receives.

    Attributes:
        recording: The recording.
        device: The device on which a model should run, such as `cpu` or `cuda:0`.
        frames: Frames, if the stage declares the input `frames`.
        crops: Crops, if the stage declares the input `crops`.
        tables: By name, the rows of each declared table: of these frames or of the tracks of these crops, if the table
            has a column frame_index or track_id; all rows of the recording otherwise.
        state: Empty at the first batch of a recording, and kept until its last.
    """

    recording: Recording
    device: str = "cpu"
    frames: Sequence[Frame] = ()
    crops: Sequence[Crop] = ()
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)


def stage(
    *,
    inputs: Sequence[str],
    key: Sequence[str],
    columns: Sequence[Column | str],
    version: str = "1",
    batch_size: int = 16,
    device: Literal["cpu", "auto"] = "cpu",
    max_rate_fps: float | None = None,
) -> Callable[[Function], Function]:
    """Declare a stage; its function receives batches of one recording, in order, and returns rows.

    The pipeline reads the arguments from the text of the file, so they must be plain values. The table has the name of
    the function, and the meaning of a row is the first line of its docstring.

    Args:
        inputs: `frames` or `crops`, and names of tables.
        key: Columns that identify a row within its recording.
        columns: The columns, without recording_id, which the pipeline adds. The name alone declares a column that other
            tables have, too, such as `frame_index`, `time_s` or `track_id`.
        version: Change it when something outside the file changes the results, such as weights.
        batch_size: Number of frames or crops in a batch; without such an input, a batch has the whole recording.
        device: `auto` leases a device as models do; such runs wait in the queue `gpu`, the others in the queue `cpu`.
        max_rate_fps: With the input `frames`, at most this many frames per second; None means all.
    """
    return lambda function: function
