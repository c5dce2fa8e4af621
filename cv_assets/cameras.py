"""What the settings say of single cameras, as assets that are noted and not made: one partition per recording.

A stage that heeds one is made from it. So what one camera sets makes its own recordings stale and no others, and only
in the stages that heed it, which Dagster's version of a stage's code, one for all recordings, cannot tell. A note is an
observation of what the settings say of the recording's camera; there is none before they say anything.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dagster import AssetKey, AssetObservation, AssetSpec, DagsterInstance
from dagster._core.definitions.data_version import DATA_VERSION_IS_USER_PROVIDED_TAG, DATA_VERSION_TAG

from cv_assets.events import Told, observations
from cv_assets.partitions import recordings_partitions
from resources.schema import RECORDINGS
from resources.settings import DetectionSettings, Settings, VideoSettings, current_settings
from resources.storage import Store

NOTHING = "none"
_READ_AT = time.time()  # when this process read its settings
_READ_AT_TAG = "cv_assets/settings_read_at"


@dataclass(frozen=True)
class Aspect:
    """A part of what can be set for one camera.

    Attributes:
        name: Of the asset.
        meaning: What it holds, in words.
        said: What the settings say of a camera, as text; empty for nothing.
    """

    name: str
    meaning: str
    said: Callable[[Settings, str | None], str]

    @property
    def key(self) -> AssetKey:
        """The asset's key."""
        return AssetKey(self.name)

    @property
    def spec(self) -> AssetSpec:
        """The asset."""
        return AssetSpec(
            self.name,
            description=f"{self.meaning}, as the settings say of the recording's camera. Nothing is materialized here: "
            "Events shows what was noted, and when.",
            group_name="cameras",
            kinds={"yaml"},
            owners=["team:video-analytics"],
            partitions_def=recordings_partitions,
        )


def _video(settings: Settings, camera: str | None) -> str:
    own: VideoSettings = settings.video_of(camera).made
    differing = {name: value for name, value in own if value != getattr(settings.video.made, name)}
    return own.model_dump_json(include={*differing}) if differing else ""


CLOCK = Aspect(
    "camera_clock", "Time zone and error of the clock", lambda s, c: s.camera(c).said("time_zone", "clock_offset_s")
)
VIDEO = Aspect("camera_video", "How videos are normalized, where it differs from the others'", _video)
JOINING = Aspect("camera_joining", "Whether files are joined", lambda s, c: s.camera(c).said("joined_within_s"))
ZONES = Aspect(
    "camera_zones",
    "Zones, lines and ground",
    lambda s, c: s.camera(c).said("units", "anchor", "hysteresis", "standing_speed", "zones", "lines", "ground"),
)


def regions_of(model_name: str | None = None) -> Aspect:
    """Where a model looks.

    Args:
        model_name: A further model; None means the detector of the walk.
    """

    def said(settings: Settings, camera: str | None) -> str:
        every = {model.name: model for model in settings.models}
        model: DetectionSettings = settings.detections if model_name is None else every[model_name]
        polygons = model.region_of(camera)
        return json.dumps(polygons) if polygons else ""

    of_model = f" of {model_name}" if model_name else ""
    name = f"{model_name}_camera_regions" if model_name else "camera_regions"
    return Aspect(name, f"Regions{of_model} in which objects are looked for", said)


ASPECTS: Mapping[AssetKey, Aspect] = {
    aspect.key: aspect
    for aspect in (
        *(CLOCK, VIDEO, JOINING, ZONES, regions_of()),
        *(regions_of(model.name) for model in current_settings().models),
    )
}


@dataclass(frozen=True)
class Note:
    """What was last noted of a recording's camera that agrees with the settings of this process.

    Attributes:
        version: Of what they say.
        number: Of the event that says so; where nothing is said, of one before all that said something.
        is_newest: False where somebody with newer settings has noted something else since.
    """

    version: str
    number: int
    is_newest: bool


def version_of(said: str) -> str:
    """The data version of what the settings say."""
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest() if said else NOTHING


def version_noted(told: Told | None) -> str:
    """The version that a note holds: one that says nothing has none, as if there were no note."""
    return (told.version if told else None) or NOTHING


def cameras_of(store: Store, recording_ids: Sequence[str] | None = None) -> dict[str, str | None]:
    """The cameras of some recordings, or of all that were probed; None where it is not known."""
    rows = store.read(RECORDINGS, recording_ids, ["recording_id", "camera"]).to_pylist()
    return dict.fromkeys(recording_ids or ()) | {row["recording_id"]: row["camera"] for row in rows}


def note(
    instance: DagsterInstance, keys: Iterable[AssetKey], cameras: Mapping[str, str | None]
) -> dict[AssetKey, dict[str, Note]]:
    """Note what the settings of this process say of some recordings' cameras, where the last note says otherwise.

    What comes of settings that were read later stays: it is what makes stale that is made from older ones.

    Args:
        instance: Dagster's instance.
        keys: What to note; keys of other assets are passed over.
        cameras: Camera by recording.

    Returns:
        By asset and recording, the note to count as read.
    """
    return {key: _note_one(instance, ASPECTS[key], cameras) for key in keys if key in ASPECTS}


def _note_one(instance: DagsterInstance, aspect: Aspect, cameras: Mapping[str, str | None]) -> dict[str, Note]:
    if not (newest := instance.fetch_observations(aspect.key, limit=1).records):
        # Dagster tells what changed after an event that it has read, so there must be one.
        instance.report_runless_asset_event(AssetObservation(aspect.key))
        newest = instance.fetch_observations(aspect.key, limit=1).records
    last = newest[0].storage_id
    by_camera = {camera: aspect.said(current_settings(), camera) for camera in set(cameras.values())}
    said = {recording_id: by_camera[camera] for recording_id, camera in cameras.items()}
    noted = observations(instance, aspect.key, set(said))
    added = set()
    for recording_id, text in said.items():
        before = noted.get(recording_id, [])[:1]
        if any(version_of(text) == version_noted(one) or _is_newer(one) for one in before):
            continue
        if before or text:
            instance.report_runless_asset_event(_observation(aspect, recording_id, text))
            added.add(recording_id)
    if added:
        noted = observations(instance, aspect.key, set(said))
    return {
        recording_id: _note(version_of(text), noted.get(recording_id, []), last) for recording_id, text in said.items()
    }


def _is_newer(told: Told) -> bool:
    """Whether it comes of settings that were read after those of this process, by a clock that was not wrong then."""
    return _READ_AT < float(told.tags.get(_READ_AT_TAG, 0)) < time.time()


def _note(version: str, noted: Sequence[Told], last: int) -> Note:
    agreeing = next((one for one in noted if version_noted(one) == version), None)
    number = agreeing.number if agreeing else noted[-1].number - 1 if noted else last
    return Note(version, number, is_newest=version == version_noted(noted[0] if noted else None))


def _observation(aspect: Aspect, recording_id: str, said: str) -> AssetObservation:
    tags = {_READ_AT_TAG: str(_READ_AT)}
    if said:  # without a version it is to Dagster as if there were no note
        tags |= {DATA_VERSION_TAG: version_of(said), DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
    settings = json.loads(said) if said else {}
    return AssetObservation(aspect.key, partition=recording_id, metadata={"settings": settings}, tags=tags)
