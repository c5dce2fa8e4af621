"""Staleness: which assets are stale and why, as in the UI, plus everything downstream of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import NO_VERSION, CurrentSettings
from cv_assets.corrections import CORRECTIONS_ASSET
from resources.config.setting_changes import describe_changes
from resources.storage.delta_store import Store
from resources.storage.stage_runs import decode_input_versions, newest_stage_runs
from resources.storage.version_settings import read_version_settings


@dataclass(frozen=True)
class StaleAsset:
    """An asset of a recording whose settings or inputs changed since it was materialized.

    Attributes:
        recording_id: The recording.
        asset_name: The asset.
        reason: Why it is stale.
        own_reason: The reason without stale inputs; empty if these are the whole reason.
        is_costly: Whether a model runs, or the file of the recording is read, before the asset is up to date again:
            in its own stage, or in that of a stale input.
        has_new_corrections: Whether its stage applies corrections, and some were added since.
    """

    recording_id: str
    asset_name: str
    reason: str
    own_reason: str
    is_costly: bool
    has_new_corrections: bool


class _Staleness(NamedTuple):
    """Why an asset is stale; see the attributes of `StaleAsset`."""

    reason: str
    own_reason: str
    is_costly: bool
    has_new_corrections: bool


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
    current = {key.to_user_string(): graph.observer.current(key, cameras) for key in graph.observer.aspects}
    # Recordings that were processed with equal settings have equal versions, and so the same reasons.
    stale_by_versions: dict[tuple[object, ...], dict[str, _Staleness]] = {}
    stale_by_recording = {}
    for recording_id, stored in _read_stored_versions(store, list(cameras)).items():
        camera = cameras[recording_id]
        aspects = {name: settings[recording_id] for name, settings in current.items()}
        versions = (camera, stored, *(settings.version for settings in aspects.values()))
        stale = stale_by_versions.get(versions)
        if stale is None:
            stale = _find_stale(store.data_folder, graph, stored, camera, aspects)
            stale_by_versions[versions] = stale
        stale_by_recording[recording_id] = stale
    return [
        StaleAsset(recording_id, name, *stale[name])
        for name in graph.stage_of_asset
        for recording_id, stale in stale_by_recording.items()
        if name in stale
    ]


def _find_stale(
    data_folder: Path,
    graph: AssetGraph,
    stored: Sequence[_StoredVersions],
    camera: str | None,
    aspects: Mapping[str, CurrentSettings],
) -> dict[str, _Staleness]:
    """Find the stale assets of a recording, by the name of the asset.

    Args:
        data_folder: The data folder, which has the settings behind the stored versions.
        graph: The asset graph of the settings in force.
        stored: Versions of the stages that have results.
        camera: The recording's camera.
        aspects: Its current settings, and its corrections, by the name of the asset.
    """
    stored_by_stage = {versions.stage: versions for versions in stored}
    stale: dict[str, _Staleness] = {}
    for spec in (spec for assets in graph.assets for spec in assets.specs):
        name = spec.key.to_user_string()
        stage = graph.stage_of_asset[name]
        own = stored_by_stage.get(stage)
        if own is None:
            continue
        input_versions, own_reasons = decode_input_versions(own.input_versions), list[str]()
        inputs = [dep.asset_key.to_user_string() for dep in spec.deps]
        if own.code_version != spec.code_version:
            before = read_version_settings(data_folder, stage, own.code_version or "")
            own_reasons.append(describe_changes(before, graph.versions[stage].settings))
        for input_name in inputs:
            upstream = stored_by_stage.get(graph.stage_of_asset.get(input_name, ""))
            version = input_versions.get(input_name, NO_VERSION)
            if input_name in aspects:
                if version != aspects[input_name].version:
                    own_reasons.append(_aspect_change(data_folder, input_name, version, camera, aspects[input_name]))
            elif input_name not in stale and upstream is not None and upstream.data_version != version:
                own_reasons.append(f"{input_name} was materialized again")
        stale_inputs = [input_name for input_name in inputs if input_name in stale]
        reasons = [*own_reasons, *(f"{input_name} is stale" for input_name in stale_inputs)]
        if reasons:
            is_costly = name in graph.costly_assets or any(stale[input_name].is_costly for input_name in stale_inputs)
            has_new_corrections = CORRECTIONS_ASSET.change in own_reasons
            stale[name] = _Staleness(", ".join(reasons), ", ".join(own_reasons), is_costly, has_new_corrections)
    return stale


def _aspect_change(
    data_folder: Path, aspect_name: str, version_before: str, camera: str | None, now: CurrentSettings
) -> str:
    """Describe how a camera's settings, or the corrections of a recording, have changed since a version."""
    if aspect_name == CORRECTIONS_ASSET.name:
        return CORRECTIONS_ASSET.change
    is_known = version_before != NO_VERSION
    before = read_version_settings(data_folder, aspect_name, version_before) if is_known else {}
    subject = f"camera {camera!r}" if camera else "recordings without a camera"
    change = describe_changes(before, now.settings) if before is not None else f"{aspect_name} has changed"
    return f"{subject}: {change}"


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
