"""The status of a recording according to its file, and access to its row and its normalized video."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resources.errors import PipelineError, RecordingError
from resources.recording_files import RecordingFile, find_referenced_file
from resources.storage.delta_store import Store
from resources.storage.recording_rows import RecordingRow, read_recording_rows

NO_NORMALIZED_VIDEO = "The recording has no normalized video: materialize normalized_video first."
_NAMED_STRETCHES = 3


def read_normalized_row(recording_id: str, store: Store) -> RecordingRow:
    """Read the row of header and content of a recording that has been normalized.

    Raises:
        RecordingError: The recording has not been normalized.
    """
    row = read_recording_rows(store, [recording_id]).get(recording_id)
    if row is None or row["frame_count"] is None:
        raise RecordingError(NO_NORMALIZED_VIDEO)
    return row


@dataclass(frozen=True)
class VideoFile:
    """The normalized video of a recording.

    Attributes:
        path: Its path.
        source: The file of the recording, if that is used itself; None for a video of the data folder.
    """

    path: Path
    source: RecordingFile | None = None

    def reading(self) -> AbstractContextManager[Path]:
        """Provide the path for reading; a file of the watched folders is checked again afterwards.

        Raises:
            RecordingError: That file changed while it was read.
        """
        return self.source.reading() if self.source else nullcontext(self.path)

    def check_unchanged(self) -> None:
        """Check that a file of the watched folders has not changed since it was found.

        Raises:
            RecordingError: That file was changed, replaced or deleted.
        """
        if self.source:
            self.source.check_unchanged()


def find_normalized_video(row: Mapping[str, Any], data_folder: Path) -> VideoFile:
    """Find a recording's normalized video.

    Args:
        row: The recording's row of header and content.
        data_folder: Folder that paths in tables are relative to.

    Raises:
        RecordingError: The video was deleted, or the source that is used itself has other content.
    """
    if row["normalized_by"] == "reference" and row["video_path"] is not None:
        path = Path(row["video_path"])
        return VideoFile(path, find_referenced_file(path, row))
    if row["video_path"] is None or not (data_folder / row["video_path"]).exists():
        raise RecordingError(
            "The normalized video was deleted, by retention (retention.media_after_days) or by hand: materialize "
            "normalized_video again, for which the recording's file must be in the watched folder."
        )
    return VideoFile(data_folder / str(row["video_path"]))


@contextmanager
def open_video(recording_id: str, store: Store) -> Iterator[Path]:
    """Open the normalized video of a recording for a command or a page.

    Raises:
        PipelineError: There is none, it was deleted, or it does not have what is read in the block.
    """
    try:
        with find_normalized_video(read_normalized_row(recording_id, store), store.data_folder).reading() as video:
            yield video
    except RecordingError as error:
        raise PipelineError(f"{recording_id}: {error}") from error


def is_intact(row: Mapping[str, Any]) -> bool:
    """Whether a recording was normalized and every part of its file decoded.

    Args:
        row: The recording's row of header and content.
    """
    return row["frame_count"] is not None and media_status(row)[0] == "ok"


def media_status(row: Mapping[str, Any]) -> tuple[str, str | None]:
    """Status and error of a recording according to its packet ledger: `ok`, or `partial` with the missing stretches.

    Args:
        row: A row of `recording_contents`; its ledger columns may be None.
    """
    missing = [(stretch["start_s"], stretch["end_s"]) for stretch in row["missing_s"] or ()]
    sentences = []
    if row["corrupt_count"] or missing:
        corrupt = _count_phrase(row["corrupt_count"], "packet does not decode", "packets do not decode")
        cause = corrupt if row["corrupt_count"] else "The file ends early"
        sentences.append(f"{cause}; missing: {_describe_stretches(missing)}" if missing else cause)
    if row["damaged_count"]:
        sentences.append(_count_phrase(row["damaged_count"], "frame is damaged", "frames are damaged"))
    if not sentences:
        return "ok", None
    decoded, duration_s = (
        _count_phrase(row["frame_count_from_content"], "frame", "frames"),
        row["duration_s_from_content"],
    )
    return "partial", f"{'; '.join(sentences)}. The part that decodes is used: {decoded} ({duration_s:.2f} s)."


def _count_phrase(count: int, singular: str, plural: str) -> str:
    return f"{count} {singular if count == 1 else plural}"


def _describe_stretches(missing_s: Sequence[tuple[float, float]]) -> str:
    """Describe the first of some stretches by start and end; by length, if before the first frame."""
    texts = [
        f"{end_s - start_s:.2f} s before the first frame" if end_s <= 0 else f"{start_s:.2f} to {end_s:.2f} s"
        for start_s, end_s in missing_s[:_NAMED_STRETCHES]
    ]
    more = len(missing_s) - len(texts)
    return ", ".join(texts) + (f" and {more} more stretches" if more > 0 else "")
