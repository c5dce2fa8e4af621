"""Staleness: which assets are stale and why, as in the UI, plus everything downstream of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from dagster import AssetKey, DagsterInstance

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import observed_version
from resources.dagster_instance.dagster_names import CODE_VERSION_TAG
from resources.dagster_instance.event_log import find_input_event, materializations, observations


@dataclass(frozen=True)
class StaleAsset:
    """An asset of a recording whose settings or inputs changed since it was materialized."""

    recording_id: str
    asset_name: str
    reason: str


def stale_assets(instance: DagsterInstance, cameras: Mapping[str, str | None], graph: AssetGraph) -> list[StaleAsset]:
    """List every stale asset of some recordings.

    An asset is stale if its code version, an input's data version or its camera's settings changed since it was
    materialized, or if an input is stale. An asset that was never materialized is missing, not stale.

    Args:
        instance: Dagster's instance.
        cameras: Camera by recording.
        graph: The asset graph of the settings in force.

    Returns:
        The stale assets, upstream first.
    """
    recording_ids, camera_names, observer = set(cameras), set(cameras.values()), graph.observer
    specs = [spec for assets in graph.assets for spec in assets.specs if recording_ids]
    materialization_events = {spec.key: materializations(instance, spec.key, recording_ids) for spec in specs}
    camera_events = {key: observations(instance, key, recording_ids) for key in observer.aspects}
    # The settings in force may have changed since the newest observation.
    current_versions = {
        (key, camera): observer.current_version(key, camera) for key in observer.aspects for camera in camera_names
    }
    stale: list[StaleAsset] = []
    stale_keys: set[tuple[AssetKey, str]] = set()
    for spec in specs:
        for recording_id, events in materialization_events[spec.key].items():
            tags = events[0].tags
            reasons = ["its settings changed"] if tags.get(CODE_VERSION_TAG) != spec.code_version else []
            for key in (dep.asset_key for dep in spec.deps):
                all_events = camera_events if key in observer.aspects else materialization_events
                upstream = all_events.get(key, {}).get(recording_id, [])
                input_event = find_input_event(tags, key, upstream)
                if key in observer.aspects:
                    if observed_version(input_event) != current_versions[key, cameras[recording_id]]:
                        reasons.append(f"{key.to_user_string()} changed")
                elif (key, recording_id) in stale_keys:
                    reasons.append(f"{key.to_user_string()} is stale")
                elif upstream and (input_event is None or upstream[0].version != input_event.version):
                    reasons.append(f"{key.to_user_string()} was materialized again")
            if reasons:
                stale_keys.add((spec.key, recording_id))
                stale.append(StaleAsset(recording_id, spec.key.to_user_string(), ", ".join(reasons)))
    return stale
