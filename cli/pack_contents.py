"""What an evidence pack contains: clips, stills, rows, provenance and a report, written into a folder."""

import json
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa

from cli.result_formats import replace_blobs
from cv_assets.media_status import VideoFile
from resources.clips.clip_selection import Stretch, format_srt, format_vtt, read_captions
from resources.clips.clip_writer import write_clip
from resources.clips.frame_canvas import FrameCanvas
from resources.clips.overlay import ClipPainter, Overlay, wall_clock_text
from resources.config.settings import Settings
from resources.evidence.pack_archive import hash_file
from resources.exports.annotations import RecordingAnnotations
from resources.media.frame_reader import decode_frames, number_frames
from resources.storage.version_settings import read_version_settings

_TEMPLATE = Path(__file__).with_name("pack_report.html")
_JPEG_QUALITY = 92
_OVERLAPS = "rows.start_s <= stretches.end_s AND rows.{end} >= stretches.start_s"
_TABLES = {
    **dict.fromkeys(("recordings", "stage_runs", "model_runs", "v_corrections"), "true"),
    **dict.fromkeys(
        ("detections", "track_boxes", "zone_events"),
        "rows.frame_index BETWEEN stretches.first_frame AND stretches.last_frame",
    ),
    "v_objects": _OVERLAPS.format(end="end_s"),
    "line_trips": _OVERLAPS.format(end="start_s + rows.travel_s"),
}
"""The tables of a pack, and which of their rows belong to a stretch."""
_EVENTS_SQL = """
    SELECT frame_index, time_s, class_name, track_id, event, coalesce(line_name, zone_name) FROM zone_events
    WHERE recording_id = $id AND frame_index BETWEEN $first AND $last ORDER BY time_s, track_id, event_index
"""
_OBJECTS_SQL = """
    SELECT track_id, class_name, greatest(start_s, $start_s), least(end_s, $end_s), best_crop_frame_index,
        first_frame_index, last_frame_index
    FROM v_objects JOIN (SELECT recording_id, track_id, first_frame_index, last_frame_index FROM tracks)
        USING (recording_id, track_id)
    WHERE recording_id = $id AND first_frame_index <= $last AND last_frame_index >= $first ORDER BY start_s, track_id
"""
_STAGES_SQL = """
    SELECT stage, status, error, attempt, started_at_utc, finished_at_utc, worker, code_version, data_version, run_id
    FROM stage_runs WHERE recording_id = $id
    QUALIFY row_number() OVER (PARTITION BY stage ORDER BY finished_at_utc DESC, attempt DESC) = 1
    ORDER BY finished_at_utc
"""
_FILE_COLUMNS = (
    *("recording_id", "camera", "source_path", "size_bytes", "content_hash", "mtime_utc", "started_at_utc"),
    *("started_at_source", "status", "error", "frame_count", "packet_count", "corrupt_count", "normalized_by"),
)


@dataclass(frozen=True)
class PackedRecording:
    """A recording in a pack.

    Attributes:
        annotations: Its boxes.
        stretches: Its stretches.
        video: Its normalized video.
        started_at_utc: Wall clock of its first frame; None if it is not known.
        time_zone: Time zone of its clock.
    """

    annotations: RecordingAnnotations
    stretches: Sequence[Stretch]
    video: VideoFile
    started_at_utc: datetime | None
    time_zone: str


def write_pack_contents(
    folder: Path,
    results: duckdb.DuckDBPyConnection,
    recordings: Sequence[PackedRecording],
    settings: Settings,
    reason: str | None,
) -> None:
    """Write the files of a pack.

    Args:
        folder: An empty folder.
        results: The published results.
        recordings: The recordings with their stretches.
        settings: The settings.
        reason: Why the pack is made, for the report.

    Raises:
        RecordingError: A video ends early, or changed in the watched folder while it was read.
    """
    results.execute("SET TimeZone = 'UTC'")
    _write_rows(folder, results, recordings)
    origins = [_read_provenance(results, recording, settings) for recording in recordings]
    provenance = {
        "created_at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "created_by": f"cv-assets {version('cv-assets')}",
        "reason": reason,
        "recordings": origins,
    }
    _write_json(folder / "provenance.json", provenance)
    views = []
    for recording, origin in zip(recordings, origins, strict=True):
        with recording.video.reading() as video:
            views += [
                _write_stretch(folder, results, recording, stretch, video, settings) | {"file": origin["file"]}
                for stretch in recording.stretches
            ]
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(_TEMPLATE.read_text(encoding="utf-8"))
    (folder / "report.html").write_text(template.render(views=views, provenance=provenance), encoding="utf-8")


def _write_rows(folder: Path, results: duckdb.DuckDBPyConnection, recordings: Sequence[PackedRecording]) -> None:
    stretches = [
        {
            "recording_id": recording.annotations.recording_id,
            "first_frame": stretch.first_frame,
            "last_frame": stretch.last_frame,
            "start_s": float(recording.annotations.times_s[stretch.first_frame]),
            "end_s": float(recording.annotations.times_s[stretch.last_frame]),
        }
        for recording in recordings
        for stretch in recording.stretches
    ]
    results.register("pack_stretches", pa.Table.from_pylist(stretches))
    (folder / "rows").mkdir()
    for name, condition in _TABLES.items():
        rows = results.sql(
            f"""FROM {name} AS rows WHERE EXISTS (
                FROM pack_stretches AS stretches WHERE stretches.recording_id = rows.recording_id AND {condition}
            ) ORDER BY ALL"""
        )
        replace_blobs(rows).write_csv(str(folder / "rows" / f"{name}.csv"), header=True)


