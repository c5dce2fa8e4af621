"""The asset graph: all stages in order, their assets for some settings, and the two jobs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dagster import AssetsDefinition, AssetSelection, define_asset_job

from cv_assets.camera_clocks import camera_clocks
from cv_assets.camera_settings import CameraObserver
from cv_assets.corrected_tracks import corrected_tracks
from cv_assets.crop_models import crop_model_stage
from cv_assets.crops import crops
from cv_assets.detections import model_stage, models_by_asset
from cv_assets.normalized_video import NORMALIZED_VIDEO, normalized_video
from cv_assets.own_stage_assets import OwnStages, read_own_stages
from cv_assets.privacy_copies import privacy_copies
from cv_assets.recordings import recordings
from cv_assets.scenes import scenes
from cv_assets.stage_asset import ANALYSIS, INGEST, StageAsset
from cv_assets.still_tracks import still_tracks
from cv_assets.summaries import summaries
from cv_assets.track_links import track_links
from cv_assets.tracks import tracks
from cv_assets.zone_events import zone_events
from cv_assets.zone_summaries import zone_summaries
from resources.config.settings import Settings
from resources.config.stage_version import StageVersion
from resources.schema.camera_clock_tables import CAMERA_CLOCKS
from resources.schema.privacy_tables import PRIVACY_COPIES
from resources.schema.recording_tables import RECORDINGS
from resources.schema.table_registry import crop_model_tables
from resources.schema.track_tables import CROPS


def stages_in_order(settings: Settings) -> tuple[StageAsset, ...]:
    """All stages but those of one's own, upstream first; those of further models and of crop models come last."""
    return (
        recordings,
        normalized_video,
        scenes,
        model_stage(settings.detections),
        tracks,
        still_tracks,
        corrected_tracks,
        track_links,
        crops,
        zone_events,
        summaries,
        zone_summaries,
        *((camera_clocks,) if settings.camera_clock.read else ()),
        *((privacy_copies,) if settings.privacy_copy.cover else ()),
        *(model_stage(model, model.name) for model in settings.models),
        # Probes read what embedding models write.
        *(crop_model_stage(model) for model in sorted(settings.crop_models, key=lambda model: model.task == "probe")),
    )


