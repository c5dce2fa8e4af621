"""<name>_crop_embeddings: the embedding of each crop, by which crops are compared and searched."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cv_assets.crop_reading import CROP_KEY, answer_crops, cut_box
from cv_assets.crop_selection import Crop
from resources.inference.detector import Detector, Embedding
from resources.media.progress import ReportProgress


def embedding_rows(
    crops: Sequence[Mapping[str, Any]], detector: Detector, padding: float, progress: ReportProgress
) -> list[dict[str, Any]]:
    """Compute the embeddings of crops, without their margins; one without an answer gets the reason.

    Args:
        crops: Rows of `crops`.
        detector: The network.
        padding: Margin with which the crops were cut.
        progress: Takes the number of crops.

    Returns:
        Rows of `crop_embeddings`.
    """

    def embed(batch: Iterable[Crop]) -> Iterator[Embedding]:
        for embedding in detector.embed(cut_box(crop, padding) for crop in batch):
            if not np.isfinite(embedding.vector).all():
                raise ValueError("the embedding has values that are no finite numbers")
            yield embedding

    model = {"model_id": detector.model_id, "engine_name": detector.engine_name}
    return [
        {**{name: crop[name] for name in CROP_KEY}, **_columns(embedding), "error": error, **model}
        for crop, embedding, error in answer_crops(crops, embed, progress)
    ]


def _columns(embedding: Embedding | None) -> dict[str, Any]:
    features = None if embedding is None or embedding.features is None else embedding.features.tobytes()
    return {"embedding": None if embedding is None else embedding.vector, "features": features}
