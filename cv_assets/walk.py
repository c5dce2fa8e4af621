"""The walk of a recording: every asset in order, and the two jobs that they form."""

from dagster import AssetsDefinition, AssetSelection, define_asset_job

from cv_assets.crops import crops
from cv_assets.detections import detections, further_models
from cv_assets.normalized_video import normalized_video
from cv_assets.recordings import recordings
from cv_assets.scenes import scenes
from cv_assets.stage import ANALYSIS, INGEST
from cv_assets.summaries import summaries
from cv_assets.track_links import track_links
from cv_assets.tracks import tracks
from cv_assets.wall_clock import wall_clock
from cv_assets.zone_events import zone_events
from cv_assets.zone_summaries import zone_summaries

WALK: tuple[AssetsDefinition, ...] = (
    recordings,
    normalized_video,
    scenes,
    wall_clock,
    detections,
    tracks,
    track_links,
    crops,
    zone_events,
    summaries,
    zone_summaries,
    *further_models,
)

ingest_job = define_asset_job(
    INGEST,
    AssetSelection.groups(INGEST),
    description="Probe and normalize recordings: CPU only, several runs at once.",
)
analysis_job = define_asset_job(
    ANALYSIS,
    AssetSelection.groups(ANALYSIS),
    description="Detect, follow, cut out and sum up: tagged gpu, bounded by the queue.",
)

_UPSTREAM: dict[str, set[str]] = {
    spec.key.to_user_string(): {dep.asset_key.to_user_string() for dep in spec.deps}
    for assets in WALK
    for spec in assets.specs
}
_SIBLINGS: dict[str, set[str]] = {
    spec.key.to_user_string(): {sibling.key.to_user_string() for sibling in assets.specs}
    for assets in WALK
    for spec in assets.specs
}


LAST_OF_STEP: dict[str, str] = {
    spec.key.to_user_string(): list(assets.specs)[-1].key.to_user_string() for assets in WALK for spec in assets.specs
}
"""By asset, the asset that its step materializes last: where that is there, all of the step are."""
LAST_OF_STAGE: dict[str, str] = {assets.op.name: list(assets.specs)[-1].key.to_user_string() for assets in WALK}
"""The same by stage, as which its step is called."""


def assets_of(job_name: str) -> tuple[str, ...]:
    """The assets of a job, upstream first."""
    return tuple(spec.key.to_user_string() for assets in WALK for spec in assets.specs if spec.group_name == job_name)


def made_from(asset_name: str) -> set[str]:
    """The assets that are made from one directly."""
    return {name for name, upstream in _UPSTREAM.items() if asset_name in upstream}


def made_with(asset_name: str) -> set[str]:
    """The assets of the same step."""
    return _SIBLINGS[asset_name]


def with_downstream(asset_names: frozenset[str], job_name: str) -> tuple[str, ...]:
    """The given assets of a job, all that are made from them in that job, and what is made together with either.

    What is made from the latter is not among them: it comes out as it was.
    """
    wanted = set(asset_names)
    for name in assets_of(job_name):
        if _UPSTREAM[name] & wanted:
            wanted.add(name)
    together = set[str]().union(*(_SIBLINGS[name] for name in wanted & set(assets_of(job_name))))
    return tuple(name for name in assets_of(job_name) if name in together)
