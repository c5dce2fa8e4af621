"""The folder of an export: it appears whole, or not at all."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from resources.config.settings import Settings
from resources.draft_file import reason_of
from resources.errors import PipelineError
from resources.exports.annotations import RecordingAnnotations
from resources.media.frame_reader import number_frames, read_images

_JPEG_QUALITY = 95


@contextmanager
def export_folder(out: Path, settings: Settings) -> Iterator[Path]:
    """A folder to write into, which becomes `out` once all is written.

    Args:
        out: A new folder, or an empty one.
        settings: Nothing is written into the watched folders and the data folder.

    Raises:
        PipelineError: The folder exists and has files, lies in a folder of the pipeline, or cannot be written.
    """
    for name, folder in (*(("watched", path) for path in settings.watched_folders), ("data", settings.data_folder)):
        if out.resolve().is_relative_to(folder.resolve()):
            raise PipelineError(f"The folder {out} is inside the {name} folder: choose another with --out.")
    draft = out.parent / f".{out.name}.partial"
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise PipelineError(f"The folder {out} exists and is not empty: choose another with --out.")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        if out.exists():
            out.rmdir()
        draft.rename(out)
    except (OSError, duckdb.IOException) as error:
        raise PipelineError(f"The folder {out} cannot be written: {reason_of(error)}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_images(
    video: Path, recording: RecordingAnnotations, frame_indices: Sequence[int], files: Sequence[Path]
) -> None:
    """Write frames of a normalized video as JPEG files.

    Args:
        video: The normalized video.
        recording: Its recording.
        frame_indices: The frames, ascending.
        files: The file of each.

    Raises:
        RecordingError: The video ends before the last of the frames.
    """
    import cv2

    images = read_images(video, frame_indices, recording.rate_fps)
    for file, (_, image) in zip(files, number_frames(images, frame_indices, video), strict=True):
        is_encoded, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        assert is_encoded, file
        file.write_bytes(jpeg.tobytes())
