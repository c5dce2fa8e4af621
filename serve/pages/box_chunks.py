"""Boxes of tracks packed into small binary chunks, which a page draws over the frames of the video.

A row has 18 bytes, as nine little-endian 16-bit words: frame minus the first frame asked for; class, as position in the
page's list of classes; track (two words, low word first); confidence from 1 to 255, 0 without one, plus 256 times the
flags; and the box as left, top, right and bottom, in 1/65535 of the frame's width and height.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow.compute as pc

CHUNK_BOXES = 3600
"""Boxes of a chunk, about 64 KB: the unit in which a page loads and forgets boxes."""
IS_INTERPOLATED, IS_CORRECTED = 1, 2
_BLOCK_BOXES = 60_000  # read from the tables at once: few enough that a first picture does not wait for them
_MAX_FRAMES = 50_000  # of a chunk: its frames are 16-bit numbers
_MAX_BLOCKS, _MAX_INDEXES = 60, 24  # kept in memory; a block has 1.6 MB
_SCALE = 65_535
_ROW = np.dtype(
    [("frame", "<u2"), ("class", "<u2"), ("track", "<u4"), ("confidence", "u1"), ("flags", "u1"), ("box", "<u2", (4,))]
)


@dataclass(frozen=True)
class ChunkIndex:
    """Where the chunks of a recording begin.

    Attributes:
        classes: Names of the classes; a row of a chunk holds the position in this list.
        first_frames: First frame of each chunk, ascending; the first is 0.
        box_counts: Boxes of each chunk.
        width_px: Width of the normalized video.
        height_px: Height of the normalized video.
    """

    classes: tuple[str, ...]
    first_frames: tuple[int, ...]
    box_counts: tuple[int, ...]
    width_px: int
    height_px: int


def read_chunk_index(connection: duckdb.DuckDBPyConnection, recording_id: str, size_px: tuple[int, int]) -> ChunkIndex:
    """Divide the frames of a recording into chunks of about the same number of boxes.

    Args:
        connection: The published results.
        recording_id: The recording.
        size_px: Width and height of its normalized video.
    """
    query = "SELECT frame_index, count(*) AS boxes FROM track_boxes WHERE recording_id = ? GROUP BY ALL ORDER BY ALL"
    counts = connection.execute(query, [recording_id]).fetchnumpy()
    names = connection.execute("SELECT DISTINCT class_name FROM track_boxes WHERE recording_id = ?", [recording_id])
    frames, boxes = np.asarray(counts["frame_index"], np.int64), np.asarray(counts["boxes"], np.int64)
    before = np.cumsum(boxes) - boxes
    chunk = before // CHUNK_BOXES * (1 << 32) + frames // _MAX_FRAMES
    starts = np.flatnonzero(np.diff(chunk, prepend=-1))
    first_frames = frames[starts] if len(starts) else np.zeros(1, np.int64)
    sums = np.add.reduceat(boxes, starts) if len(starts) else np.zeros(1, np.int64)
    first_frames[0] = 0
    return ChunkIndex(
        tuple(sorted(name for (name,) in names.fetchall())),
        tuple(map(int, first_frames)),
        tuple(map(int, sums)),
        *size_px,
    )


def read_boxes(
    connection: duckdb.DuckDBPyConnection, recording_id: str, index: ChunkIndex, first_frame: int, end_frame: int
) -> np.ndarray:
    """Read the boxes of some frames, in order of frames.

    Args:
        connection: The published results.
        recording_id: The recording.
        index: Its classes and the size of its frames.
        first_frame: First frame.
        end_frame: Frame after the last.

    Returns:
        Frame indices, shape (n,) of int64, as field "frame_index", and the packed rows as field "row".
    """
    query = """
        SELECT frame_index, track_id, class_name, confidence, is_interpolated, is_corrected,
            x_min_px, y_min_px, x_max_px, y_max_px
        FROM track_boxes WHERE recording_id = $id AND frame_index >= $first AND frame_index < $end
    """
    values = {"id": recording_id, "first": first_frame, "end": end_frame}
    table = connection.sql(query, params=values).to_arrow_table()
    frames = table["frame_index"].to_numpy().astype(np.int64)
    order = np.lexsort((table["track_id"].to_numpy(), frames))
    packed = np.zeros(len(frames), np.dtype([("frame_index", np.int64), ("row", _ROW)]))
    rows = packed["row"]
    packed["frame_index"] = frames[order]
    positions = {name: position for position, name in enumerate(index.classes)}
    encoded = pc.dictionary_encode(table["class_name"]).combine_chunks()
    lookup = np.array([positions.get(name, 0) for name in encoded.dictionary.to_pylist()] or [0], np.uint16)
    rows["class"] = lookup[encoded.indices.to_numpy(zero_copy_only=False)][order]
    rows["track"] = table["track_id"].to_numpy()[order]
    confidence = pc.fill_null(table["confidence"], -1.0).to_numpy()[order]
    rows["confidence"] = np.where(confidence < 0, 0, 1 + np.rint(np.clip(confidence, 0, 1) * 254))
    flags = [(IS_INTERPOLATED, "is_interpolated"), (IS_CORRECTED, "is_corrected")]
    for flag, name in flags:
        rows["flags"] |= (pc.fill_null(table[name], False).to_numpy(zero_copy_only=False)[order] * flag).astype(
            np.uint8
        )
    for column, (name, length_px) in enumerate(
        [
            ("x_min_px", index.width_px),
            ("y_min_px", index.height_px),
            ("x_max_px", index.width_px),
            ("y_max_px", index.height_px),
        ]
    ):
        share = table[name].to_numpy()[order] / length_px
        rows["box"][:, column] = np.rint(np.clip(share, 0, 1) * _SCALE)
    return packed


@dataclass
class BoxCache:
    """The boxes of the recordings that pages show, as read from one published snapshot each.

    Blocks of several chunks are kept, those used last, because one query per chunk would read the table each time.
    """

    _indexes: "OrderedDict[tuple[str, str], ChunkIndex]" = field(default_factory=OrderedDict)
    _blocks: "OrderedDict[tuple[str, str, int], np.ndarray]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def index(
        self, connection: duckdb.DuckDBPyConnection, snapshot: str, recording_id: str, size_px: tuple[int, int]
    ) -> ChunkIndex:
        """The chunks of a recording in a snapshot, from memory if a page has asked before."""
        key = (snapshot, recording_id)
        with self._lock:
            if key not in self._indexes:
                self._indexes[key] = read_chunk_index(connection, recording_id, size_px)
                while len(self._indexes) > _MAX_INDEXES:
                    self._indexes.popitem(last=False)
            return self._indexes[key]

    def chunk(
        self,
        connection: duckdb.DuckDBPyConnection,
        snapshot: str,
        recording_id: str,
        index: ChunkIndex,
        first_frame: int,
        end_frame: int,
    ) -> bytes:
        """Pack the boxes of the frames from first_frame up to end_frame, at most as many frames as a chunk holds."""
        end_frame = min(end_frame, first_frame + _MAX_FRAMES)
        firsts = np.array(index.first_frames)
        starts = np.cumsum(index.box_counts) - index.box_counts
        blocks = starts // _BLOCK_BOXES
        touched = blocks[np.searchsorted(firsts, first_frame, "right") - 1 : np.searchsorted(firsts, end_frame)]
        parts = []
        for block in sorted(set(touched.tolist())):
            of_block = np.flatnonzero(blocks == block)
            block_end = int(firsts[of_block[-1] + 1]) if of_block[-1] + 1 < len(firsts) else 1 << 31
            boxes = self._block(
                connection, (snapshot, recording_id, int(block)), index, int(firsts[of_block[0]]), block_end
            )
            begin, end = np.searchsorted(boxes["frame_index"], [first_frame, end_frame])
            rows = boxes["row"][begin:end].copy()
            rows["frame"] = boxes["frame_index"][begin:end] - first_frame
            parts.append(rows.tobytes())
        return b"".join(parts)

    def _block(
        self,
        connection: duckdb.DuckDBPyConnection,
        key: tuple[str, str, int],
        index: ChunkIndex,
        first_frame: int,
        end_frame: int,
    ) -> np.ndarray:
        with self._lock:
            if key not in self._blocks:
                self._blocks[key] = read_boxes(connection, key[1], index, first_frame, end_frame)
                while len(self._blocks) > _MAX_BLOCKS:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(key)
            return self._blocks[key]
