"""Pictures that people upload to find similar objects: their embeddings, kept in memory while the server runs."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resources.config.crop_model_config import CropModelSettings
from resources.process_isolation import IsolatedProcess, ProcessCrashedError, ProcessStalledError
from serve.problems import ProblemError

MAX_PICTURE_BYTES = 20_000_000
PREFIX = "picture:"
"""How addresses of pages name a picture: this and a hash of its content."""
_MAX_PICTURES = 100
_TIME_LIMIT_S = 60.0


@dataclass(frozen=True)
class Picture:
    """An uploaded picture.

    Attributes:
        embedding: Shape (n,).
        model_id: Model of the embedding.
        jpeg: A small copy.
    """

    embedding: np.ndarray
    model_id: str
    jpeg: bytes


@dataclass
class PictureExamples:
    """The pictures uploaded last, by the name that addresses of pages have."""

    _pictures: "OrderedDict[str, Picture]" = field(default_factory=OrderedDict)
    _process: IsolatedProcess = field(default_factory=lambda: IsolatedProcess("serve.picture_process"))
    _process_lock: threading.Lock = field(default_factory=threading.Lock)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, content: bytes, model: CropModelSettings) -> str:
        """Compute the embedding of a picture, and keep it; returns its name.

        Raises:
            ProblemError: It is no picture, or its embedding cannot be computed.
        """
        name = PREFIX + hashlib.blake2b(model.model_dump_json().encode() + content, digest_size=12).hexdigest()
        with self._process_lock:  # one picture at a time, because the model uses all cores
            with self._lock:
                if name in self._pictures:
                    return name
            answer = self._ask_process(content, model)
        if "error" in answer:
            raise ProblemError(422, answer["error"])
        with self._lock:
            self._pictures[name] = Picture(answer["embedding"], answer["model_id"], answer["jpeg"])
            while len(self._pictures) > _MAX_PICTURES:
                self._pictures.popitem(last=False)
        return name

    def find(self, name: str) -> Picture:
        """The picture of a name.

        Raises:
            ProblemError: It is not in memory.
        """
        with self._lock:
            if name not in self._pictures:
                raise ProblemError(404, "The picture is no longer in the memory of the server: choose its file again.")
            self._pictures.move_to_end(name)
            return self._pictures[name]

    def stop(self) -> None:
        """End the process that computes embeddings."""
        self._process.stop()

    def _ask_process(self, content: bytes, model: CropModelSettings) -> dict[str, Any]:
        try:
            self._process.send((content, model), _TIME_LIMIT_S)
            answer: dict[str, Any] = self._process.receive(_TIME_LIMIT_S)
        except ProcessCrashedError as error:
            raise ProblemError(422, f"The picture cannot be read: its decoder {error}; send it as a JPEG.") from error
        except ProcessStalledError as error:
            self._process.stop()
            raise ProblemError(503, f"The embedding of the picture {error}: try again later.") from error
        return answer
