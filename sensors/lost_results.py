"""Lost results: marks them in stage_runs as interrupted, so that the run planner requests exactly them again."""

from collections.abc import Collection, Iterable
from pathlib import Path

from dagster import DagsterInstance

from cv_assets.asset_graph import AssetGraph
from cv_assets.normalized_video import NORMALIZED_VIDEO
from cv_assets.partitions import recordings_partitions
from resources.schema.recording_tables import RECORDING_CONTENTS, RECORDINGS
from resources.source_index import SourceIndex
from resources.storage.delta_store import Store
from resources.storage.integrity import StorageReport
from resources.storage.stage_runs import StageRun, append_stage_runs, later_than, newest_stage_runs

_REQUESTER = "repair"
Result = tuple[str, str]
"""Recording and stage of a result."""


def find_results_to_recompute(report: StorageReport, graph: AssetGraph, repaired_names: Collection[str]) -> set[Result]:
    """Find the results that must be computed again after a repair.

    Args:
        report: The result of the check after the repair.
        graph: The asset graph of the settings in force.
        repaired_names: Names of the tables that lost rows by the repair. Attempts by older versions of the program did
            not record what they stored in them, so all their results in these tables are computed again.
    """
    stages = {graph.stage_of_asset[name] for name in repaired_names if name in graph.stage_of_asset}
    lost = {(result.recording_id, result.stage) for result in report.lost}
    return lost | set(report.recorded.unrecorded_results(stages))


def add_missing_videos(results: set[Result], store: Store, graph: AssetGraph) -> list[str]:
    """Add the normalized videos that lost results need and that are missing, if their source files exist.

    Args:
        results: The lost results; updated.
        store: The tables.
        graph: The asset graph of the settings in force.

    Returns:
        A sentence for each recording of which results cannot be computed again, because its files are gone.
    """
    need_source = {RECORDINGS.name, NORMALIZED_VIDEO}
    need_video = {graph.stage_of_asset[name] for name in graph.direct_downstream(NORMALIZED_VIDEO)}
    recording_ids = sorted({recording_id for recording_id, _ in results})
    rows = store.read(RECORDING_CONTENTS, recording_ids, ["recording_id", "video_path"]).to_pylist()
    videos = {row["recording_id"]: store.data_folder / row["video_path"] for row in rows if row["video_path"]}
    sources = _source_files(recording_ids, store, graph)
    sentences = []
    for recording_id in recording_ids:
        stages = {stage for other_id, stage in results if other_id == recording_id}
        source = next((file for file in sources[recording_id] if file.is_file()), None)
        is_video_missing = bool(stages & need_video) and not (recording_id in videos and videos[recording_id].is_file())
        if source is not None and is_video_missing:
            results.add((recording_id, NORMALIZED_VIDEO))
        elif source is None and (is_video_missing or stages & need_source):
            names = " or ".join(map(str, sources[recording_id])) or f"in {graph.settings.watched_folder}"
            missing = "neither its normalized video nor its file exists" if is_video_missing else "its file is gone"
            lost = ", ".join(sorted(stages))
            sentences.append(
                f"{recording_id}: {lost} cannot be computed again, because {missing}: put the file back ({names})."
            )
    return sentences


def add_missing_partitions(instance: DagsterInstance, recording_ids: Collection[str]) -> None:
    """Add the partitions of archived recordings that have lost results: without them no run is requested."""
    name = recordings_partitions.name or ""
    missing = sorted(set(recording_ids) - set(instance.get_dynamic_partitions(name)))
    if missing:
        instance.add_dynamic_partitions(name, missing)


def mark_as_interrupted(results: Iterable[Result], store: Store) -> None:
    """Append an interrupted attempt for each result, so that it counts as missing.

    Raises:
        PipelineError: The data folder is full, read-only or not accessible.
    """
    results = sorted(results)
    recording_ids = sorted({recording_id for recording_id, _ in results})
    rows = newest_stage_runs(store, recording_ids, columns=("recording_id", "stage", "finished_at_utc")).to_pylist()
    ended_at = {(row["recording_id"], row["stage"]): row["finished_at_utc"] for row in rows}
    append_stage_runs(
        store,
        [
            StageRun(
                recording_id,
                stage,
                1,
                "interrupted",
                "",
                later_than(ended_at.get((recording_id, stage))),
                _REQUESTER,
                error=f"Rows of the stage {stage} were lost or damaged on the disk; they are computed again.",
            )
            for recording_id, stage in results
        ],
    )


def _source_files(recording_ids: list[str], store: Store, graph: AssetGraph) -> dict[str, list[Path]]:
    """Files that each recording may have, whether they exist or not."""
    paths: dict[str, dict[str, None]] = {recording_id: {} for recording_id in recording_ids}
    for path, file in SourceIndex(store).load(recording_ids).items():
        if file.recording_id is not None:
            paths[file.recording_id][path] = None
    for row in store.read(RECORDINGS, recording_ids, ["recording_id", "source_path"]).to_pylist():
        paths[row["recording_id"]][row["source_path"]] = None
    return {
        recording_id: [graph.settings.watched_folder / path for path in names] for recording_id, names in paths.items()
    }
