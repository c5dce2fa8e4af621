"""Recomputation: which stale assets the pipeline recomputes by itself."""

import os
from collections.abc import Sequence
from typing import Literal

from pyarrow.dataset import field

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import cameras_of
from cv_assets.crops import crops
from cv_assets.normalized_video import NORMALIZED_VIDEO
from cv_assets.stage_asset import ANALYSIS, INGEST
from resources.corrections.correction_log import corrections_versions
from resources.schema.recording_tables import RECORDING_CONTENTS
from resources.source_index import SourceIndex
from resources.storage.delta_store import Store
from sensors.staleness import StaleAsset, stale_assets

STALE_VARIABLE = "CV_ASSETS_RECOMPUTE_STALE"
"""Variable that says which stale assets a pipeline recomputes: `cheap` or `all`; without it, what corrections alter."""


def find_recomputed(store: Store, graph: AssetGraph, recording_ids: Sequence[str]) -> dict[str, set[str]]:
    """Find the stale assets that this pipeline recomputes, by recording; see `select_recomputed`."""
    value = os.environ.get(STALE_VARIABLE)
    if value not in ("cheap", "all"):
        return _find_newly_corrected(store, graph, recording_ids)
    stale = stale_assets(store, cameras_of(store, recording_ids), graph)
    return select_recomputed(store, graph, stale, "all" if value == "all" else "cheap")


def _find_newly_corrected(store: Store, graph: AssetGraph, recording_ids: Sequence[str]) -> dict[str, set[str]]:
    """Find the assets that apply new corrections; what depends on them is in the same run."""
    corrected = [name for name, version in corrections_versions(store, recording_ids).items() if version]
    return _with_new_corrections(stale_assets(store, cameras_of(store, corrected), graph)) if corrected else {}


def _with_new_corrections(stale: Sequence[StaleAsset]) -> dict[str, set[str]]:
    selected: dict[str, set[str]] = {}
    for asset in stale:
        if asset.has_new_corrections:
            selected.setdefault(asset.recording_id, set()).add(asset.asset_name)
    return selected


def select_recomputed(
    store: Store, graph: AssetGraph, stale: Sequence[StaleAsset], selection: Literal["cheap", "all"]
) -> dict[str, set[str]]:
    """Select the stale assets that are recomputed, by recording.

    If retention has deleted the normalized video, the video is recomputed first from the source file, which is not
    cheap. If no file has the content of the recording any more, the assets that need it stay stale with all that
    depends on them, and keep their results; so do answers to crops whose images retention has deleted, unless crops are
    cut again.

    Args:
        store: The tables.
        graph: The asset graph of the settings in force.
        stale: All stale assets of some recordings.
        selection: Whether the cheap ones among them, which need neither a model nor the file, or all are recomputed.
            Those with new corrections always are.
    """
    corrected = _with_new_corrections(stale)
    selected: dict[str, set[str]] = {recording_id: set(names) for recording_id, names in corrected.items()}
    for asset in stale:
        if selection == "all" or not asset.is_costly:
            selected.setdefault(asset.recording_id, set()).add(asset.asset_name)
    _recut_or_keep(store, graph, selected, selection)
    if not selected:
        return {}
    with_file = SourceIndex(store).recordings_with_file(list(selected), graph.settings.watched_folder)
    needs_file = graph.assets_that_read_files
    needs_video = _assets_that_need_video(graph)
    columns = ["recording_id", "video_path", "normalized_by"]
    contents = {row["recording_id"]: row for row in store.read(RECORDING_CONTENTS, columns=columns).to_pylist()}
    for recording_id, names in selected.items():
        row, has_file = contents.get(recording_id), recording_id in with_file
        has_video = row is not None and row["video_path"] is not None
        if row is not None and has_video:
            is_reference = row["normalized_by"] == "reference"
            has_video = has_file if is_reference else (store.data_folder / row["video_path"]).exists()
        if has_file and selection == "all":
            if names & needs_video and not has_video:
                names |= graph.same_step(NORMALIZED_VIDEO)
            continue
        uncomputable = set() if has_file else names & needs_file
        if not has_video:
            uncomputable |= names & needs_video
        for job_name in (INGEST, ANALYSIS):
            uncomputable |= set(graph.with_downstream(frozenset(uncomputable), job_name))
        names -= uncomputable - corrected.get(recording_id, set())
    return {recording_id: names for recording_id, names in selected.items() if names}


def _recut_or_keep(
    store: Store, graph: AssetGraph, selected: dict[str, set[str]], selection: Literal["cheap", "all"]
) -> None:
    """Add the crops whose images retention has deleted, where all is recomputed; else keep what was computed from them.

    Without an image a crop model has no answer, and its rows would replace those of the time when there was one.
    """
    crop_assets, readers = set(crops.stage.asset_names), graph.assets_that_read_crops
    ids = [
        recording_id
        for recording_id, names in selected.items()
        if names & readers and crop_assets.isdisjoint(graph.with_downstream(frozenset(names), ANALYSIS))
    ]
    for recording_id in _recordings_without_images(store, ids) if ids else ():
        names = selected[recording_id]
        if selection == "all":
            names |= crop_assets
        else:
            names -= set(graph.with_downstream(frozenset(names & readers), ANALYSIS))


def _recordings_without_images(store: Store, recording_ids: Sequence[str]) -> set[str]:
    """The recordings among some that have crops, but the image of none."""
    rows = store.scan(crops.stage.tables[0], recording_ids)
    parts = (rows, rows.filter(field("jpeg").is_valid()))
    with_crops, with_images = (set(part.to_table(columns=["recording_id"])[0].to_pylist()) for part in parts)
    return with_crops - with_images


def _assets_that_need_video(graph: AssetGraph) -> frozenset[str]:
    """The assets of the analysis that cannot be recomputed without the normalized video.

    A run recomputes assets with all that depends on them, so these are not only the assets whose stage reads it.
    """
    readers = frozenset[str]().union(*(graph.same_step(name) for name in graph.direct_downstream(NORMALIZED_VIDEO)))
    names = graph.assets_of(ANALYSIS)
    return frozenset(name for name in names if readers & set(graph.with_downstream(frozenset({name}), ANALYSIS)))
