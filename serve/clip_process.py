"""The process of one clip of the pages: cuts it as the command `clip` does, into a file that is named in the request.

It reads a request as JSON from standard input and writes the name of the clip to standard output. What cannot be cut is
one sentence on standard error, with the exit status REFUSED_STATUS.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from cv_assets.recording_clips import RecordingClips
from resources.clips.overlay import Overlay
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.process_isolation import limit_memory
from resources.storage.results_database import open_results
from serve.sql_process import REFUSED_STATUS

_NICENESS = 10  # the pipeline and the pages come first


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    limit_memory(request["memory_mb"])
    os.nice(_NICENESS)
    try:
        print(_cut(request))
    except PipelineError as error:
        sys.stderr.write(str(error))
        sys.exit(REFUSED_STATUS)


def _cut(request: dict[str, object]) -> str:
    """Cut the clip; returns its name.

    Raises:
        PipelineError: There is no such recording, track or time, or the clip is too long or cannot be written.
    """
    settings = Settings.model_validate_json(str(request["settings"]))
    track = None if request["track"] is None else int(str(request["track"]))
    start, end = (None if request[name] is None else str(request[name]) for name in ("from_s", "to_s"))
    max_s, context_s = float(str(request["max_s"])), float(str(request["context_s"]))
    flags: dict[str, Any] = {f"has_{name}": True for name in str(request["draw"]).split()}
    with open_results(settings.data_folder) as results:
        clips = RecordingClips(results, settings, str(request["recording_id"]))
        (stretch,) = clips.stretches([] if track is None else [track], (), start, end, context_s)
        duration_s = clips.duration_s(stretch)
        if duration_s > max_s:
            raise PipelineError(
                f"The clip would be {duration_s:.0f} s long, and the pages make clips of up to {max_s:.0f} s: choose a "
                "shorter range, or use the command cv-assets clip."
            )
        painter = clips.painter(Overlay(**flags, track_id=track), [stretch])
        clips.write(stretch, Path(str(request["output"])), painter, has_captions=False)
        return clips.file_name(stretch)


if __name__ == "__main__":
    main()
