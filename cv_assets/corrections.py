"""corrections: what people have corrected, as an observable source asset with one partition per recording.

The rows are in the table of the same name. Each added row changes the data version of its recording, so that
`corrected_tracks` and what depends on it become stale, and nothing before them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from dagster import AssetKey

from resources.corrections.correction_log import corrections_versions
from resources.schema.correction_tables import CORRECTIONS
from resources.storage.delta_store import Store


@dataclass(frozen=True)
class RecordingAspect:
    """Stored rows that people add, as an input of stages.

    Attributes:
        name: Name of the asset.
        description: What the rows decide.
        versions: Reads a text for each of some recordings that changes with the rows; empty without rows.
        change: What has happened if the text is another one.
    """

    name: str
    description: str
    versions: Callable[[Store, Iterable[str]], Mapping[str, str]]
    change: str

    @property
    def key(self) -> AssetKey:
        """The asset's key."""
        return AssetKey(self.name)


CORRECTIONS_ASSET = RecordingAspect(
    CORRECTIONS.name, "Corrections by people", corrections_versions, "corrections were added"
)
