"""The code location: joins assets, jobs, sensors and resources. The only module that imports every wing."""

from dagster import AssetSpec, Definitions, definitions, in_process_executor

from cv_assets.asset_graph import AssetGraph
from cv_assets.stage_asset import ANALYSIS
from resources.config.settings import Settings
from resources.config.settings_file import load_settings
from resources.inference.detector import Models
from resources.storage.delta_store import Store
from sensors.notifications_sensor import build_notifications_sensor
from sensors.recap_schedule import build_recap_job, build_recap_schedules
from sensors.reconciliation_sensor import build_reconciliation_sensor
from sensors.retention_schedule import build_retention_job, build_retention_schedule
from sensors.watched_folder_sensor import build_watched_folder_sensor


def build_definitions(settings: Settings) -> Definitions:
    """Build the assets, jobs, schedules, sensors and resources for some settings."""
    graph = AssetGraph.build(settings)
    retention_job, recap_job = build_retention_job(graph), build_recap_job()
    return Definitions(
        assets=[*graph.assets, *graph.observer.build_assets(), *_broken_stages(graph)],
        jobs=[graph.ingest_job, graph.analysis_job, retention_job, recap_job],
        schedules=[
            build_retention_schedule(retention_job, settings.retention),
            *build_recap_schedules(recap_job, settings),
        ],
        sensors=[
            build_watched_folder_sensor(graph),
            build_reconciliation_sensor(graph),
            build_notifications_sensor(graph),
        ],
        resources={
            "settings": settings,
            "store": Store(settings.data_folder),
            "models": Models(watched_folders=settings.watched_folders),
        },
        # One process per run: a batch loads the model once, and a later stage finds it loaded.
        executor=in_process_executor,
    )


def _broken_stages(graph: AssetGraph) -> list[AssetSpec]:
    """Assets that cannot be materialized, in place of the stages of one's own whose files are not valid."""
    taken = {*graph.stage_of_asset, *(key.to_user_string() for key in graph.observer.aspects)}
    specs = []
    for name, problem in graph.own_stages.problems.items():
        while name in taken:
            name += "_file"
        taken.add(name)
        specs.append(AssetSpec(name, description=problem, group_name=ANALYSIS))
    return specs


@definitions
def defs() -> Definitions:
    """Build the definitions for the settings in force; Dagster calls this once per process."""
    return build_definitions(load_settings())
