"""Settings of single cameras as observable source assets, with one partition per recording.

A stage has one code version for all recordings, so a code version cannot express the settings of a single camera.
Each aspect of a camera's settings is therefore a source asset, upstream of the stages that read it. Its observations
carry the data version: a changed setting makes the recordings of that camera stale, in those stages only. A camera
without settings of its own has no observations.
"""

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetKey,
    AssetObservation,
    BetaWarning,
    DagsterInstance,
    DataVersionsByPartition,
    OpExecutionContext,
    SourceAsset,
    observable_source_asset,
)

from cv_assets.corrections import CORRECTIONS_ASSET, RecordingAspect
from cv_assets.partitions import recordings_partitions
from resources.config.detection_config import DetectionSettings
from resources.config.media_config import VideoSettings
from resources.config.settings import Settings
from resources.config.stage_version import flatten
from resources.dagster_instance.dagster_names import DATA_VERSION_IS_USER_PROVIDED_TAG, DATA_VERSION_TAG
from resources.dagster_instance.event_log import AssetEvent, observations
from resources.schema.recording_tables import RECORDINGS, SOURCE_FILES
from resources.storage.delta_store import Store

NO_VERSION = "none"
"""The data version where a camera has no settings of its own."""
_READ_AT_TAG = "cv_assets/settings_read_at"


@dataclass(frozen=True)
class CameraAspect:
    """A group of settings that a single camera can have, read by the same stages.

    Attributes:
        name: Name of the asset.
        description: What the settings decide.
        settings_json: The camera's own settings of this aspect as JSON; empty where it has none.
        key_in_file: Key of these settings in the settings file; empty if they are several keys of the camera.
    """

    name: str
    description: str
    settings_json: Callable[[Settings, str | None], str]
    key_in_file: str = ""

    @property
    def key(self) -> AssetKey:
        """The asset's key."""
        return AssetKey(self.name)

    def settings_by_name(self, settings: Settings, camera: str | None) -> dict[str, Any]:
        """The camera's own settings of this aspect as JSON values by name; empty where it has none."""
        settings_json = self.settings_json(settings, camera)
        values = json.loads(settings_json) if settings_json else {}
        return flatten({self.key_in_file: values} if self.key_in_file and values else values)


def _video_json(settings: Settings, camera: str | None) -> str:
    video: VideoSettings = settings.video_of(camera).output_settings
    overridden = {name for name, value in video if value != getattr(settings.video.output_settings, name)}
    return video.model_dump_json(include=overridden) if overridden else ""


CAMERA_VIDEO = CameraAspect("camera_video", "Settings of normalization that differ from `video`", _video_json, "video")

CAMERA_TRACK_LINKING = CameraAspect(
    "camera_track_linking",
    "Longest gap over which tracks are linked from one recording to the next",
    lambda settings, camera: settings.camera(camera).own_settings_json("track_link_gap_s"),
)

CAMERA_ZONES = CameraAspect(
    "camera_zones",
    "Zones, lines and ground plane",
    lambda settings, camera: settings.camera(camera).own_settings_json(
        "units", "anchor", "hysteresis", "standing_speed", "fixed_to", "zones", "lines", "ground"
    ),
)


CAMERA_LEFT_OUT = CameraAspect(
    "camera_left_out",
    "Still objects that are left out of counts",
    lambda settings, camera: (
        settings.camera(camera).own_settings_json("units", "left_out") if settings.camera(camera).left_out else ""
    ),
)


def camera_regions(model_name: str | None = None) -> CameraAspect:
    """Declare the aspect of the detection regions of a model.

    Args:
        model_name: A further model; None means the detector.
    """

    def regions_json(settings: Settings, camera: str | None) -> str:
        models = {model.name: model for model in settings.models}
        model: DetectionSettings = settings.detections if model_name is None else models[model_name]
        polygons = model.region_of(camera)
        return json.dumps(polygons) if polygons else ""

    of_model = f" of {model_name}" if model_name else ""
    name = f"{model_name}_camera_regions" if model_name else "camera_regions"
    key_in_file = f"models.{model_name}.regions" if model_name else "detections.regions"
    return CameraAspect(name, f"Detection regions{of_model}", regions_json, key_in_file)


