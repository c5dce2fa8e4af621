"""The page on which a person answers an audit: one HTML file that works from the disk, without a network."""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.audit_strips import Strip, build_strips
from resources.audit.audit_answers import FILE_FORMAT, identities, read_answers
from resources.audit.audit_population import read_population
from resources.audit.audit_sample import AuditItem, AuditSample, draw_sample, hash_counts, sample_content
from resources.config.camera_config import CameraSettings
from resources.config.settings import Settings
from resources.config.settings_file import SETTINGS_VARIABLE
from resources.errors import PipelineError
from resources.storage.delta_store import Store
from resources.storage.recording_rows import RecordingRow, read_recording_rows

_TEMPLATE = Path(__file__).with_name("audit_page.html")
_SIDES = {(0, 1): "to the right", (0, -1): "to the left", (1, 1): "downwards", (1, -1): "upwards"}
"""How a person sees a direction: by axis and sign."""


@dataclass(frozen=True)
class AuditPage:
    """A page, and what to say of it.

    Attributes:
        html: The page.
        sample: What it asks.
    """

    html: str
    sample: AuditSample


def camera_rows(camera: str, store: Store) -> dict[str, RecordingRow]:
    """Read the normalized recordings of a camera, by id.

    Raises:
        PipelineError: There are none.
    """
    rows = {recording_id: row for recording_id, row in read_recording_rows(store).items() if row["frame_count"]}
    of_camera = {recording_id: row for recording_id, row in rows.items() if (row["camera"] or "") == camera}
    if not of_camera:
        known = ", ".join(sorted({repr(row["camera"] or "") for row in rows.values()})) or "none"
        raise PipelineError(f"The camera {camera!r} has no normalized recording; cameras with recordings: {known}.")
    return of_camera


def build_audit_page(camera: str, settings: Settings, count: int, seed: int) -> AuditPage:
    """Draw a sample of a camera and build its page; what has an answer already is not drawn again.

    Args:
        camera: First folder under the watched folder; empty for recordings directly in the watched folder.
        settings: The settings, with the data folder.
        count: Number of events and stretches.
        seed: Seed of the random generator.

    Raises:
        PipelineError: The camera has no recording, the sample is too small, or a video cannot be read.
    """
    store = Store(settings.data_folder)
    rows = camera_rows(camera, store)
    population = read_population(store, list(rows.values()), settings)
    answered = identities(read_answers(store, hash_counts(population)))
    sample = draw_sample(camera, population, count, seed, answered)
    events = [item for item in population if item.kind == "event"]
    strips = build_strips(sample.items, events, rows, store, settings)
    return AuditPage(render_audit_page(sample, strips, settings), sample)


def render_audit_page(sample: AuditSample, strips: Sequence[Strip], settings: Settings) -> str:
    """Render the page.

    Args:
        sample: The items, in the order in which they are asked.
        strips: What is shown of each.
        settings: The settings, with the lines of the camera.
    """
    camera = settings.camera(sample.camera)
    views = [
        {"question": _question(item, camera), "caption": strip.caption, "frames": list(strip.frames)}
        for item, strip in zip(sample.items, strips, strict=True)
    ]
    page_data = {
        "answers": {"format": FILE_FORMAT, **sample_content(sample)},
        "views": views,
        "file_name": answers_name(sample.camera),
        "command": _answers_command(sample.camera, settings),
    }
    # A name could contain the end tag of the script; escaped like this, the JSON is the same and contains no HTML.
    page_json = json.dumps(page_data).replace("<", "\\u003c")
    return _TEMPLATE.read_text(encoding="utf-8").replace("__PAGE_DATA__", page_json)


def answers_name(camera: str) -> str:
    """Name of the file of answers that the page saves."""
    return f"audit-{camera or 'recordings'}-answers.json"


def _answers_command(camera: str, settings: Settings) -> str:
    file = os.environ.get(SETTINGS_VARIABLE)
    options = f" --data {shlex.quote(str(settings.data_folder))}" + (f" --settings {shlex.quote(file)}" if file else "")
    return f"cv-assets audit {shlex.quote(camera)} --answers {shlex.quote(answers_name(camera))}{options}"


def _question(item: AuditItem, camera: CameraSettings) -> str:
    if item.kind == "event":
        if item.count_name.startswith("line "):
            what = f"crosses {item.count_name} {_side(item, camera)}"
        elif item.count_name.startswith("zone "):
            what = f"enters {item.count_name}, or appears in it,"
        else:
            what = "is there"
        return f"Is it right that this {item.class_name} {what} and is counted once?"
    if item.count_name.startswith("line "):
        return f"Do all objects that cross {item.count_name} have a thick box?"
    if item.count_name.startswith("zone "):
        return f"Do all objects that enter {item.count_name}, or appear in it, have a thick box?"
    return "Do all objects that come into view have a thick box?"


def _side(item: AuditItem, camera: CameraSettings) -> str:
    """How a person sees the direction of a crossing, such as `to the left (out)`."""
    points = next(line.points for line in camera.lines if f"line {line.name}" == item.count_name)
    along_x, along_y = points[-1][0] - points[0][0], points[-1][1] - points[0][1]
    across = (-along_y, along_x) if item.event == "in" else (along_y, -along_x)  # in: from its left to its right
    axis = int(abs(across[1]) > abs(across[0]))
    return f"{_SIDES[axis, 1 if across[axis] > 0 else -1]} ({item.event})"
