"""Runs what decodes files in a subprocess, so that a crash or hang of a codec library costs one recording only.

A file on which the subprocess crashes or stalls is retried once with a single decoding thread, which avoids most faults
of codecs, and then fails; the next file gets a new subprocess.
"""

import logging
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from resources.config.media_config import VideoSettings
from resources.errors import PipelineError, RecordingError, RejectedRecordingError
from resources.media.normalize import normalize
from resources.media.normalized_file import NormalizedVideo
from resources.media.probe import Probe, probe
from resources.media.progress import ReportProgress
from resources.media.source_cuts import CutSource, FrameCuts, SourceCut, cut_source
from resources.previews.preview_throttle import PreviewThrottle
from resources.process_isolation import (
    IsolatedProcess,
    ProcessCrashedError,
    ProcessStalledError,
    has_free_memory,
    limit_memory,
    serve_requests,
)

logger = logging.getLogger(__name__)

_REPORT_INTERVAL_S = 0.5
_RETRY_THREAD_COUNT = 1
_SLOW_DISK_BYTES_PER_S = 5_000_000  # finishing a large file rewrites it, without any progress report
_NO_PROGRESS: ReportProgress = lambda done, total, image=None: None  # noqa: E731 - a constant

Result = TypeVar("Result")


def probe_in_subprocess(path: Path, settings: VideoSettings) -> Probe:
    """Run `probe` in the media process.

    Raises:
        RejectedRecordingError: As in `probe`; or the decoder crashed on the file or exceeded its memory limit.
        RecordingError: The file does not exist or is not readable, or decoding stalled.
    """
    return _process.request(_probe, (path, settings), path, settings, _NO_PROGRESS)


def normalize_in_subprocess(
    path: Path, output: Path, settings: VideoSettings, progress: ReportProgress = _NO_PROGRESS
) -> NormalizedVideo:
    """Run `normalize` in the media process.

    Raises:
        RejectedRecordingError: As in `normalize`; or the decoder crashed on the file or exceeded its memory limit.
        RecordingError: The file does not exist or is not readable, or decoding stalled.
        OSError: The output cannot be written.
    """
    return _process.request(_normalize, (path, output, settings), path, settings, progress)


def cut_source_in_subprocess(
    path: Path,
    source: CutSource,
    cuts: Sequence[FrameCuts],
    settings: VideoSettings,
    jpeg_quality: int,
    progress: ReportProgress = _NO_PROGRESS,
) -> list[list[SourceCut]]:
    """Run `cut_source` in the media process.

    Raises:
        RejectedRecordingError: As in `cut_source`; or the decoder crashed on the file or exceeded its memory limit.
        RecordingError: As in `cut_source`, or decoding stalled.
    """
    return _process.request(_cut_source, (path, source, cuts, settings, jpeg_quality), path, settings, progress)


def _probe(progress: ReportProgress, thread_count: int | None, path: Path, settings: VideoSettings) -> Probe:
    return probe(path, settings, lambda: progress(0, 0), thread_count)


def _normalize(
    progress: ReportProgress, thread_count: int | None, path: Path, output: Path, settings: VideoSettings
) -> NormalizedVideo:
    return normalize(path, output, settings, progress, thread_count)


def _cut_source(
    progress: ReportProgress,
    thread_count: int | None,
    path: Path,
    source: CutSource,
    cuts: Sequence[FrameCuts],
    settings: VideoSettings,
    jpeg_quality: int,
) -> list[list[SourceCut]]:
    return cut_source(path, source, cuts, settings, jpeg_quality, progress, thread_count)


