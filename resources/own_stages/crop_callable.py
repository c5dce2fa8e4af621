"""A crop model that is a Python callable, by its import path: it runs in a child process as stages of one's own do."""

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from resources.config.stage_config import CALLABLE_PATTERN, IsolatedCodeSettings
from resources.errors import PipelineError
from resources.own_stages.stage_code import CallableCode
from resources.own_stages.stage_process import stage_process

Answer = list[tuple[str, float]] | str
"""Classes with their confidences, best first; or why there are none."""


@dataclass(frozen=True)
class CropCallable:
    """A classifier of crops: takes a list of pictures (uint8 BGR, None for one that is no JPEG).

    It returns for each a list of pairs (class, confidence), or a text that says why there is none.

    Attributes:
        name: Name of the crop model.
        path: `package.module:function`.
        settings: Limits of its process.
        batch_size: Number of pictures per call.
    """

    name: str
    path: str
    settings: IsolatedCodeSettings = field(default_factory=IsolatedCodeSettings)
    batch_size: int = 32

    @property
    def content_hash(self) -> str:
        """Hash of the module's file, which is part of the version of the results.

        Raises:
            PipelineError: There is no such module.
        """
        return hashlib.blake2b(_find_file(self.path).read_bytes(), digest_size=8).hexdigest()

    def classify(self, jpegs: Sequence[bytes]) -> Iterator[Answer]:
        """Classify pictures, in order.

        Raises:
            PipelineError: There is no such module.
            RecordingError: The callable failed.
        """
        process = stage_process(self.name, CallableCode(self.path, self.content_hash), self.settings)
        for start in range(0, len(jpegs), self.batch_size):
            yield from process.call(list(jpegs[start : start + self.batch_size]))


def hash_callable(path: str) -> str:
    """Hash of the file of a callable's module; empty if it cannot be found, which the run of its stage reports."""
    try:
        return CropCallable("", path).content_hash
    except (PipelineError, OSError):
        return ""


def _find_file(path: str) -> Path:
    """Find the file of a callable's module, without importing it or its packages."""
    if not re.match(CALLABLE_PATTERN, path):
        raise PipelineError(f"The callable {path!r} is not of the form package.module:function.")
    names = path.partition(":")[0].split(".")
    folders: list[str] | None = sys.path
    spec: ModuleSpec | None = None
    for number in range(1, len(names) + 1):
        spec = PathFinder.find_spec(".".join(names[:number]), folders)
        if spec is None:
            raise PipelineError(
                f"The callable {path} has no module {'.'.join(names[:number])}: install its package, or set PYTHONPATH."
            )
        folders = list(spec.submodule_search_locations or ())
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise PipelineError(f"The callable {path} is in a package without a file: name a module of it.")
    return Path(spec.origin)