@dataclass(frozen=True)
class CurrentSettings:
    """One aspect of a recording in force.

    Attributes:
        version: Data version.
        settings: The settings of its camera by name; empty for what is no setting.
    """

    version: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class SettingsObservation:
    """The newest observation of a recording's camera that agrees with the settings of this process.

    Attributes:
        version: Data version of the settings.
        settings: The settings by name.
        storage_id: Id of the event; if the camera has no settings of its own, an id before all its observations.
        is_what_dagster_read: Whether Dagster, which reads the newest observation when a step begins, has read this one:
            False if this process has only now recorded it, or one with newer settings has recorded another.
    """

    version: str
    settings: Mapping[str, Any]
    storage_id: int
    is_what_dagster_read: bool


def settings_data_version(settings_json: str) -> str:
    """Data version of a camera's settings."""
    return hashlib.blake2b(settings_json.encode(), digest_size=8).hexdigest() if settings_json else NO_VERSION


def observed_version(event: AssetEvent | None) -> str:
    """Data version of an observation; without one, the version of a camera without settings of its own."""
    return (event.version if event else None) or NO_VERSION


def cameras_of(store: Store, recording_ids: Sequence[str] | None = None) -> dict[str, str | None]:
    """Camera by recording, for some recordings or for all; None if it is unknown."""
    cameras: dict[str, str | None] = dict.fromkeys(recording_ids or ())
    for table in (SOURCE_FILES, RECORDINGS):  # a recording that was not probed yet is only in the first
        rows = store.read(table, recording_ids, ["recording_id", "camera"]).to_pylist()
        cameras |= {row["recording_id"]: row["camera"] for row in rows if row["recording_id"]}
    return cameras


