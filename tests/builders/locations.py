"""Locations of the recordings and weights that tests read."""

import os
from pathlib import Path

from resources.config.settings_file import PROJECT_ROOT

CORPUS = Path(os.environ.get("CV_ASSETS_CORPUS", PROJECT_ROOT.parent / "shared" / "corpus"))
"""Real recordings, ground truth and weights; the fixture `corpus` skips a test where the folder does not exist."""
BUNDLED_WEIGHTS = PROJECT_ROOT / "demo" / "model" / "street.pt"
"""The small model that is part of the repository."""
