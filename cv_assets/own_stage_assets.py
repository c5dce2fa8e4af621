"""Stages of one's own as assets: each has the table that its file declares, and runs in a process of its own."""

import difflib
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import pyarrow as pa

from cv_assets.model_lease import lease_of_model
from cv_assets.stage_asset import ANALYSIS, INGEST, StageAsset, StageRun, stage_asset
from cv_assets.stage_inputs import StageInputs, list_input_assets
from cv_assets.stage_metadata import Metadata, count_metadata
from resources.config.detection_config import DetectionSettings
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.dagster_instance.run_coordinator import GPU_POOL
from resources.errors import PipelineError, RecordingError
from resources.inference.prefetch import Prefetch
from resources.media.progress import ReportProgress
from resources.own_stages.stage_code import StageCode
from resources.own_stages.stage_file import CROPS_INPUT, FRAMES_INPUT, OwnStage, read_stage_file
from resources.own_stages.stage_process import stage_process
from resources.schema.row_checks import broken_rules
from resources.schema.table_registry import TABLES, find_table
from resources.schema.views import VIEWS
from resources.storage.own_tables import store_own_table
from resources.storage.results_database import CATALOG

_LOGIC = "own stage 1"
# Of jobs and their steps: no asset may have them.
_DAGSTER_NAMES = (INGEST, ANALYSIS, "retention", "delete_old", "recap", "write_day_recap")
DEVICE_SETTINGS = DetectionSettings(weights="stage.pt")
"""With these, the devices of a stage are those that torch can use."""


@dataclass(frozen=True)
class OwnStages:
    """The stages of one's own that the settings name.

    Attributes:
        stages: Those whose files are valid, in the order of the settings.
        problems: By a name for the UI, what is wrong with each of the others.
        costly_assets: Assets of stages that receive pictures or run a model.
    """

    stages: tuple[StageAsset, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    costly_assets: frozenset[str] = frozenset()


def read_own_stages(settings: Settings, upstream: Sequence[StageAsset]) -> OwnStages:
    """Read the stages of one's own; a file that is not valid costs its own stage only.

    Args:
        settings: Name the files.
        upstream: The other stages, whose tables may be inputs; so may those of stages before in the list.
    """
    stages, problems, costly = list[StageAsset](), dict[str, str](), set[str]()
    for own_settings in settings.stages:
        try:
            stage = read_stage_file(own_settings)
            _check_names(stage, [*upstream, *stages])
        except PipelineError as error:
            name = re.sub(r"\W", "_", own_settings.file.stem) or "stage"
            while name in problems:
                name += "_"  # files of one name in several folders
            problems[name] = str(error)
            continue
        stages.append(_build_stage_asset(stage))
        if stage.has_frames or stage.has_crops or stage.device != "cpu":
            costly.add(stage.name)
    return OwnStages(tuple(stages), problems, frozenset(costly))


def _check_names(stage: OwnStage, upstream: Sequence[StageAsset]) -> None:
    """Check that the name of a stage is free, and that its inputs exist.

    Raises:
        PipelineError: They do not.
    """
    file, tables = stage.settings.file, [table.name for asset in upstream for table in asset.stage.tables]
    taken = {*TABLES, *(table.published_name for table in TABLES.values()), *(view.table.name for view in VIEWS)}
    taken |= {CATALOG, *tables, *_DAGSTER_NAMES}
    # What stages depend on are further assets: the settings of single cameras, and corrections.
    taken |= {name for asset in upstream for name in (asset.stage.name, *asset.stage.asset_names, *asset.deps)}
    if stage.name in taken:
        what = "a job" if stage.name in _DAGSTER_NAMES else "a table or an asset"
        raise PipelineError(f"{file}: {what} has the name {stage.name} already: give the function another name.")
    if find_table(stage.name) is not None:
        raise PipelineError(f"{file}: tables of models have names like {stage.name}: give the function another name.")
    known = [*dict.fromkeys((FRAMES_INPUT, CROPS_INPUT, *tables))]
    for name in stage.inputs:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known)}."
            raise PipelineError(f"{file}: no stage before it writes the input {name!r}; {hint}")


def compute_rows(inputs: StageInputs, progress: ReportProgress) -> pa.Table:
    """Run the function of a stage on all batches of a recording, in the process of the stage.

    Args:
        inputs: The inputs.
        progress: Takes the number of frames or crops done.

    Returns:
        Rows of the stage's table.

    Raises:
        RecordingError: The function failed, or its rows break the declaration.
    """
    stage, recording_id = inputs.stage, inputs.recording.recording_id
    schema = stage.table.arrow_schema
    own_columns = pa.schema([column for column in schema if column.name != "recording_id"])
    code = StageCode(str(stage.settings.file), stage.source, stage.name, own_columns)
    process = stage_process(stage.name, code, stage.settings)
    parts, done, total = [own_columns.empty_table()], 0, inputs.item_count
    try:
        with closing(Prefetch(inputs.batches(), 1)) as batches:  # the next batch is decoded meanwhile
            for batch in batches:
                parts.append(process.call(batch))
                done += max(len(batch.frames), len(batch.crops), 1)
                progress(min(done, total), total)
    finally:
        process.free_shared_memory()
    rows = pa.concat_tables(parts)
    ids = pa.array([recording_id] * rows.num_rows, pa.string())
    rows = rows.add_column(0, schema.field("recording_id"), ids).select(schema.names).cast(schema)
    if sentences := broken_rules(stage.table, rows):
        raise RecordingError(" ".join(sentences))
    return rows


def _build_stage_asset(stage: OwnStage) -> StageAsset:
    def version(_: Settings) -> StageVersion:
        key = f"stages.{stage.name}"
        values = {f"{key}.version": stage.version, f"{key}.file": f"content {stage.content_hash[:8]}"}
        return StageVersion.build(_LOGIC, {}, stage.version, stage.content_hash, explanation=values)

    on_device = stage.device != "cpu"

    @stage_asset(
        name=stage.name,
        group=ANALYSIS,
        tables=(stage.table,),
        deps=list_input_assets(stage.inputs),
        version=version,
        kinds=("python",),
        pool=GPU_POOL if on_device else None,
        lease=lease_of_model(stage.name, lambda _: DEVICE_SETTINGS) if on_device else None,
    )
    def compute(recording_id: str, run: StageRun, progress: ReportProgress) -> Mapping[str, Metadata]:
        inputs = StageInputs.read(stage, recording_id, run.store, run.device or "cpu")
        rows = compute_rows(inputs, progress)
        store_own_table(run.store.tables_folder, stage.table)
        run.store.replace(stage.table, [recording_id], rows)
        return {stage.name: count_metadata(rows.num_rows)}

    return replace(compute, description=f"{stage.description}\n\nDeclared by {stage.settings.file}.")
