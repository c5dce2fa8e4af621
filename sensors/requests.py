"""How a planned run is put to Dagster."""

from dagster import AssetKey, RunRequest

from cv_assets.outstanding import PlannedRun


def run_request(run: PlannedRun) -> RunRequest:
    """The request that makes Dagster run exactly these assets for exactly these recordings."""
    return RunRequest(
        job_name=run.job_name,
        asset_selection=[AssetKey(name) for name in run.asset_names],
        tags=run.tags,
        partition_key=run.recording_ids[0] if len(run.recording_ids) == 1 else None,
    )
