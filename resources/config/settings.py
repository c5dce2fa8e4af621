"""All settings of pipeline.yaml, every key optional."""

import hashlib
import json
from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    Field,
    field_validator,
)

from resources.config.camera_clock_config import CameraClockSettings
from resources.config.camera_config import CameraSettings
from resources.config.crop_model_config import CropModelSettings
from resources.config.detection_config import DetectionSettings, ModelSettings
from resources.config.handover_config import PackSettings, RecapSettings
from resources.config.media_config import IngestSettings, SceneSettings, VideoSettings
from resources.config.operations_config import BatchSettings, NotificationSettings, QueueSettings, RetentionSettings
from resources.config.privacy_config import PrivacyCopySettings
from resources.config.search_config import SearchSettings
from resources.config.section import FolderPath, Section
from resources.config.serve_config import ServeSettings
from resources.config.stage_config import OwnStageSettings
from resources.config.tracking_config import CropSettings, TrackSettings


class Settings(Section):
    """All settings. Folders are relative to the settings file's own folder."""

    watched_folder: FolderPath = Field(
        Path("recordings"), description="Folder in which recordings are dropped; only read."
    )
    further_watched_folders: tuple[FolderPath, ...] = Field(
        (), max_length=100, description="More watched folders, such as a recorder's share."
    )
    data_folder: FolderPath = Field(
        Path("data"), description="Folder of tables, normalized videos and Dagster's storage."
    )
    data_group: str | None = Field(
        None,
        min_length=1,
        description="Group of this machine whose members may read the data folder; null: only its owner may.",
    )
    tables_url: str | None = Field(
        None,
        pattern=r"^s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._-]+)*$",
        description="S3-compatible storage of the tables, as s3://bucket/prefix; null: they are in the data folder.",
    )
    ingest: IngestSettings = IngestSettings()
    video: VideoSettings = VideoSettings()
    scenes: SceneSettings = SceneSettings()
    camera_clock: CameraClockSettings = CameraClockSettings()
    detections: DetectionSettings = DetectionSettings()
    rename_classes: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        {},
        max_length=10_000,
        description="Names of classes in tracks and all that follows, by the model's names; classes with one new name "
        "count as one. detections keeps the model's names.",
    )
    models: tuple[ModelSettings, ...] = Field(
        (), max_length=50, description="Further models, each an asset with tables of its own."
    )
    crop_models: tuple[CropModelSettings, ...] = Field(
        (), max_length=50, description="Models of crops, each an asset with tables of its own."
    )
    stages: tuple[OwnStageSettings, ...] = Field(
        (), max_length=50, description="Stages of one's own, each an asset with a table, declared by a Python file."
    )
    tracks: TrackSettings = TrackSettings()
    crops: CropSettings = CropSettings()
    privacy_copy: PrivacyCopySettings = PrivacyCopySettings()
    search: SearchSettings = SearchSettings()
    batches: BatchSettings = BatchSettings()
    queue: QueueSettings = QueueSettings()
    cameras: dict[str, CameraSettings] = Field(
        default={},
        description="Settings of single cameras, by the first folder under the watched folder "
        '("": recordings directly in the watched folder).',
    )
    notifications: NotificationSettings = NotificationSettings()
    retention: RetentionSettings = RetentionSettings()
    pack: PackSettings = PackSettings()
    recaps: RecapSettings = RecapSettings()
    serve: ServeSettings = ServeSettings()

    @property
    def watched_folders(self) -> tuple[Path, ...]:
        """The watched folder and the further ones."""
        return (self.watched_folder, *self.further_watched_folders)

    @property
    def all_models(self) -> tuple[DetectionSettings, ...]:
        """The detector, all further models, and the networks of crop models."""
        of_crops = (model.model_settings for model in self.crop_models)
        return (self.detections, *self.models, *(model for model in of_crops if model is not None))

    def camera(self, name: str | None) -> CameraSettings:
        """Settings of a camera; the defaults for one without settings.

        Args:
            name: The camera; None or empty: recordings directly in the watched folder.
        """
        return self.cameras.get(name or "", CameraSettings())

    def video_of(self, camera: str | None) -> VideoSettings:
        """Video settings of a camera: its own where it has them, else those of `video`."""
        own = self.camera(camera).video
        return (
            self.video if own is None else VideoSettings(**{**dict(self.video), **own.model_dump(exclude_unset=True)})
        )

    @field_validator("models", "crop_models")
    @classmethod
    def _check_names(
        cls, value: tuple[ModelSettings, ...] | tuple[CropModelSettings, ...]
    ) -> tuple[ModelSettings, ...] | tuple[CropModelSettings, ...]:
        names = [model.name for model in value]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two models have the name {repeated[0]}: every name must be unique")
        return value

    @field_validator("crop_models")
    @classmethod
    def _check_embeddings(cls, value: tuple[CropModelSettings, ...]) -> tuple[CropModelSettings, ...]:
        names = [model.name for model in value if model.task == "embed"]
        for model in value:
            if model.embeddings is not None and model.embeddings not in names:
                known = ", ".join(names) or "none"
                raise ValueError(
                    f"{model.name} reads the embeddings of {model.embeddings}, which is no crop model with the task "
                    f"embed: known are {known}"
                )
        return value


def settings_version(*sections: BaseModel | str) -> str:
    """Hash settings sections and texts: equal values give equal versions on any machine."""
    text = json.dumps(
        [part if isinstance(part, str) else part.model_dump(mode="json") for part in sections], sort_keys=True
    )
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