@dataclass(frozen=True, eq=False)
class AssetGraph:
    """The assets for some settings, and their dependencies.

    Attributes:
        settings: The settings for which the assets were built.
        observer: Records the settings of single cameras, and corrections.
        assets: The assets, upstream first; one definition per stage.
        own_stages: The stages of one's own, whose assets come last.
    """

    settings: Settings
    observer: CameraObserver
    assets: tuple[AssetsDefinition, ...]
    own_stages: OwnStages = field(default_factory=OwnStages)

    @classmethod
    def build(cls, settings: Settings, observer: CameraObserver | None = None) -> "AssetGraph":
        """Build the assets for some settings.

        Args:
            settings: The settings.
            observer: Records the settings of single cameras; None creates one for the settings.
        """
        observer = observer or CameraObserver(settings)
        built_in = stages_in_order(settings)
        own_stages = read_own_stages(settings, built_in)
        stages = (*built_in, *own_stages.stages)
        stage_of_asset = {name: stage.stage.name for stage in stages for name in stage.stage.asset_names}
        assets = tuple(stage.build(settings, observer, stage_of_asset) for stage in stages)
        return cls(settings, observer, assets, own_stages)

    # Without a return type, because Dagster does not export the type of an asset job.
    ingest_job = cached_property(
        lambda self: define_asset_job(
            INGEST,
            AssetSelection.groups(INGEST),
            description="Probe and normalize recordings: CPU only, several runs at once.",
        )
    )
    """The job that probes and normalizes."""

    analysis_job = cached_property(
        lambda self: define_asset_job(
            ANALYSIS,
            AssetSelection.groups(ANALYSIS),
            description="Detect, track, crop and summarize. Its runs are tagged gpu=true, also where the CPU runs the "
            "model: the queue limits the runs with this tag.",
        )
    )
    """The job that detects, tracks and summarizes."""

    @cached_property
    def versions(self) -> Mapping[str, StageVersion]:
        """The version of each stage."""
        stages = (*stages_in_order(self.settings), *self.own_stages.stages)
        return {stage.stage.name: stage.version(self.settings) for stage in stages}

    @cached_property
    def costly_assets(self) -> frozenset[str]:
        """The assets whose stages run a model, or read or normalize the file of the recording."""
        readers = [model for model in self.settings.crop_models if model.task == "text" or model.callable]
        of_readers = (crop_model_tables(model.name, model.task)[0].name for model in readers)
        names = (*models_by_asset(self.settings), *of_readers, CAMERA_CLOCKS.name, PRIVACY_COPIES.name)
        of_models = frozenset[str]().union(*(self._siblings.get(name, frozenset()) for name in names))
        return self.assets_that_read_files | of_models | self.own_stages.costly_assets

    @cached_property
    def assets_that_read_files(self) -> frozenset[str]:
        """The assets whose stages read the file of the recording."""
        of_source = (CROPS.name,) if self.settings.crops.cut_from == "source" else ()
        names = (RECORDINGS.name, NORMALIZED_VIDEO, *of_source)
        return frozenset[str]().union(*(self._siblings[name] for name in names))

    @cached_property
    def stages(self) -> Mapping[str, tuple[str, ...]]:
        """The assets of each stage, upstream first; a step has the name of its stage."""
        return {assets.op.name: tuple(spec.key.to_user_string() for spec in assets.specs) for assets in self.assets}

    @cached_property
    def stage_of_asset(self) -> Mapping[str, str]:
        """The stage of each asset."""
        return {name: stage for stage, names in self.stages.items() for name in names}

    @cached_property
    def last_of_step(self) -> Mapping[str, str]:
        """By asset, the last asset of its step: once it is materialized, all assets of the step are."""
        return {
            spec.key.to_user_string(): list(assets.specs)[-1].key.to_user_string()
            for assets in self.assets
            for spec in assets.specs
        }

    @cached_property
    def assets_that_read_crops(self) -> frozenset[str]:
        """The assets whose stages read the pictures of crops: those of crop models but probes, and of one's own."""
        probes = [model for model in self.settings.crop_models if model.task == "probe"]
        of_probes = (self.same_step(crop_model_tables(probe.name, probe.task)[0].name) for probe in probes)
        return self.direct_downstream(CROPS.name).difference(*of_probes)

    @cached_property
    def _upstream(self) -> Mapping[str, frozenset[str]]:
        return {
            spec.key.to_user_string(): frozenset(dep.asset_key.to_user_string() for dep in spec.deps)
            for assets in self.assets
            for spec in assets.specs
        }

    @cached_property
    def _siblings(self) -> Mapping[str, frozenset[str]]:
        return {
            spec.key.to_user_string(): frozenset(sibling.key.to_user_string() for sibling in assets.specs)
            for assets in self.assets
            for spec in assets.specs
        }

    def assets_of(self, job_name: str) -> tuple[str, ...]:
        """Names of the assets of a job, upstream first."""
        return tuple(
            spec.key.to_user_string() for assets in self.assets for spec in assets.specs if spec.group_name == job_name
        )

    def direct_downstream(self, asset_name: str) -> frozenset[str]:
        """Assets that depend directly on an asset."""
        return frozenset(name for name, upstream in self._upstream.items() if asset_name in upstream)

    def same_step(self, asset_name: str) -> frozenset[str]:
        """Assets that the same step materializes, including the asset itself."""
        return self._siblings[asset_name]

    def with_downstream(self, asset_names: frozenset[str], job_name: str) -> tuple[str, ...]:
        """Assets of a job that are selected or depend on the selection, and the other assets of their steps.

        Assets that depend only on such other assets are left out: their inputs do not change.
        """
        selected = set(asset_names)
        for name in self.assets_of(job_name):
            if self._upstream[name] & selected:
                selected.add(name)
        in_job = self.assets_of(job_name)
        with_siblings = set[str]().union(*(self._siblings[name] for name in selected & set(in_job)))
        return tuple(name for name in in_job if name in with_siblings)
