"""The decorator that declares a stage: it turns a function that processes one recording into assets.

A stage is declared at import, and `StageAsset.build` builds its assets for some settings: so no settings are read at
import, and one process can build the assets for several settings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dagster import (
    AssetCheckSpec,
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    BackfillPolicy,
    MetadataValue,
    TableColumn,
    TableColumnConstraints,
    TableSchema,
    multi_asset,
)

from cv_assets.batch import CHECK_NAME, CheckRecordings, Stage, process_batch
from cv_assets.camera_settings import CameraObserver
from cv_assets.partitions import recordings_partitions
from cv_assets.stage_metadata import Metadata
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.dagster_instance.run_coordinator import GPU_POOL
from resources.media.progress import ReportProgress
from resources.schema.columns import Table
from resources.storage.delta_store import Store
from resources.storage.results_database import results_path

INGEST, ANALYSIS = "ingest", "analysis"
"""The two jobs; the group of an asset names its job."""
_LINKS = (
    "[Each recording](/assets/{name}?view=partitions). What was found: [summaries](/assets/summaries?view=partitions), "
    "[detections](/assets/detections?view=partitions), [crops](/assets/crops?view=partitions), "
    "[zone events](/assets/zone_events?view=partitions)."
)
_ON_DEVICE = (
    "Runs the model on a GPU, or on the CPU of a machine without one. In both cases its runs are tagged gpu=true, and "
    "the queue limits the runs with this tag; the tag cv_assets/device names the device."
)


@dataclass(frozen=True)
class StageRun:
    """The context, tables and settings of a stage in one run.

    Attributes:
        context: The step's context.
        store: The tables.
        settings: The settings in force.
        device: The leased device, such as `cpu` or `cuda:0`; empty for stages without a lease.
    """

    context: AssetExecutionContext
    store: Store
    settings: Settings
    device: str = ""


StageFunction = Callable[[str, StageRun, ReportProgress], Mapping[str, Metadata]]
"""Processes one recording: takes its id, the run and a progress callback; returns metadata by asset name."""


@dataclass(frozen=True)
class FileAsset:
    """An asset of a stage that is a file per recording, not a table.

    Attributes:
        name: Name of the asset.
        description: What the file is.
        grain: What one file corresponds to, as a sentence.
        kinds: Technologies, shown as badges in the UI.
        checks: Further checks, as description by check name.
    """

    name: str
    description: str
    grain: str
    kinds: tuple[str, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StageAsset:
    """A declared stage; see `stage_asset` for the attributes."""

    stage: Stage
    process: StageFunction
    group: str
    version: Callable[[Settings], StageVersion]
    deps: tuple[str, ...]
    kinds: tuple[str, ...]
    files: tuple[FileAsset, ...]
    pool: str | None
    lease: Callable[[StageRun], AbstractContextManager[str]] | None
    resource_keys: tuple[str, ...]
    description: str

    def build(
        self, settings: Settings, observer: CameraObserver, stage_of_asset: Mapping[str, str] = MappingProxyType({})
    ) -> AssetsDefinition:
        """Build the stage's assets for some settings.

        Args:
            settings: Decide the code version and the number of recordings per run of a backfill.
            observer: Records the settings of single cameras.
            stage_of_asset: Stage by asset, for assets that do not have the name of their stage.
        """
        version = self.version(settings)
        code_version = version.code_version
        stage = replace(
            self.stage,
            version=version,
            input_stages={name: stage_of_asset.get(name, name) for name in self.deps},
            all_stages=tuple(dict.fromkeys(stage_of_asset.values())),
        )

        @multi_asset(
            name=self.stage.name,
            specs=[*self._file_specs(code_version), *self._table_specs(code_version, settings.data_folder)],
            check_specs=self._check_specs(),
            partitions_def=recordings_partitions,
            # A backfill runs in batches, so that a model is loaded once per batch.
            backfill_policy=BackfillPolicy.multi_run(max_partitions_per_run=settings.batches.max_recordings),
            pool=self.pool,
            required_resource_keys={"store", "settings", *self.resource_keys},
            description=self.description,
        )
        def compute(context: AssetExecutionContext) -> Iterator[Any]:
            run = StageRun(context, context.resources.store, context.resources.settings)
            with self.lease(run) if self.lease else nullcontext("") as device:
                run_on_device = replace(run, device=device)
                yield from process_batch(
                    stage,
                    context,
                    run.store,
                    run.settings,
                    observer,
                    lambda recording_id, progress: self.process(recording_id, run_on_device, progress),
                )

        return compute

    def _file_specs(self, code_version: str) -> Iterator[AssetSpec]:
        for file in self.files:
            yield self._spec(file.name, code_version, file.description, file.kinds, file.grain, "recording_id", {})

    def _table_specs(self, code_version: str, data_folder: Path) -> Iterator[AssetSpec]:
        for table in self.stage.tables:
            columns = [
                TableColumn(
                    column.name,
                    str(column.type),
                    description=column.comment,
                    constraints=TableColumnConstraints(nullable=column.nullable, unique=(column.name,) == table.key),
                )
                for column in table.stored_columns
            ]
            metadata = {
                "dagster/column_schema": TableSchema(columns=columns),
                "dagster/table_name": table.name,
                "results": MetadataValue.path(results_path(data_folder)),
            }
            kinds = ("deltalake", *self.kinds)
            key = ", ".join(table.key)
            yield self._spec(table.name, code_version, table.comment, kinds, table.grain, key, metadata)

    def _spec(
        self,
        name: str,
        code_version: str,
        description: str,
        kinds: Sequence[str],
        grain: str,
        key: str,
        metadata: Mapping[str, Any],
    ) -> AssetSpec:
        paragraphs = [description, *([_ON_DEVICE] if self.pool == GPU_POOL else []), _LINKS.format(name=name)]
        return AssetSpec(
            name,
            deps=self.deps,
            description="\n\n".join(paragraphs),
            group_name=self.group,
            code_version=code_version,
            kinds=set(kinds),
            owners=["team:video-analytics"],
            metadata={**metadata, "grain": grain, "key": key},
            partitions_def=recordings_partitions,
        )

    def _check_specs(self) -> list[AssetCheckSpec]:
        table_checks = [
            AssetCheckSpec(
                CHECK_NAME,
                asset=table.name,
                description="Keys are unique, required columns are filled, values are within their declared ranges.",
            )
            for table in self.stage.tables
        ]
        file_checks = [
            AssetCheckSpec(name, asset=file.name, description=description)
            for file in self.files
            for name, description in file.checks.items()
        ]
        return [*table_checks, *file_checks]


def stage_asset(
    *,
    group: str,
    version: Callable[[Settings], StageVersion],
    deps: Sequence[str],
    tables: Sequence[Table] = (),
    files: Sequence[FileAsset] = (),
    kinds: Sequence[str] = (),
    name: str | None = None,
    runs_on_rejected: bool = False,
    check: CheckRecordings | None = None,
    pool: str | None = None,
    lease: Callable[[StageRun], AbstractContextManager[str]] | None = None,
    resource_keys: Sequence[str] = (),
) -> Callable[[StageFunction], StageAsset]:
    """Declare a stage: the decorated function processes one recording and writes its part of the assets.

    Args:
        group: The job of the stage, `INGEST` or `ANALYSIS`.
        version: Version of the stage's logic and settings; when it changes, the assets are stale.
        deps: Names of the assets that the stage reads, including those of camera settings.
        tables: Tables that the stage writes.
        files: Assets that are files, not tables.
        kinds: Technologies, shown as badges in the UI.
        name: Name of the stage; None takes the name of the function.
        runs_on_rejected: Whether the stage reads the source file, and therefore also runs on rejected recordings.
        check: A further check of the stored results.
        pool: Dagster pool of its step; `GPU_POOL` for model stages.
        lease: Leases a device for the whole run.
        resource_keys: Dagster resources that the stage needs in addition to `store` and `settings`.
    """

    def declare(process: StageFunction) -> StageAsset:
        stage = Stage(
            name or process.__name__,
            tuple(tables),
            tuple(file.name for file in files),
            runs_on_rejected=runs_on_rejected,
            check=check,
        )
        return StageAsset(
            stage=stage,
            process=process,
            group=group,
            version=version,
            deps=tuple(deps),
            kinds=tuple(kinds),
            files=tuple(files),
            pool=pool,
            lease=lease,
            resource_keys=tuple(resource_keys),
            description=(process.__doc__ or "").strip(),
        )

    return declare
