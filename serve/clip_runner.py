"""Makes clips for the pages, each in a process that is killed at its time limit."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT
from serve.problems import ProblemError
from serve.sql_process import REFUSED_STATUS

MAX_CLIP_S = 600.0
_CONTEXT_S = 3.0
_TIME_LIMIT_S = 600.0
_MEMORY_MB = 4000
_MAX_PROCESSES = 2
_MAX_SENTENCE_BYTES = 4000


@dataclass(frozen=True)
class ClipQuery:
    """What a clip of a recording shows.

    Attributes:
        recording_id: The recording.
        track: A track; None for a time range.
        from_s: Start of the range; None is the start of the recording.
        to_s: End of the range; None is the end of the recording.
        draw: What is drawn: `boxes`, `labels`, `trails`, `zones`, `clock`.
    """

    recording_id: str
    track: int | None
    from_s: float | None
    to_s: float | None
    draw: Sequence[str]


@dataclass(frozen=True)
class MadeClip:
    """A finished clip.

    Attributes:
        file: The MP4 file.
        name: Its name for people.
    """

    file: Path
    name: str

    def delete(self) -> None:
        """Delete the file with its folder."""
        shutil.rmtree(self.file.parent, ignore_errors=True)


class ClipRunner:
    """Makes clips, a few at once.

    Args:
        time_limit_s: Time after which the process of a clip is killed.
    """

    def __init__(self, time_limit_s: float = _TIME_LIMIT_S) -> None:
        self._time_limit_s = time_limit_s
        self._slots = asyncio.Semaphore(_MAX_PROCESSES)

    async def make(self, query: ClipQuery, settings: Settings) -> MadeClip:
        """Make a clip in a temporary folder, which the caller deletes.

        Raises:
            ProblemError: The clip cannot be cut, takes too long, or others are being made.
        """
        if self._slots.locked():
            raise ProblemError(503, f"{_MAX_PROCESSES} clips are being made: try again in a minute.")
        async with self._slots:
            clip = MadeClip(Path(tempfile.mkdtemp(prefix="cv-assets-clip-")) / "clip.mp4", "")
            try:
                return MadeClip(clip.file, await self._execute(query, settings, clip.file))
            except BaseException:
                clip.delete()
                raise

    async def _execute(self, query: ClipQuery, settings: Settings, output: Path) -> str:
        request = {
            "settings": settings.model_dump_json(),
            "recording_id": query.recording_id,
            "track": query.track,
            "from_s": query.from_s,
            "to_s": query.to_s,
            "draw": " ".join(query.draw),
            "context_s": _CONTEXT_S,
            "max_s": MAX_CLIP_S,
            "memory_mb": _MEMORY_MB,
            "output": str(output),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "serve.clip_process"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
            cwd=PROJECT_ROOT,
        )
        try:
            async with asyncio.timeout(self._time_limit_s):
                name, log = await process.communicate(json.dumps(request).encode())
        except TimeoutError as error:
            sentence = f"The clip takes longer than {self._time_limit_s:g} s and was ended: choose a shorter range."
            raise ProblemError(422, sentence) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        sentence = log.decode(errors="replace")[-_MAX_SENTENCE_BYTES:]
        if process.returncode == REFUSED_STATUS:
            raise ProblemError(422, sentence)
        if process.returncode is None or process.returncode < 0:  # ended by a signal, as beyond its memory
            raise ProblemError(422, "The process of the clip was ended by the system: choose a shorter range.")
        if process.returncode != 0:
            raise RuntimeError(f"the process of a clip failed: {sentence}")
        return name.decode().strip()
