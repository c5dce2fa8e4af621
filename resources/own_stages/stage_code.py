"""What the child process of a stage runs: the function of a file, or a callable by its import path.

Nothing but plain values and Arrow tables is sent back, so that the pipeline's process never imports code of others.
"""

import importlib
import math
import mmap
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from resources.own_stages.stage_api import Batch, Crop
from resources.own_stages.stage_rows import WrongRowsError, rows_to_table
from resources.process_isolation import has_free_memory, limit_memory, serve_requests

RESULT, FAILURE, OUT_OF_MEMORY = "result", "failure", "out of memory"
"""Kinds of replies; that of a failure has a clause without its subject."""
_PICTURE_COLUMN = "jpeg"
_MAX_MESSAGE_LENGTH = 300
_MAX_CLASSES = 100


@dataclass(frozen=True)
class StageCode:
    """The function of a stage.

    Attributes:
        file: Its file, which need not exist any more.
        source: The text of the file.
        function_name: Name of the function.
        schema: The columns that it declares, without recording_id.
    """

    file: str
    source: str
    function_name: str
    schema: pa.Schema


@dataclass(frozen=True)
class CallableCode:
    """A classifier of pictures by its import path.

    Attributes:
        path: `package.module:function`.
        content_hash: Hash of the module's file, so that a changed one is loaded again.
    """

    path: str
    content_hash: str


@dataclass(frozen=True)
class SharedImages:
    """Where the images of a batch are, one after the other.

    Attributes:
        fd: The file in memory, inherited from the parent.
        shapes: Shape of each image, uint8 BGR.
    """

    fd: int
    shapes: Sequence[tuple[int, ...]]

    def read(self) -> list[np.ndarray]:
        """Read copies of the images: the function may keep them, and the file is written again."""
        sizes = [math.prod(shape) for shape in self.shapes]
        with mmap.mmap(self.fd, sum(sizes), access=mmap.ACCESS_READ) as memory:
            images, start = [], 0
            for size, shape in zip(sizes, self.shapes, strict=True):
                images.append(np.frombuffer(memory, np.uint8, size, start).reshape(shape).copy())
                start += size
        return images


class _LoadedCode:
    """The function that this process has loaded."""

    def __init__(self) -> None:
        self._function: Callable[[Any], Any] | None = None
        self._schema: pa.Schema | None = None
        self._folders: tuple[str, ...] = ()
        self._state: dict[str, Any] = {}

    def load(self, code: StageCode | CallableCode) -> None:
        """Load a function."""
        if isinstance(code, CallableCode):
            module_name, _, function_name = code.path.partition(":")
            module = importlib.import_module(module_name)
            self._folders = (str(Path(module.__file__ or "").parent),)
        else:
            function_name, self._schema = code.function_name, code.schema
            self._folders = (str(Path(code.file).parent),)
            sys.path.insert(0, self._folders[0])  # so that the file can import its neighbours
            module = types.ModuleType(f"own_stage_{function_name}")
            module.__file__ = code.file
            sys.modules[module.__name__] = module
            exec(compile(code.source, code.file, "exec"), module.__dict__)
        self._function = getattr(module, function_name)

    def call(self, argument: Any, images: SharedImages | None) -> Any:
        """Call the function.

        Args:
            argument: A batch; or pictures as JPEG, for a callable.
            images: The images of the batch's frames, if it has any.
        """
        assert self._function is not None
        if isinstance(argument, Batch):
            assert self._schema is not None
            if images is not None:
                pairs = zip(argument.frames, images.read(), strict=True)
                argument = replace(argument, frames=[replace(frame, image=image) for frame, image in pairs])
            return rows_to_table(self._function(self._prepare(argument)), self._schema)
        pictures = [decode_jpeg(jpeg) for jpeg in argument]
        return _check_answers(self._function(pictures), len(pictures))

    def _prepare(self, batch: Batch) -> Batch:
        if batch.state.pop("is_first", False):
            self._state = {}
        crops = []
        for crop in batch.crops:
            row = dict(crop.row)
            crops.append(Crop(row, decode_jpeg(row.pop(_PICTURE_COLUMN, None))))
        return replace(batch, crops=crops, state=self._state)

    def describe(self, error: BaseException) -> str:
        """Describe an error of the function as a clause, with the line of its file."""
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if self._is_own(frame.filename)]
        line = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        if isinstance(error, SystemExit):
            return f"called exit({'' if error.code is None else error.code}){line}"
        text = " ".join(str(error).split())[:_MAX_MESSAGE_LENGTH].rstrip(".")
        return f"raised {type(error).__name__}{': ' if text else ''}{text}{line}"

    def _is_own(self, file: str) -> bool:
        return any(file.startswith(folder) for folder in self._folders)


def decode_jpeg(jpeg: bytes | None) -> np.ndarray | None:
    """Decode a picture to uint8 BGR; None if it is missing or no JPEG."""
    import cv2

    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    return None if image is None else np.asarray(image)


def _check_answers(answers: Any, count: int) -> list[list[tuple[str, float]] | str]:
    """Check the answers of a classifier: for each picture its classes with their confidence, or why there are none."""
    if not isinstance(answers, Sequence) or isinstance(answers, str) or len(answers) != count:
        length = len(answers) if isinstance(answers, Sequence) else f"a {type(answers).__name__}"
        raise WrongRowsError(f"returned {length} instead of a list of {count} answers")
    checked: list[list[tuple[str, float]] | str] = []
    for number, answer in enumerate(answers, 1):
        if isinstance(answer, str):
            checked.append(answer)
            continue
        try:
            pairs = [(str(name), float(confidence)) for name, confidence in answer]
        except (TypeError, ValueError):
            raise WrongRowsError(
                f"returned {answer!r:.60} as answer {number}, which is no list of pairs (class, confidence) and no text"
            ) from None
        if any(not 0 <= confidence <= 1 for _, confidence in pairs):
            raise WrongRowsError(f"returned a confidence outside 0 to 1 in answer {number}")
        checked.append(sorted(pairs, key=lambda pair: -pair[1])[:_MAX_CLASSES])
    return checked


_loaded = _LoadedCode()


def handle_request(request: tuple[int, Any, SharedImages | None], _: object) -> tuple[str, Any]:
    """Load a function, or call it; returns the kind of the reply and its value."""
    max_memory_mb, argument, images = request
    limit_memory(max_memory_mb)
    try:
        if isinstance(argument, StageCode | CallableCode):
            _loaded.load(argument)
            return RESULT, None
        return RESULT, _loaded.call(argument, images)
    except WrongRowsError as error:
        return FAILURE, str(error)
    except BaseException as error:  # exit and interrupts are errors of the stage, too
        if isinstance(error, MemoryError) or (not isinstance(error, SystemExit) and not has_free_memory(max_memory_mb)):
            return OUT_OF_MEMORY, ""
        return FAILURE, _loaded.describe(error)


if __name__ == "__main__":
    # Imported again by its name: the classes of requests are those of this name, not those of the main module.
    serve_requests(importlib.import_module("resources.own_stages.stage_code").handle_request)