class MediaProcess(IsolatedProcess):
    """The parent's side of the media process."""

    def __init__(self) -> None:
        super().__init__(__name__)
        self._lock = threading.Lock()

    def request(
        self,
        function: Callable[..., Result],
        arguments: tuple[Any, ...],
        path: Path,
        settings: VideoSettings,
        progress: ReportProgress,
    ) -> Result:
        """Run a function in the media process; retry it with a single thread if the process crashes or stalls.

        Args:
            function: A function of this module that takes a progress callback, a thread count and the arguments.
            arguments: Further arguments of the function.
            path: The recording.
            settings: Limits of memory and of time without progress.
            progress: Progress callback.

        Returns:
            The result of the function.

        Raises:
            RejectedRecordingError: The process crashed twice on the file.
            RecordingError: The process stalled twice on the file.
        """
        with self._lock:
            try:
                return self._attempt(function, None, arguments, path, settings, progress)
            except (ProcessCrashedError, ProcessStalledError) as error:
                logger.warning("%s: the decoder %s: retrying with a single thread.", path.name, error)
            try:
                return self._attempt(function, _RETRY_THREAD_COUNT, arguments, path, settings, progress)
            except ProcessCrashedError as error:
                raise RejectedRecordingError(
                    f"The decoder {error}, with several threads and with one: the file is damaged in a way "
                    "that crashes the decoder."
                ) from error
            except ProcessStalledError as error:
                raise RecordingError(
                    f"The decoder {error}, with several threads and with one: the file or the disk hangs; "
                    "video.stall_s sets the time limit."
                ) from error

    def _attempt(
        self,
        function: Callable[..., Result],
        thread_count: int | None,
        arguments: tuple[Any, ...],
        path: Path,
        settings: VideoSettings,
        progress: ReportProgress,
    ) -> Result:
        time_limit_s = settings.stall_s
        try:
            self.send((function.__name__, thread_count, arguments, settings.max_memory_mb), time_limit_s)
            while True:
                kind, value = self.receive(time_limit_s)
                if kind == "progress":
                    progress(*value)
                    if value[0] == value[1] > 0:
                        # All frames are encoded: now the index is written, and the whole file is rewritten after it.
                        time_limit_s = settings.stall_s + _size_bytes(path) / _SLOW_DISK_BYTES_PER_S
                elif kind == "result":
                    return cast(Result, value)
                else:
                    raise value
        except BaseException as error:
            if not isinstance(error, (PipelineError, RecordingError)):
                self.stop()  # the result of the request is no longer needed
            raise


_process = MediaProcess()


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # the media process reports the problem of the file


def _handle(request: tuple[Any, ...], connection: "Connection[Any, Any]") -> tuple[str, Any]:
    """Run the function of a request; returns the kind of the reply and its value."""
    function_name, thread_count, arguments, max_memory_mb = request
    limit_memory(max_memory_mb)
    try:
        return "result", globals()[function_name](_progress_sender(connection), thread_count, *arguments)
    except BrokenPipeError:
        raise
    except Exception as error:
        return "error", _picklable_error(error, max_memory_mb)


def _progress_sender(connection: "Connection[Any, Any]") -> ReportProgress:
    """A progress callback that sends to the parent, twice a second at most, and each image at most once."""
    last_sent_s, throttle = 0.0, PreviewThrottle()
    last_image: np.ndarray | None = None

    def send_progress(done: int, total: int, image: np.ndarray | None = None, /) -> None:
        nonlocal last_sent_s, last_image
        now_s = time.monotonic()
        if now_s - last_sent_s >= _REPORT_INTERVAL_S or done == total > 0:
            last_sent_s = now_s
            sends_image = image is not None and image is not last_image and throttle.is_due(done, total)
            last_image = image if sends_image else last_image
            connection.send(("progress", (done, total, image if sends_image else None)))

    return send_progress


def _picklable_error(error: Exception, max_memory_mb: int) -> Exception:
    """Convert an error to one that can be sent to the parent process."""
    if isinstance(error, (PipelineError, RecordingError)):
        return error
    if isinstance(error, MemoryError) or not has_free_memory(max_memory_mb):
        return RejectedRecordingError(
            f"The recording needs more than {max_memory_mb} MB to decode (video.max_memory_mb): raise the setting "
            "if the machine has enough memory."
        )
    if isinstance(error, OSError) and error.errno:
        return OSError(error.errno, error.strerror, error.filename)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error of a library may not be picklable, but its message is
        return RecordingError(f"Unexpected {type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    serve_requests(_handle)
