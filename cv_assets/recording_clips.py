"""Cuts clips out of one recording, for the command `clip` and the pages: what they show, and what is drawn on them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import duckdb

from cv_assets.media_status import open_video
from resources.clips.clip_selection import (
    Stretch,
    format_srt,
    format_vtt,
    parse_time,
    read_captions,
    stretch_between,
    stretch_of_event,
    stretch_of_track,
)
from resources.clips.clip_writer import write_clip, write_source_clip
from resources.clips.overlay import ClipPainter, Overlay
from resources.clips.privacy_copy import find_areas
from resources.clips.redaction import HOLD_S, CoveredAreas
from resources.clips.sightings import FACE, PLATE
from resources.clips.source_frames import SourceFrames
from resources.clips.stored_boxes import read_privacy_plan
from resources.config.settings import Settings
from resources.draft_file import draft_file
from resources.errors import PipelineError, RecordingError
from resources.exports.annotations import list_classes, read_annotations, select_recordings
from resources.inference.detector import Models
from resources.inference.text_reader import check_text_reader
from resources.recording_files import find_recording_file
from resources.schema.recording_tables import FRAMES
from resources.start_times import recording_start
from resources.storage.delta_store import Store
from resources.storage.recording_rows import read_recording_rows


class RecordingClips:
    """Cuts clips out of one recording.

    Args:
        results: The published results.
        settings: The settings.
        recording: The id of the recording, or a unique beginning of it.

    Attributes:
        annotations: The recording, with its boxes as people have corrected them.

    Raises:
        PipelineError: There is no such recording, or it has no normalized video.
    """

    def __init__(self, results: duckdb.DuckDBPyConnection, settings: Settings, recording: str) -> None:
        self._results, self._settings = results, settings
        (selected,) = select_recordings(results, [recording], None)
        self.annotations = read_annotations(results, selected, is_corrected=True, has_untracked=False)
        recording_id = self.annotations.recording_id
        self._store = Store(settings.data_folder)
        self._row = read_recording_rows(self._store, [recording_id])[recording_id]
        self._clock = recording_start(self._row, settings)

    @property
    def _started_at_utc(self) -> datetime | None:
        return self._clock and self._clock[0]

    def stretches(
        self, tracks: Sequence[int], events: Sequence[int], start: str | None, end: str | None, context_s: float
    ) -> list[Stretch]:
        """The frames of each clip: of tracks and events, or between two times.

        Args:
            tracks: Numbers of tracks.
            events: Numbers of events, from 1 in order of time.
            start: Start of the only clip, without tracks and events; None is the start of the recording.
            end: Its end; None is the end of the recording.
            context_s: Time before and after tracks and events.

        Raises:
            PipelineError: There is no such track or event, or the times are wrong.
        """
        stretches = [stretch_of_track(self.annotations, number, context_s) for number in tracks]
        stretches += [stretch_of_event(self._results, self.annotations, number, context_s) for number in events]
        if stretches:
            return stretches
        times_s = [None if text is None else parse_time(text, self._started_at_utc) for text in (start, end)]
        return [stretch_between(self.annotations, *times_s)]

    def file_name(self, stretch: Stretch) -> str:
        """Name of the file of a clip."""
        return re.sub(r"[^\w.-]+", "-", f"{self.annotations.recording_id}-{stretch.name}") + ".mp4"

    def duration_s(self, stretch: Stretch) -> float:
        """Duration of a clip."""
        return float((stretch.last_frame - stretch.first_frame + 1) / self.annotations.rate_fps)

    def painter(self, overlay: Overlay, stretches: Sequence[Stretch]) -> ClipPainter | None:
        """Prepare what is drawn on some clips; None if nothing is.

        Raises:
            PipelineError: The video was deleted, is a file that has changed, or what is covered is not known.
        """
        if overlay.is_empty:
            return None
        annotations, settings = self.annotations, self._settings
        areas = CoveredAreas()
        if overlay.unreadable:
            count, hold_frames = len(annotations.times_s), round(HOLD_S * annotations.rate_fps)
            searched = {
                frame
                for stretch in stretches
                for frame in range(max(0, stretch.first_frame - hold_frames), stretch.last_frame + hold_frames + 1)
                if frame < count
            }
            size_px = (annotations.width_px, annotations.height_px)
            with open_video(self.annotations.recording_id, self._store) as video:
                plan = read_privacy_plan(
                    self._store, annotations.recording_id, overlay.unreadable, settings.rename_classes
                )
                areas, _ = find_areas(video, sorted(searched), annotations.rate_fps, count, size_px, plan, Models())
        camera = settings.camera(annotations.camera)
        time_zone = camera.time_zone or settings.ingest.time_zone
        return ClipPainter(overlay, annotations, areas, camera, self._started_at_utc, time_zone)

    def write(
        self,
        stretch: Stretch,
        file: Path,
        painter: ClipPainter | None,
        *,
        has_captions: bool = True,
        is_from_source: bool = False,
        has_sound: bool = False,
    ) -> bool:
        """Write a clip, and its captions beside it; the file appears once it is whole.

        Args:
            stretch: The frames of the clip.
            file: The MP4 file.
            painter: What is drawn.
            has_captions: Whether captions are written beside it.
            is_from_source: Take the frames of the recording's file, at full size, not those of the normalized video.
            has_sound: Take the sound of the recording's file, too; only with its frames.

        Returns:
            Whether the clip was copied without encoding.

        Raises:
            PipelineError: The video was deleted or is damaged, or the file cannot be written.
        """
        captions, chapters = read_captions(self._results, self.annotations, stretch)
        frames = range(stretch.first_frame, stretch.last_frame + 1)
        with draft_file("clip", file) as draft:
            draw, rate_fps = painter.draw if painter else None, self.annotations.rate_fps
            if is_from_source:
                is_copied = False
                with self._open_source() as source:
                    size_px = (self.annotations.width_px, self.annotations.height_px)
                    sound = source.read_sound(frames, float(rate_fps)) if has_sound else None
                    write_source_clip(source.read(frames), frames, size_px, rate_fps, draft, draw, chapters, sound)
            else:
                with open_video(self.annotations.recording_id, self._store) as video:
                    is_copied = write_clip(video, frames, rate_fps, draft, draw, chapters)
            if captions and has_captions:
                file.with_suffix(".srt").write_text(format_srt(captions), encoding="utf-8")
                file.with_suffix(".vtt").write_text(format_vtt(captions), encoding="utf-8")
        return is_copied

    @contextmanager
    def _open_source(self) -> Iterator[SourceFrames]:
        """Open the file of the recording.

        Raises:
            PipelineError: No file has the content of the recording, or it lacks a frame.
        """
        row, recording_id = self._row, self.annotations.recording_id
        columns = ["frame_index", "source_frame_index", "time_s"]
        rows = self._store.read(FRAMES, [recording_id], columns).sort_by("frame_index")
        video = self._settings.video_of(row["camera"])
        region = row.get("region") or video.region
        start_time_s = row["start_time_s_from_content"] if row["time_source"] == "pts" else None
        try:
            with find_recording_file(recording_id, self._store, self._settings).reading() as path:
                yield SourceFrames(
                    path,
                    video.model_copy(update={"max_height_px": None, "region": region and tuple(region)}),
                    start_time_s,
                    rows["source_frame_index"].to_numpy(),
                    rows["time_s"].to_numpy(),
                )
        except RecordingError as error:
            raise PipelineError(f"{recording_id}: {error}") from error


def covered_names(results: duckdb.DuckDBPyConnection, text: str, *, must_exist: bool = True) -> list[str]:
    """Parse what is covered: classes of the results, `face` and `plate`, separated by commas.

    Args:
        results: The published results.
        text: The names.
        must_exist: Whether a class without any object is an error, else it is left out.

    Raises:
        PipelineError: There is no such class, or the package that reads text is not installed.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        return []
    known = {*list_classes(results, None, is_corrected=False, has_untracked=True)}
    known |= {*list_classes(results, None, is_corrected=True, has_untracked=False)}
    unknown = [name for name in names if name not in (*known, FACE, PLATE)]
    if unknown and must_exist:
        classes = ", ".join(sorted(known)) or "none"
        raise PipelineError(f"No object has the class {unknown[0]!r}; there are: {classes}; and {FACE} and {PLATE}.")
    if PLATE in names:
        check_text_reader()
    return [name for name in names if name not in unknown]
