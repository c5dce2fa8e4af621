"""Settings of what people hand on: evidence packs."""

from pathlib import Path

from pydantic import Field

from resources.config.section import Section


class PackSettings(Section):
    """Evidence packs (`cv-assets pack`)."""

    signing_key: Path | None = Field(
        None, description="File of an Ed25519 private key (PEM), which signs packs; null: packs are not signed."
    )
