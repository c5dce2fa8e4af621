"""Data versions: what a run makes is of the version that its inputs' versions and the stage's own settings give."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster import AssetExecutionContext, AssetKey, AssetMaterialization, AssetRecordsFilter, DagsterInstance
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.execution.context.system import StepExecutionContext

from cv_assets.cameras import Note, note

_MATERIALIZATIONS_A_LOOK = 200


@dataclass(frozen=True)
class _Inputs:
    """What one recording of an asset was made from: data version and event number by upstream asset."""

    versions: Mapping[AssetKey, str]
    pointers: Mapping[AssetKey, int]


@dataclass(frozen=True)
class Versions:
    """Data versions of what a run makes: for each recording a hash of its inputs' versions and the stage's settings.

    The content of a recording never changes under its id, so two recordings made with equal settings have equal
    versions, and a batch nearly always has one.
    """

    code_versions: Mapping[str, str]
    inputs: Mapping[str, Mapping[str, _Inputs]]
    notes: Mapping[AssetKey, Mapping[str, Note]]

    @classmethod
    def of(
        cls, context: AssetExecutionContext, asset_names: Sequence[str], cameras: Mapping[str, str | None]
    ) -> "Versions":
        """See what is there to be made from, and note what the settings say of the recordings' cameras.

        Args:
            context: The step's context.
            asset_names: What is made.
            cameras: The camera of each recording.
        """
        keys = {name: AssetKey(name) for name in asset_names}
        specs = context.assets_def.specs_by_key
        upstream = {name: [dep.asset_key for dep in specs[key].deps] for name, key in keys.items()}
        every = {key for deps in upstream.values() for key in deps}
        notes = note(context.instance, every, cameras)
        latest = {
            key: {recording_id: (one.version, one.number) for recording_id, one in notes[key].items()}
            if key in notes
            else _latest(context.instance, key, list(cameras))
            for key in every
        }
        inputs = {
            name: {
                recording_id: _Inputs(
                    {key: latest[key][recording_id][0] for key in deps},
                    {key: latest[key][recording_id][1] for key in deps},
                )
                for recording_id in cameras
            }
            for name, deps in upstream.items()
        }
        return cls({name: specs[key].code_version or "" for name, key in keys.items()}, inputs, notes)

    def version(self, table_name: str, recording_id: str) -> str:
        """The data version of a recording's rows in a table."""
        parts = [self.code_versions[table_name]]
        parts += [
            f"{k.to_user_string()}={v}" for k, v in sorted(self.inputs[table_name][recording_id].versions.items())
        ]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()

    @property
    def common(self) -> dict[str, str]:
        """By table, the version of the batch's first recording."""
        return {name: self.version(name, next(iter(made))) for name, made in self.inputs.items()}

    def uncommon(self) -> list[str]:
        """Recordings whose version in some table is not the common one, or of which something newer was noted since."""
        common = self.common
        recording_ids = next(iter(self.inputs.values()))
        return [
            r
            for r in recording_ids
            if any(self.version(name, r) != common[name] for name in self.inputs)
            or any(not noted[r].is_newest for noted in self.notes.values())
        ]

    def count_as_read(self, step: StepExecutionContext) -> None:
        """Make Dagster count as read what this stage has noted: it looked when the step began, which was before."""
        cache: Any = step._data_version_cache
        for key, noted in self.notes.items():
            cache.wipe_input_asset_version_info(key)
            read = cache.maybe_fetch_and_get_input_asset_version_info(key)
            newest = max(one.number for one in noted.values())
            cache.input_asset_version_info[key] = dataclasses.replace(read, storage_id=newest)

    def log(self, context: AssetExecutionContext, recording_id: str, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Materialize one recording by an event of its own."""
        for name, code_version in self.code_versions.items():
            made_from = self.inputs[name][recording_id]
            tags = {
                DATA_VERSION_TAG: self.version(name, recording_id),
                DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
                CODE_VERSION_TAG: code_version,
            }
            tags |= {get_input_data_version_tag(key): version for key, version in made_from.versions.items()}
            tags |= {get_input_event_pointer_tag(key): str(number) for key, number in made_from.pointers.items()}
            context.log_event(
                AssetMaterialization(name, partition=recording_id, metadata=dict(metadata[name]), tags=tags)
            )


def _latest(instance: DagsterInstance, key: AssetKey, recording_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """By recording, data version and event number of an asset's newest materialization."""
    latest: dict[str, tuple[str, int]] = {}
    wanted = AssetRecordsFilter(asset_key=key, asset_partitions=list(recording_ids))
    cursor: str | None = None
    while len(latest) < len(recording_ids):
        page = instance.fetch_materializations(wanted, limit=_MATERIALIZATIONS_A_LOOK, cursor=cursor)  # newest first
        for record in page.records:
            made = record.asset_materialization
            if made is not None and made.partition is not None and made.partition not in latest:
                latest[made.partition] = (made.tags or {}).get(DATA_VERSION_TAG, "none"), record.storage_id
        cursor = page.cursor
        if not page.has_more:
            break
    return {recording_id: latest.get(recording_id, ("none", 0)) for recording_id in recording_ids}
