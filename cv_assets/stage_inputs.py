"""What a stage of one's own receives: the stored inputs of a recording in batches."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cv_assets.media_status import VideoFile, find_normalized_video, read_normalized_row
from cv_assets.recording_inference import analysed_frame_positions
from resources.corrections.corrected_rows import read_track_boxes, read_tracks
from resources.errors import RecordingError
from resources.media.frame_reader import read_images
from resources.own_stages.stage_api import Batch, Crop, Frame, Recording
from resources.own_stages.stage_file import CROPS_INPUT, FRAMES_INPUT, OwnStage
from resources.schema.recording_tables import FRAMES
from resources.schema.track_tables import CROPS, TRACK_BOXES, TRACKS
from resources.storage.delta_store import Store
from resources.storage.own_tables import find_stored_table

_PICTURES = (FRAMES_INPUT, CROPS_INPUT)
_MAX_BATCH_BYTES = 256_000_000  # of frames; larger batches are divided, whatever the stage declares


@dataclass(frozen=True)
class StageInputs:
    """The inputs of a stage for one recording.

    Attributes:
        stage: The stage.
        recording: The recording.
        device: The leased device, or `cpu`.
        video: The normalized video, for the input `frames`; None otherwise.
        rate_fps: Its rate.
        frames: Rows of `frames` that the stage receives, ascending by frame_index.
        crops: Rows of `crops`, by track and rank.
        tables: By name, the rows of the declared tables.
    """

    stage: OwnStage
    recording: Recording
    device: str
    video: VideoFile | None
    rate_fps: Fraction
    frames: pa.Table
    crops: pa.Table
    tables: Mapping[str, pa.Table]

    @classmethod
    def read(cls, stage: OwnStage, recording_id: str, store: Store, device: str = "cpu") -> "StageInputs":
        """Read the rows of the inputs, and find the video.

        Raises:
            RecordingError: The recording has no normalized video, or its video was deleted.
        """
        row = read_normalized_row(recording_id, store)
        rate_fps = Fraction(row["rate_fps_num"], row["rate_fps_den"])
        recording = Recording(
            recording_id,
            row["camera"],
            row["width_px"],
            row["height_px"],
            float(rate_fps),
            row["duration_s_from_content"],
            row["frame_count"],
        )
        frames, crops, video = FRAMES.empty, CROPS.empty, None
        if stage.has_frames:
            video = find_normalized_video(row, store.data_folder)
            columns = ["frame_index", "time_s", "is_duplicated"]
            frames = store.read(FRAMES, [recording_id], columns).sort_by("frame_index")
            frames = frames.take(pa.array(analysed_frame_positions(frames, stage.max_rate_fps)))
        if stage.has_crops:
            crops = store.read(CROPS, [recording_id]).sort_by([("track_id", "ascending"), ("rank", "ascending")])
        names = [name for name in stage.inputs if name not in _PICTURES]
        tables = {name: _read_table(name, recording_id, store) for name in names}
        return cls(stage, recording, device, video, rate_fps, frames, crops, tables)

    @property
    def item_count(self) -> int:
        """Number of frames or crops; 1 for a stage that receives the whole recording at once."""
        if self.stage.has_frames:
            return int(self.frames.num_rows)
        return int(self.crops.num_rows) if self.stage.has_crops else 1

    def batches(self) -> Generator[Batch, None, None]:
        """The batches, in order.

        Raises:
            RecordingError: Not all frames decode, or the file changed meanwhile.
        """
        for number, batch in enumerate(self._batches()):
            batch.state["is_first"] = number == 0
            yield batch

    def _batches(self) -> Iterator[Batch]:
        size = self.stage.batch_size
        if self.stage.has_frames:
            yield from self._frame_batches(size)
        elif self.stage.has_crops:
            for start in range(0, self.crops.num_rows, size):
                rows = self.crops.slice(start, size).to_pylist()
                track_ids = pa.array({row["track_id"] for row in rows}, pa.int32())
                tables = {
                    name: table.filter(pc.is_in(table["track_id"], track_ids))
                    if "track_id" in table.column_names
                    else table
                    for name, table in self.tables.items()
                }
                crops = [Crop(row, None) for row in rows]  # decoded by the process of the stage
                yield Batch(self.recording, self.device, crops=crops, tables=tables)
        else:
            yield Batch(self.recording, self.device, tables=self.tables)

    def _frame_batches(self, size: int) -> Iterator[Batch]:
        assert self.video is not None
        frame_bytes = 3 * self.recording.width_px * self.recording.height_px
        size = max(1, min(size, _MAX_BATCH_BYTES // frame_bytes))
        indices, times_s = self.frames["frame_index"].to_pylist(), self.frames["time_s"].to_pylist()
        of_frames = {
            name: _FrameRows(table) for name, table in self.tables.items() if "frame_index" in table.schema.names
        }
        others = {name: table for name, table in self.tables.items() if name not in of_frames}
        with self.video.reading() as path, closing(read_images(path, indices, self.rate_fps)) as images:
            for start in range(0, len(indices), size):
                chosen = slice(start, start + size)
                pairs = zip(indices[chosen], times_s[chosen], strict=True)
                # The image comes last, so that no further one is decoded when the pairs are used up.
                frames = [Frame(index, time_s, image) for (index, time_s), image in zip(pairs, images, strict=False)]
                if len(frames) < len(indices[chosen]):
                    raise RecordingError(
                        f"The normalized video is damaged: only {start + len(frames)} of {len(indices)} frames decode; "
                        "materialize normalized_video again."
                    )
                rows = {name: table.of_frames(indices[chosen]) for name, table in of_frames.items()}
                yield Batch(self.recording, self.device, frames=frames, tables={**rows, **others})


class _FrameRows:
    """The rows of a table with frame_index, found by frame."""

    def __init__(self, table: pa.Table) -> None:
        self._rows = table.sort_by("frame_index")
        self._indices = self._rows["frame_index"].to_numpy()

    def of_frames(self, frame_indices: Sequence[int]) -> pa.Table:
        """The rows of some frames, whose indices ascend."""
        start, end = np.searchsorted(self._indices, [frame_indices[0], frame_indices[-1] + 1])
        rows = self._rows.slice(start, end - start)
        return rows.filter(pc.is_in(rows["frame_index"], pa.array(frame_indices, pa.int32())))


def _read_table(name: str, recording_id: str, store: Store) -> pa.Table:
    if name == TRACKS.name:
        return read_tracks(store, [recording_id])
    if name == TRACK_BOXES.name:
        return read_track_boxes(store, [recording_id])
    table = find_stored_table(store.tables_folder, name)
    if table is None:
        raise RecordingError(f"The table {name} has no rows yet: process the recording first.")
    return store.read(table, [recording_id])


def list_input_assets(inputs: Sequence[str]) -> tuple[str, ...]:
    """Names of the assets that have the inputs of a stage: tracks are read as people have corrected them."""
    assets = {
        FRAMES_INPUT: ("normalized_video", FRAMES.name),
        TRACKS.name: ("corrected_tracks",),
        TRACK_BOXES.name: ("corrected_tracks", "corrected_boxes"),
    }
    return tuple(dict.fromkeys(asset for name in inputs for asset in assets.get(name, (name,))))
