"""The code location: joins assets, jobs, sensors and resources. The only file that sees every wing."""

from dagster import Definitions, in_process_executor

from cv_assets.cameras import ASPECTS
from cv_assets.retention import retention_job
from cv_assets.walk import WALK, analysis_job, ingest_job
from resources.inference.detector import Models
from resources.settings import current_settings
from resources.storage import Store
from sensors.outcomes import outcomes_sensor
from sensors.reconciliation import reconciliation_sensor
from sensors.retention import retention_schedule
from sensors.watched_folder import watched_folder_sensor

_settings = current_settings()

defs = Definitions(
    assets=[*WALK, *(aspect.spec for aspect in ASPECTS.values())],
    jobs=[ingest_job, analysis_job, retention_job],
    schedules=[retention_schedule],
    sensors=[watched_folder_sensor, reconciliation_sensor, outcomes_sensor],
    resources={
        "settings": _settings,
        "store": Store(_settings.data_folder),
        "models": Models(),
    },
    # One process per run: a batch loads the model once, and a later stage finds it warm.
    executor=in_process_executor,
)