def _read_provenance(
    results: duckdb.DuckDBPyConnection, recording: PackedRecording, settings: Settings
) -> dict[str, Any]:
    """Where the results of a recording come from: its file, the models, each stage with its settings."""
    values = {"id": recording.annotations.recording_id}
    columns = ", ".join(_FILE_COLUMNS)
    (file,) = _fetch(results, f"SELECT {columns} FROM recordings WHERE recording_id = $id", values)
    stages = _fetch(results, _STAGES_SQL, values)
    for stage in stages:
        stage["settings"] = read_version_settings(settings.data_folder, stage["stage"], stage["code_version"] or "")
    with recording.video.reading() as video:
        digest = hash_file(video)
    return {
        "file": file,
        "time_zone": recording.time_zone,
        "normalized_video": {"size_bytes": digest.size_bytes, "sha256": digest.sha256},
        "models": _fetch(results, "SELECT * FROM model_runs WHERE recording_id = $id ORDER BY asset_name", values),
        "stages": stages,
    }


def _fetch(results: duckdb.DuckDBPyConnection, query: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    cursor = results.execute(query, values)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _write_json(file: Path, content: object) -> None:
    def to_text(value: object) -> str:
        return value.isoformat() if isinstance(value, date) else str(value)

    file.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=to_text), encoding="utf-8")


def _write_stretch(
    folder: Path,
    results: duckdb.DuckDBPyConnection,
    recording: PackedRecording,
    stretch: Stretch,
    video: Path,
    settings: Settings,
) -> dict[str, Any]:
    """Write clips and stills of a stretch; returns what the report shows of it."""
    annotations = recording.annotations
    name = re.sub(r"[^\w.-]+", "-", f"{annotations.recording_id}-{stretch.name}").strip(".")
    zone = ZoneInfo(recording.time_zone)
    overlay = Overlay(has_boxes=True, has_labels=True, has_zones=True, has_clock=True)
    camera = settings.camera(annotations.camera)
    painter = ClipPainter(overlay, annotations, {}, camera, recording.started_at_utc, recording.time_zone)
    captions, chapters = read_captions(results, annotations, stretch)
    clips = folder / "clips"
    clips.mkdir(exist_ok=True)
    frames = range(stretch.first_frame, stretch.last_frame + 1)
    for file, draw in ((f"{name}.mp4", None), (f"{name}-drawn.mp4", painter.draw)):
        write_clip(video, frames, annotations.rate_fps, clips / file, draw, chapters)
    (clips / f"{name}.srt").write_text(format_srt(captions), encoding="utf-8")
    (clips / f"{name}.vtt").write_text(format_vtt(captions), encoding="utf-8")

    def clock(time_s: float) -> str:
        return wall_clock_text(recording.started_at_utc, time_s, zone)

    times_s = annotations.times_s
    values = {"id": annotations.recording_id, "first": stretch.first_frame, "last": stretch.last_frame}
    stills: dict[str, int] = {}
    events = []
    for number, (frame, time_s, *what) in enumerate(results.execute(_EVENTS_SQL, values).fetchall(), 1):
        still = f"stills/{name}-event-{number}.jpg"
        stills[still] = frame
        events.append({"time": clock(time_s), "what": what, "still": still})
    values |= {"start_s": float(times_s[stretch.first_frame]), "end_s": float(times_s[stretch.last_frame])}
    objects = []
    for track_id, class_name, start_s, end_s, best, first, last in results.execute(_OBJECTS_SQL, values).fetchall():
        first, last = max(first, stretch.first_frame), min(last, stretch.last_frame)
        still = f"stills/{name}-track-{track_id}.jpg"
        stills[still] = best if best is not None and first <= best <= last else (first + last) // 2
        objects.append({"track_id": track_id, "class_name": class_name, "still": still,
                        "times": [clock(start_s), clock(end_s)]})  # fmt: skip
    _write_stills(folder, stills, annotations, video, painter)
    edges = [clock(float(times_s[frame])) for frame in (stretch.first_frame, stretch.last_frame)]
    return {
        "recording_id": annotations.recording_id,
        "time_zone": recording.time_zone,
        "events": events,
        "edges": edges,
        "frames": [stretch.first_frame, stretch.last_frame],
        "clip": f"clips/{name}",
        "objects": objects,
    }


def _write_stills(
    folder: Path, stills: dict[str, int], recording: RecordingAnnotations, video: Path, painter: ClipPainter
) -> None:
    """Write frames with what is drawn on them as JPEG files.

    Raises:
        RecordingError: The video ends before the last of them.
    """
    import cv2
    from av.video.reformatter import Colorspace

    (folder / "stills").mkdir(exist_ok=True)
    files: dict[int, list[str]] = {}
    for file, frame_index in stills.items():
        files.setdefault(frame_index, []).append(file)
    indices = sorted(files)
    with closing(decode_frames(video, indices, recording.rate_fps)) as frames:
        for frame_index, frame in number_frames(frames, indices, video):
            canvas = FrameCanvas.of(frame)
            painter.draw(canvas, frame_index)
            drawn = canvas.to_frame()
            drawn.colorspace = Colorspace.ITU709
            options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
            is_encoded, jpeg = cv2.imencode(".jpg", drawn.to_ndarray(format="bgr24"), options)
            assert is_encoded, frame_index
            for file in files[frame_index]:
                (folder / file).write_bytes(jpeg.tobytes())
