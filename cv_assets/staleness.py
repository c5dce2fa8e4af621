"""What a change of settings made stale: the UI's judgement for every recording and asset, and what follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass

from dagster import AssetKey, DagsterInstance
from dagster._core.definitions.data_version import CODE_VERSION_TAG

from cv_assets.cameras import ASPECTS, version_noted, version_of
from cv_assets.events import materializations, observations, told_read
from cv_assets.walk import WALK
from resources.settings import current_settings


@dataclass(frozen=True)
class Stale:
    """An asset of a recording that would come out otherwise if it were made now, and why."""

    recording_id: str
    asset_name: str
    reason: str


def stale_assets(instance: DagsterInstance, cameras: Mapping[str, str | None]) -> list[Stale]:
    """Every asset of the given recordings that was made by other settings, or from what has been made anew since.

    What was never made is missing, not stale, and makes nothing stale.

    Args:
        instance: Dagster's instance.
        cameras: The recordings, with the camera of each.

    Returns:
        In the order of the walk: what an asset is made from comes before it.
    """
    wanted, known, settings = set(cameras), set(cameras.values()), current_settings()
    specs = [spec for assets in WALK for spec in assets.specs if wanted]
    made = {spec.key: materializations(instance, spec.key, wanted) for spec in specs}
    noted = {key: observations(instance, key, wanted) for key in ASPECTS}
    # Beside what the settings say now: they may have changed since the last note.
    said = {(key, camera): version_of(one.said(settings, camera)) for key, one in ASPECTS.items() for camera in known}
    found: list[Stale] = []
    is_stale: set[tuple[AssetKey, str]] = set()
    for spec in specs:
        for recording_id, history in made[spec.key].items():
            tags = history[0].tags
            reasons = ["its settings changed"] if tags.get(CODE_VERSION_TAG) != spec.code_version else []
            for key in (dep.asset_key for dep in spec.deps):
                upstream = (noted if key in ASPECTS else made).get(key, {}).get(recording_id, [])
                read = told_read(tags, key, upstream)
                if key in ASPECTS:
                    if version_noted(read) != said[key, cameras[recording_id]]:
                        reasons.append(f"{key.to_user_string()} changed")
                elif (key, recording_id) in is_stale:
                    reasons.append(f"{key.to_user_string()} is stale")
                elif upstream and (read is None or upstream[0].version != read.version):
                    reasons.append(f"{key.to_user_string()} was made anew")
            if reasons:
                is_stale.add((spec.key, recording_id))
                found.append(Stale(recording_id, spec.key.to_user_string(), ", ".join(reasons)))
    return found
