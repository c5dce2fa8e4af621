"""The job that writes the recap of a camera's day, and its schedule for each camera, in the camera's time zone."""

import hashlib
import re
import time
from datetime import UTC, date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from dagster import (
    Config,
    DefaultScheduleStatus,
    Failure,
    JobDefinition,
    OpExecutionContext,
    ResourceParam,
    RunConfig,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    job,
    op,
)

from resources.config.handover_config import NO_CAMERA_FOLDER
from resources.config.settings import Settings
from resources.errors import PipelineError

_DRAFT_EXPIRY_S = 24 * 3600.0
_UNFINISHED_SQL = """
    SELECT recording_id FROM recordings
    WHERE coalesce(camera, '') = $camera AND started_at_utc >= $start AND started_at_utc < $end
        AND frame_count IS NULL AND status IS DISTINCT FROM 'rejected' ORDER BY recording_id
"""


class RecapConfig(Config):
    """Which recap is written.

    Attributes:
        camera: The camera; empty for recordings directly in the watched folder.
        day: The day, as in 2026-03-01, in the camera's time zone.
    """

    camera: str
    day: str


def build_recap_job() -> JobDefinition:
    """Build the job that writes the recap of one camera and day."""

    @op(description="Writes the recap of a camera's day into the folder recaps.folder of the settings.")
    def write_day_recap(context: OpExecutionContext, config: RecapConfig, settings: ResourceParam[Settings]) -> None:
        try:
            context.log.info(write_recap_of_day(settings, config.camera, config.day))
        except PipelineError as error:
            raise Failure(str(error), allow_retries=False) from error

    @job(
        name="recap",
        description="Writes a short video of all that a camera has seen on a day, as the settings in recaps say.",
    )
    def recap() -> None:
        write_day_recap()

    return recap


def build_recap_schedules(recap_job: JobDefinition, settings: Settings) -> list[ScheduleDefinition]:
    """Build a daily schedule per camera of the settings, in the camera's time zone; none without a folder."""
    return [
        _build_schedule(recap_job, settings, camera) for camera in settings.recaps.cameras if settings.recaps.folder
    ]


def _build_schedule(recap_job: JobDefinition, settings: Settings, camera: str) -> ScheduleDefinition:
    time_zone = settings.camera(camera).time_zone or settings.ingest.time_zone

    def request_recap(context: ScheduleEvaluationContext) -> RunRequest:
        day = (context.scheduled_execution_time.astimezone(ZoneInfo(time_zone)) - timedelta(days=1)).date()
        config = RunConfig(ops={"write_day_recap": RecapConfig(camera=camera, day=day.isoformat())})
        return RunRequest(run_key=f"{camera} {day}", run_config=config)

    return ScheduleDefinition(
        name=_schedule_name(camera),
        job=recap_job,
        cron_schedule=f"0 {settings.recaps.daily_at_hour} * * *",
        execution_timezone=time_zone,
        execution_fn=request_recap,
        default_status=DefaultScheduleStatus.RUNNING,
        description=f"Writes the recap of the day before, of the camera {camera!r}.",
    )


def _schedule_name(camera: str) -> str:
    """The name of a camera's schedule, of the characters that Dagster allows, and different for each camera."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", camera or NO_CAMERA_FOLDER)
    hashed = "" if plain == camera else f"_{hashlib.blake2b(camera.encode(), digest_size=3).hexdigest()}"
    return f"recap_{plain}{hashed}"


def write_recap_of_day(settings: Settings, camera: str, day_text: str) -> str:
    """Write the recap of a camera's day, and replace one that is there.

    Args:
        settings: The settings, with the folder of recaps.
        camera: The camera; empty for recordings directly in the watched folder.
        day_text: The day, as in 2026-03-01.

    Returns:
        A sentence on what was written, or why there is nothing to write.

    Raises:
        PipelineError: The recap cannot be written.
    """
    from cv_assets.recap_writing import RecapOptions, day_edges, parse_day, sort_by_time, write_recap
    from resources.clips.recap import NothingToRecapError
    from resources.exports.annotations import select_recordings
    from resources.storage.results_database import open_results

    if settings.recaps.folder is None:
        raise PipelineError("recaps.folder is not set: name the folder of the recaps in the settings.")
    day = parse_day(day_text)
    time_zone = settings.camera(camera).time_zone or settings.ingest.time_zone
    start, end = day_edges(day, time_zone)
    with open_results(settings.data_folder) as results:
        values = {"camera": camera, "start": start.astimezone(UTC), "end": end.astimezone(UTC)}
        unfinished = [name for (name,) in results.execute(_UNFINISHED_SQL, values).fetchall()]
        missing = f" {len(unfinished)} recordings are not processed yet: {', '.join(unfinished)}." if unfinished else ""
        rows = sort_by_time(results, select_recordings(results, (), camera))
        rows = [row for row in rows if row["started_at_utc"] and start <= row["started_at_utc"] < end]
        if not rows:
            return f"No processed recording of the camera {camera!r} starts on {day}: no recap.{missing}"
        out = _prepare_file(settings.recaps.folder, camera, day)
        try:
            options = RecapOptions(settings.recaps.length_s, is_length_flexible=True)
            outcome = write_recap(results, rows, settings, out, options)
        except NothingToRecapError:
            return f"The camera {camera!r} saw nothing on {day}: no recap.{missing}"
    return outcome.describe(out, len(rows)) + missing


def _prepare_file(folder: Path, camera: str, day: date) -> Path:
    """The file of a recap, in the folder of its camera; removes what killed runs have left there.

    Raises:
        PipelineError: The folder cannot be made.
    """
    name = camera or NO_CAMERA_FOLDER
    of_camera = folder / name
    try:
        of_camera.mkdir(parents=True, exist_ok=True)
        for draft in of_camera.glob(".*.partial"):
            if time.time() - draft.stat().st_mtime > _DRAFT_EXPIRY_S:
                draft.unlink(missing_ok=True)
    except OSError as error:
        raise PipelineError(
            f"The folder {of_camera} of recaps cannot be written: {error.strerror or error}."
        ) from error
    return of_camera / f"{name}-{day}.mp4"
