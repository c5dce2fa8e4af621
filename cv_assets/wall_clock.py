"""wall_clock: when each recording was taken, and with it every time on the wall clock of what was made of it.

It has no table: its result stands in `recordings` and, counted from there, in the tables of all stages. So a clock that
is put right needs neither the file nor any other stage, save those that compare clocks.
"""

from collections.abc import Iterator
from typing import Any

from dagster import AssetExecutionContext, ResourceParam, multi_asset

from cv_assets.cameras import CLOCK
from cv_assets.normalized_video import NORMALIZED_VIDEO
from cv_assets.partitions import recordings_partitions
from cv_assets.recordings import clock_columns
from cv_assets.stage import INGEST, Metadata, Stage, backfill_policy, recording_asset
from resources.errors import RecordingError
from resources.schema import RECORDINGS
from resources.settings import Settings, current_settings, settings_version
from resources.storage import Store

WALL_CLOCK = "wall_clock"
STAGE = Stage(WALL_CLOCK, (), files=(WALL_CLOCK,))


def set_wall_clock(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Set when one recording began, and all times that count from there.

    Raises:
        RecordingError: There is no row of the recording yet.
    """
    row = next(iter(store.read(RECORDINGS, [recording_id]).to_pylist()), None)
    if row is None:
        raise RecordingError("It has not been probed yet: materialize recordings first.")
    clock = clock_columns(row, settings)
    # Its row before all tables: a stage at work sees by it that its times are to be set (Stage._set_clocks). And every
    # table whatever the row said before: an attempt that was killed may have changed it and not all of them.
    if any(row[name] != value for name, value in clock.items()):
        store.update(RECORDINGS, recording_id, clock)
    store.set_clock(store.tables(), recording_id, **clock)
    return {WALL_CLOCK: {name: str(value) for name, value in clock.items()}}


@multi_asset(
    name=WALL_CLOCK,
    specs=[
        recording_asset(
            WALL_CLOCK,
            group=INGEST,
            code_version=settings_version(
                "wall_clock 1", *current_settings().intake.captured_at_patterns, current_settings().intake.time_zone
            ),
            deps=[RECORDINGS.name, NORMALIZED_VIDEO, CLOCK.name],
            kinds=("deltalake",),
            description="When each recording was taken, and all times on the wall clock that count from there.",
            grain="One clock per recording.",
            key="recording_id",
        )
    ],
    partitions_def=recordings_partitions,
    backfill_policy=backfill_policy(),
)
def wall_clock(
    context: AssetExecutionContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> Iterator[Any]:
    """Set each recording's clock."""
    yield from STAGE.each_recording(context, store, lambda r, _: set_wall_clock(r, store, settings))
