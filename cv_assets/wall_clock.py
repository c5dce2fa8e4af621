"""wall_clock: one start time per recording, and all wall-clock times derived from it.

The asset has no table of its own: the start time is in `recordings`, and the times derived from it are in the tables of
all stages. So a corrected clock needs neither the source file nor another stage, except those that compare the clocks
of recordings.
"""

from collections.abc import Mapping

from cv_assets.camera_settings import CAMERA_CLOCK
from cv_assets.normalized_video import NORMALIZED_VIDEO
from cv_assets.recordings import NOT_PROBED, clock_columns
from cv_assets.stage_asset import INGEST, FileAsset, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata
from resources.config.settings import Settings, settings_version
from resources.errors import RecordingError
from resources.media.progress import ReportProgress
from resources.schema.recording_tables import RECORDINGS
from resources.storage.delta_store import Store

WALL_CLOCK = "wall_clock"


def set_wall_clock(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Set the start time of one recording, and all times that are derived from it.

    Raises:
        RecordingError: The recording has not been probed.
    """
    row = next(iter(store.read(RECORDINGS, [recording_id]).to_pylist()), None)
    if row is None:
        raise RecordingError(NOT_PROBED)
    clock = clock_columns(row, settings)
    # The row is updated before all tables: a stage that is running then sees that it must correct its times
    # (batch._update_clocks). All tables are updated even if the row does not change: a killed attempt may have updated
    # the row and only some of the tables.
    if any(row[name] != value for name, value in clock.items()):
        store.update(RECORDINGS, recording_id, clock)
    store.set_clock(store.tables(), recording_id, **clock)
    return {WALL_CLOCK: {name: str(value) for name, value in clock.items()}}


@stage_asset(
    group=INGEST,
    files=(
        FileAsset(
            WALL_CLOCK,
            description="Start of each recording, and all wall-clock times derived from it.",
            grain="One clock per recording.",
            kinds=("deltalake",),
        ),
    ),
    deps=(RECORDINGS.name, NORMALIZED_VIDEO, CAMERA_CLOCK.name),
    code_version=lambda settings: settings_version(
        "wall_clock 1", *settings.ingest.captured_at_patterns, settings.ingest.time_zone
    ),
)
def wall_clock(recording_id: str, run: StageRun, _: ReportProgress) -> Mapping[str, Metadata]:
    """Set the wall clock of each recording."""
    return set_wall_clock(recording_id, run.store, run.settings)
