"""The folder of an export: it appears whole, or not at all."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.exports.annotations import RecordingAnnotations
from resources.media.frame_reader import read_images

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
    except OSError as error:
        raise PipelineError(f"The folder {out} cannot be written: {error.strerror or error}.") from error
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
        PipelineError: The video ends before the last of the frames.
    """
    import cv2

    count = 0
    for file, image in zip(files, read_images(video, frame_indices, recording.rate_fps), strict=False):
        is_encoded, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        assert is_encoded, file
        file.write_bytes(jpeg.tobytes())
        count += 1
    if count < len(files):
        raise PipelineError(
            f"The video {video} ends before frame {frame_indices[count]}: materialize normalized_video again."
        )
