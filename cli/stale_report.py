"""Stale results in words: why they are stale, and which of them `process` recomputes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dagster import DagsterInstance

from cv_assets.asset_graph import AssetGraph
from cv_assets.camera_settings import cameras_of
from cv_assets.partitions import recordings_partitions
from resources.storage.delta_store import Store
from sensors.recomputation import select_recomputed
from sensors.staleness import StaleAsset, stale_assets


@dataclass(frozen=True)
class StaleReason:
    """Why results of a stage are stale, and of how many recordings."""

    stage: str
    reason: str
    recording_count: int


@dataclass(frozen=True)
class StaleResults:
    """Stale results of some recordings.

    Attributes:
        recording_count: Number of the recordings.
        reasons: Why they are stale, upstream first; without results that are stale only because others are.
    """

    recording_count: int
    reasons: Sequence[StaleReason]

    def describe(self, predicate: str) -> str:
        """Describe the results: a line with their number and what happens to them, and a line for each reason."""
        lines = [f"Stale results of {count_recordings(self.recording_count)} {predicate}"]
        lines += [
            f"  {reason.stage}: {reason.reason} ({count_recordings(reason.recording_count)})" for reason in self.reasons
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class StaleReport:
    """All stale results of a pipeline, by what makes them up to date.

    Attributes:
        recording_count: Number of all recordings.
        assets: All stale assets.
        cheap: What `process` recomputes by itself.
        costly: What it recomputes with --stale alone.
        without_file: What stays stale, because no file has the content of the recording.
    """

    recording_count: int
    assets: Sequence[StaleAsset]
    cheap: StaleResults
    costly: StaleResults
    without_file: StaleResults


def read_stale_report(store: Store, graph: AssetGraph) -> StaleReport:
    """Find the stale assets of all recordings, and what makes them up to date."""
    with DagsterInstance.get() as instance:
        recording_ids = instance.get_dynamic_partitions(recordings_partitions.name or "")
    assets = stale_assets(store, cameras_of(store, recording_ids), graph)
    cheap = select_recomputed(store, graph, assets, "cheap")
    computable = select_recomputed(store, graph, assets, "all")

    def summarize(group: Sequence[StaleAsset]) -> StaleResults:
        causes = {(graph.stage_of_asset[asset.asset_name], asset.own_reason, asset.recording_id) for asset in group}
        counts = Counter((stage, reason) for stage, reason, _ in sorted(causes) if reason)
        reasons = [StaleReason(stage, reason, count) for (stage, reason), count in counts.items()]
        order = list(graph.stages)
        recording_count = len({asset.recording_id for asset in group})
        return StaleResults(recording_count, sorted(reasons, key=lambda reason: order.index(reason.stage)))

    is_cheap = [asset.asset_name in cheap.get(asset.recording_id, ()) for asset in assets]
    is_computable = [asset.asset_name in computable.get(asset.recording_id, ()) for asset in assets]
    flags = list(zip(assets, is_cheap, is_computable, strict=True))
    return StaleReport(
        len(recording_ids),
        assets,
        cheap=summarize([asset for asset, cheap, _ in flags if cheap]),
        costly=summarize([asset for asset, cheap, computable in flags if computable and not cheap]),
        without_file=summarize([asset for asset, cheap, computable in flags if not cheap and not computable]),
    )


def count_recordings(count: int) -> str:
    """A number of recordings as text."""
    return f"{count} recording{'s' * (count != 1)}"