class CameraObserver:
    """Records the settings of single cameras, and corrections, as observations of the source assets.

    Args:
        settings: The settings of this process.
        read_at_s: When they were read, in seconds since 1970; None means now.
    """

    def __init__(self, settings: Settings, read_at_s: float | None = None) -> None:
        self._settings, self._read_at_s = settings, time.time() if read_at_s is None else read_at_s
        self._store = Store(settings.data_folder)
        aspects: tuple[CameraAspect | RecordingAspect, ...] = (
            CORRECTIONS_ASSET,
            *(CAMERA_VIDEO, CAMERA_TRACK_LINKING, CAMERA_LEFT_OUT, CAMERA_ZONES, camera_regions()),
            *(camera_regions(model.name) for model in settings.models),
        )
        self.aspects: Mapping[AssetKey, CameraAspect | RecordingAspect] = {aspect.key: aspect for aspect in aspects}

    def build_assets(self) -> list[SourceAsset]:
        """Build the source asset of each aspect; observing one records the settings in force."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BetaWarning)  # at each start, one for each asset
            return [self._build_asset(aspect) for aspect in self.aspects.values()]

    def _build_asset(self, aspect: CameraAspect | RecordingAspect) -> SourceAsset:
        is_settings = isinstance(aspect, CameraAspect)
        origin = (
            "from the settings of the recording's camera. The pipeline observes them by itself; a recording without an "
            "observation has no settings of its own. After a change of the settings, Observe marks what has become "
            "stale."
            if is_settings
            else "from the table of the same name, to which `cv-assets correct` adds rows. The pipeline observes them "
            "by itself; a recording without an observation has none."
        )

        # Observable, because the UI shows any other asset whose partitions are not materialized as missing.
        @observable_source_asset(
            name=aspect.name,
            description=f"{aspect.description}, {origin}",
            group_name="cameras" if is_settings else "people",
            tags={"dagster/kind/yaml" if is_settings else "dagster/kind/deltalake": ""},
            partitions_def=recordings_partitions,
            required_resource_keys={"store"},
        )
        def observe(context: OpExecutionContext) -> DataVersionsByPartition:
            self.record(context.instance, [aspect.key], cameras_of(context.resources.store))
            return DataVersionsByPartition({})  # the observations are recorded with the time of their settings

        return observe

    def current(self, key: AssetKey, cameras: Mapping[str, str | None]) -> dict[str, CurrentSettings]:
        """The settings of the cameras as this process read them, or the stored corrections, by recording.

        Args:
            key: The asset.
            cameras: Camera by recording.
        """
        aspect = self.aspects[key]
        if isinstance(aspect, RecordingAspect):
            texts = aspect.versions(self._store, cameras)
            return {
                recording_id: CurrentSettings(settings_data_version(text), {}) for recording_id, text in texts.items()
            }
        by_camera = {
            camera: CurrentSettings(
                settings_data_version(aspect.settings_json(self._settings, camera)),
                aspect.settings_by_name(self._settings, camera),
            )
            for camera in set(cameras.values())
        }
        return {recording_id: by_camera[camera] for recording_id, camera in cameras.items()}

    def record(
        self, instance: DagsterInstance, keys: Iterable[AssetKey], cameras: Mapping[str, str | None]
    ) -> dict[AssetKey, dict[str, SettingsObservation]]:
        """Record observations for recordings whose newest observation differs from the settings of this process.

        An observation of settings that were read later is kept, so that results of the older settings are stale.

        Args:
            instance: Dagster's instance.
            keys: Assets to observe; keys of other assets are ignored.
            cameras: Camera by recording.

        Returns:
            By asset and recording, the observation that Dagster records as read.
        """
        return {key: self._record_one(instance, self.aspects[key], cameras) for key in keys if key in self.aspects}

    def _record_one(
        self, instance: DagsterInstance, aspect: CameraAspect | RecordingAspect, cameras: Mapping[str, str | None]
    ) -> dict[str, SettingsObservation]:
        newest = instance.fetch_observations(aspect.key, limit=1).records
        if is_first := not newest:
            # Dagster compares data versions with those of the event that was read, so there must be an event.
            instance.report_runless_asset_event(AssetObservation(aspect.key))
            newest = instance.fetch_observations(aspect.key, limit=1).records
        last_id = newest[0].storage_id
        # Settings are read at the start of the process, corrections now.
        read_at_s = self._read_at_s if isinstance(aspect, CameraAspect) else time.time()
        current = self.current(aspect.key, cameras)
        events = observations(instance, aspect.key, set(current))
        recorded: set[str] = set()
        for recording_id, settings in current.items():
            newest_event = events.get(recording_id, [])[:1]
            if any(
                settings.version == observed_version(event) or _is_newer(event, read_at_s) for event in newest_event
            ):
                continue
            if newest_event or settings.version != NO_VERSION:
                instance.report_runless_asset_event(_observation(aspect, recording_id, settings, read_at_s))
                recorded.add(recording_id)
        if recorded:
            events = observations(instance, aspect.key, set(current))
        return {
            recording_id: _newest_matching_observation(
                settings.version,
                settings.settings,
                events.get(recording_id, []),
                last_id,
                is_recorded_now=is_first or recording_id in recorded,
            )
            for recording_id, settings in current.items()
        }


def _is_newer(event: AssetEvent, read_at_s: float) -> bool:
    """Whether the settings of an observation were read after those of a time; future times are ignored."""
    return read_at_s < float(event.tags.get(_READ_AT_TAG, 0)) < time.time()


def _observation(
    aspect: CameraAspect | RecordingAspect, recording_id: str, settings: CurrentSettings, read_at_s: float
) -> AssetObservation:
    tags = {_READ_AT_TAG: str(read_at_s)}
    if settings.version != NO_VERSION:  # Dagster treats an observation without a version like no observation
        tags |= {DATA_VERSION_TAG: settings.version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
    metadata = {"settings": json.dumps(settings.settings)} if settings.settings else {}
    return AssetObservation(aspect.key, partition=recording_id, metadata=metadata, tags=tags)


def _newest_matching_observation(
    version: str, settings: Mapping[str, Any], events: Sequence[AssetEvent], last_id: int, *, is_recorded_now: bool
) -> SettingsObservation:
    match = next((event for event in events if observed_version(event) == version), None)
    id_before_all = events[-1].storage_id - 1 if events else last_id
    is_newest = version == observed_version(events[0] if events else None)
    return SettingsObservation(
        version,
        settings,
        match.storage_id if match else id_before_all,
        is_what_dagster_read=is_newest and not is_recorded_now,
    )
