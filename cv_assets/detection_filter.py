"""The filter of stored boxes: which of them count by the settings in force, and under which class names.

`detections` has every box that the model found. Every stage that reads it, and every picture of it, uses this filter,
so that a raised confidence, a class left out or a new name reruns no model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from resources.config.detection_config import STORED_FROM_CONFIDENCE, DetectionSettings
from resources.config.settings import Settings, settings_version
from resources.config.stage_version import StageVersion


@dataclass(frozen=True)
class DetectionFilter:
    """A selection among the stored boxes of a model.

    Attributes:
        min_confidence: Boxes count only above this confidence.
        class_names: The classes whose boxes count, by the model's names; None means all.
        new_names: Names of classes in the results, by the model's names; the others keep theirs.
    """

    min_confidence: float = 0.0
    class_names: tuple[str, ...] | None = None
    new_names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_model(cls, settings: DetectionSettings) -> "DetectionFilter":
        """Build the filter of one model, without new names; it keeps all boxes of a model that stores selected ones."""
        if settings.inference_settings is settings:
            return cls()
        return cls(settings.min_confidence, settings.class_names)

    @classmethod
    def of_detector(cls, settings: Settings) -> "DetectionFilter":
        """Build the filter through which the stages after `detections` read it."""
        selection = cls.of_model(settings.detections)
        return cls(selection.min_confidence, selection.class_names, settings.rename_classes)

    def stage_version(self, logic: str, sections: Mapping[str, BaseModel] = MappingProxyType({})) -> StageVersion:
        """Build the version of a stage that reads the boxes through the filter.

        The filter adds nothing to the hash if it keeps all boxes and names.

        Args:
            logic: Name and version of the stage's logic.
            sections: Further sections of the settings that decide the results, by name.
        """
        parts = []
        if self.min_confidence > STORED_FROM_CONFIDENCE or self.class_names is not None or self.new_names:
            class_names = ["*"] if self.class_names is None else sorted(self.class_names)
            new_names = [f"{name}={new_name}" for name, new_name in sorted(self.new_names.items())]
            parts = [settings_version(str(self.min_confidence), *class_names, "renamed", *new_names)]
        values = {
            "detections.min_confidence": max(self.min_confidence, STORED_FROM_CONFIDENCE),
            "detections.class_names": None if self.class_names is None else sorted(self.class_names),
            "rename_classes": self.new_names,
        }
        return StageVersion.build(logic, sections, *parts, explanation=values)

    def is_kept(self, class_names: pa.Array | pa.ChunkedArray, confidence: np.ndarray) -> np.ndarray:
        """Test boxes.

        Args:
            class_names: The model's names of their classes, n strings.
            confidence: Shape (n,).

        Returns:
            Boolean array of shape (n,).
        """
        # As single-precision numbers, which the network gives and compares with its threshold.
        is_kept = np.asarray(confidence, np.float32) > np.float32(self.min_confidence)
        if self.class_names is not None:
            is_selected = pc.is_in(class_names, pa.array(self.class_names, pa.string()))
            is_kept &= is_selected.to_numpy(zero_copy_only=False)
        return is_kept

    def select(self, detections: pa.Table) -> pa.Table:
        """Select the rows of `detections` that count; their columns include class_name and confidence."""
        is_kept = self.is_kept(detections["class_name"], detections["confidence"].to_numpy())
        return detections if is_kept.all() else detections.filter(pa.array(is_kept))

    def class_ids(self, detections: pa.Table) -> dict[str, int]:
        """By new name, the lowest class_id of the classes in some rows of `detections` that get this name."""
        rows = detections.group_by("class_name").aggregate([("class_id", "min")])
        class_ids: dict[str, int] = {}
        for name, class_id in zip(rows["class_name"].to_pylist(), rows["class_id_min"].to_pylist(), strict=True):
            new_name = self.new_names.get(name, name)
            class_ids[new_name] = min(class_id, class_ids.get(new_name, class_id))
        return class_ids

    def apply(self, detections: pa.Table, class_ids: Mapping[str, int] | None = None) -> pa.Table:
        """Select the rows of `detections` that count, and rename their classes.

        Args:
            detections: Rows of one recording with class_id, class_name and confidence.
            class_ids: The class_id of each new name; None gives it the lowest one in these rows.

        Returns:
            The selected rows in the same order. Classes that have one name have one class_id, the lowest of theirs.
        """
        selected = self.select(detections)
        if not self.new_names or not selected.num_rows:
            return selected
        class_ids = self.class_ids(selected) if class_ids is None else class_ids
        encoded = selected["class_name"].combine_chunks().dictionary_encode()
        new_names = [self.new_names.get(name, name) for name in encoded.dictionary.to_pylist()]
        for column, values in (
            ("class_name", pa.array(new_names, pa.string())),
            ("class_id", pa.array([class_ids[name] for name in new_names], pa.int32())),
        ):
            position = selected.column_names.index(column)
            selected = selected.set_column(position, selected.schema.field(position), values.take(encoded.indices))
        return selected
