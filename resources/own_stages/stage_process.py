"""The parent's side of the child processes in which code of one's own runs: one per stage, kept warm.

A function that crashes, hangs, returns something else than it declares, uses too much memory or calls exit fails the
recording on which it does so; where that may have damaged the process, the next recording gets a new one.
"""

import os
import tempfile
import threading
from dataclasses import replace
from typing import IO, Any

import numpy as np

from resources.config.stage_config import IsolatedCodeSettings
from resources.errors import RecordingError
from resources.own_stages import stage_code
from resources.own_stages.stage_api import Batch
from resources.own_stages.stage_code import FAILURE, OUT_OF_MEMORY, CallableCode, SharedImages, StageCode
from resources.process_isolation import IsolatedProcess, ProcessCrashedError, ProcessStalledError

_LOAD_TIME_LIMIT_S = 300.0  # importing torch on a busy machine and loading a model take minutes


class StageProcess(IsolatedProcess):
    """The process of one stage.

    Args:
        name: Name of the stage, with which errors begin.
        code: The function that it runs.
        settings: Its limits.
    """

    def __init__(self, name: str, code: StageCode | CallableCode, settings: IsolatedCodeSettings) -> None:
        # Frames are exchanged in shared memory: through a pipe they would take several times as long.
        self._shared = _open_shared_memory()
        super().__init__(stage_code.__name__, [self._shared.fileno()])
        self._lock = threading.Lock()
        self._name, self.code, self.settings = name, code, settings

    def call(self, argument: Any) -> Any:
        """Call the function.

        Args:
            argument: A batch; or pictures as JPEG, for a callable.

        Returns:
            What the function returns, checked.

        Raises:
            RecordingError: The function failed.
        """
        with self._lock:
            if not self.is_running:
                self._request(self.code, None, max(self.settings.batch_timeout_s, _LOAD_TIME_LIMIT_S), "when loaded, ")
            images = self._share_images(argument) if isinstance(argument, Batch) and argument.frames else None
            if images:
                no_image = np.empty((0, 0, 3), np.uint8)
                argument = replace(argument, frames=[replace(frame, image=no_image) for frame in argument.frames])
            return self._request(argument, images, self.settings.batch_timeout_s, "")

    def free_shared_memory(self) -> None:
        """Free the memory in which frames are exchanged, until the next call."""
        self._shared.truncate(0)

    def _share_images(self, batch: Batch) -> SharedImages:
        self._shared.seek(0)
        for frame in batch.frames:
            self._shared.write(np.ascontiguousarray(frame.image).data.cast("B"))
        return SharedImages(self._shared.fileno(), [frame.image.shape for frame in batch.frames])

    def _request(self, argument: Any, images: SharedImages | None, time_limit_s: float, when: str) -> Any:
        settings = self.settings
        try:
            self.send((settings.max_memory_mb, argument, images), time_limit_s)
            kind, value = self.receive(time_limit_s)
        except ProcessCrashedError as error:
            raise RecordingError(f"{self._name}: {when}its process {error}.") from error
        except ProcessStalledError as error:
            self.stop()
            raise RecordingError(
                f"{self._name}: {when}its process did not return a batch within {time_limit_s:g} s: make the batch "
                "smaller, or raise batch_timeout_s."
            ) from error
        except BaseException:
            self.stop()  # the reply to this request is no longer needed
            raise
        if kind == OUT_OF_MEMORY:
            self.stop()
            raise RecordingError(
                f"{self._name}: {when}its process needs more than {settings.max_memory_mb} MB (max_memory_mb): make "
                "the batch smaller, or raise the setting if the machine has enough memory."
            )
        if kind == FAILURE:
            if when:
                self.stop()  # so that it is loaded again
            raise RecordingError(f"{self._name}: {when}its function {value}.")
        return value


def _open_shared_memory() -> IO[bytes]:
    """Open a file in memory that a child process can map."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("frames"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


_processes: dict[str, StageProcess] = {}


def stage_process(name: str, code: StageCode | CallableCode, settings: IsolatedCodeSettings) -> StageProcess:
    """The process of a stage, kept as long as this process runs; a new one where code or limits have changed."""
    process = _processes.get(name)
    if process is None or process.code != code or process.settings != settings:
        if process is not None:
            process.stop()
        process = _processes[name] = StageProcess(name, code, settings)
    return process
