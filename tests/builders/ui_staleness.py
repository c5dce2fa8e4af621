"""The stale assets that Dagster's UI shows."""

from collections.abc import Sequence

from dagster import AssetKey, DagsterInstance

# Only the private resolver of the UI says what the UI shows.
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from cv_assets.asset_graph import AssetGraph
from cv_assets.definitions import build_definitions


def stale_in_the_ui(instance: DagsterInstance, graph: AssetGraph, recording_ids: Sequence[str]) -> set[tuple[str, str]]:
    """Recordings and stale assets as the UI shows them: not the assets that only depend on a stale one."""
    asset_graph = build_definitions(graph.settings).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, asset_graph, LoadingContextForTest(instance))
    return {
        (recording_id, name)
        for recording_id in recording_ids
        for name in graph.stage_of_asset
        if resolver.get_status(AssetKey(name), recording_id) == StaleStatus.STALE
    }
