"""Settings of the search for crops."""

from pathlib import Path

from pydantic import Field

from resources.config.section import Section


class SearchSettings(Section):
    """How crops are searched."""

    embeddings: str | None = Field(
        None,
        description="Name of the crop model whose embeddings are searched; null: the first with the task embed.",
    )
    text_encoder: Path | None = Field(
        None,
        description="Folder of the text encoder that belongs to these embeddings, as of CLIP: text.onnx or text.pt "
        "(TorchScript), vocab.json and merges.txt.",
    )
