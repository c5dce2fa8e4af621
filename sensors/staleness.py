"""Staleness: which assets are stale and why, as in the UI, plus everything downstream of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import NO_VERSION
from resources.storage.delta_store import Store
from resources.storage.stage_runs import decode_input_versions, newest_stage_runs


@dataclass(frozen=True)
class StaleAsset:
    """An asset of a recording whose settings or inputs changed since it was materialized."""

    recording_id: str
    asset_name: str
    reason: str


class _StoredVersions(NamedTuple):
    """Versions of the stored results of one stage.

    Attributes:
        stage: The stage.
        code_version: Its code version.
        data_version: Data version of its results.
        input_versions: Data versions of its inputs, encoded.
    """

    stage: str
    code_version: str | None
    data_version: str
    input_versions: str | None


def stale_assets(store: Store, cameras: Mapping[str, str | None], graph: AssetGraph) -> list[StaleAsset]:
    """List every stale asset of some recordings.

    An asset is stale if its code version, an input's data version or its camera's settings changed since it was
    materialized, or if an input is stale. An asset that was never materialized is missing, not stale.

    Args:
        store: The tables.
        cameras: Camera by recording.
        graph: The asset graph of the settings in force.

    Returns:
        The stale assets, upstream first.
    """
    aspect_versions = {
        camera: {key.to_user_string(): graph.observer.current_version(key, camera) for key in graph.observer.aspects}
        for camera in set(cameras.values())
    }
    # Recordings that were processed with equal settings have equal versions, and so the same reasons.
    reasons_by_versions: dict[tuple[str | None, tuple[_StoredVersions, ...]], dict[str, str]] = {}
    reasons_by_recording = {}
    for recording_id, stored in _read_stored_versions(store, list(cameras)).items():
        camera = cameras[recording_id]
        reasons = reasons_by_versions.get((camera, stored))
        if reasons is None:
            reasons = reasons_by_versions[camera, stored] = _stale_reasons(graph, stored, aspect_versions[camera])
        reasons_by_recording[recording_id] = reasons
    return [
        StaleAsset(recording_id, name, reasons[name])
        for name in graph.stage_of_asset
        for recording_id, reasons in reasons_by_recording.items()
        if name in reasons
    ]


def _stale_reasons(
    graph: AssetGraph, stored: Sequence[_StoredVersions], aspect_versions: Mapping[str, str]
) -> dict[str, str]:
    """Why assets of a recording are stale, by the name of the asset; without those that are not.

    Args:
        graph: The asset graph of the settings in force.
        stored: Versions of the stages that have results.
        aspect_versions: Version of the camera's current settings, by the name of the asset.
    """
    stored_by_stage = {versions.stage: versions for versions in stored}
    reasons_by_asset: dict[str, str] = {}
    for spec in (spec for assets in graph.assets for spec in assets.specs):
        name = spec.key.to_user_string()
        own = stored_by_stage.get(graph.stage_of_asset[name])
        if own is None:
            continue
        input_versions = decode_input_versions(own.input_versions)
        reasons = ["its settings changed"] if own.code_version != spec.code_version else []
        for input_name in (dep.asset_key.to_user_string() for dep in spec.deps):
            upstream = stored_by_stage.get(graph.stage_of_asset.get(input_name, ""))
            if input_name in aspect_versions:
                if input_versions.get(input_name, NO_VERSION) != aspect_versions[input_name]:
                    reasons.append(f"{input_name} changed")
            elif input_name in reasons_by_asset:
                reasons.append(f"{input_name} is stale")
            elif upstream is not None and upstream.data_version != input_versions.get(input_name):
                reasons.append(f"{input_name} was materialized again")
        if reasons:
            reasons_by_asset[name] = ", ".join(reasons)
    return reasons_by_asset


def _read_stored_versions(store: Store, recording_ids: Sequence[str]) -> dict[str, tuple[_StoredVersions, ...]]:
    """Read the versions of the results in the tables, by recording; recordings without results are left out."""
    columns = ("recording_id", *_StoredVersions._fields)
    rows = newest_stage_runs(store, columns=columns, only_materialized=True).sort_by(
        [("recording_id", "ascending"), ("stage", "ascending")]
    )
    known, stored = set(recording_ids), dict[str, list[_StoredVersions]]()
    for recording_id, *values in zip(*(rows[name].to_pylist() for name in columns), strict=True):
        if recording_id in known:
            stored.setdefault(recording_id, []).append(_StoredVersions(*values))
    return {recording_id: tuple(versions) for recording_id, versions in stored.items()}
