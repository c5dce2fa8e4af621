"""Linear probes: what they learn from few examples, what they read, and their files."""

import json
from pathlib import Path

import numpy as np
import pytest

from cv_assets.crop_classes import probe_rows
from resources.errors import PipelineError
from resources.inference.linear_probe import FEATURES, LinearProbe, read_probe, train_probe

TRACKS, CROPS = 40, 3


def examples(seed: int, count: int = TRACKS) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Embeddings of which one value that varies little tells the kinds apart, and another varies most."""
    random = np.random.default_rng(seed)
    is_positive = np.repeat(np.arange(count) % 2 == 0, CROPS)
    values = random.normal(size=(count * CROPS, 60)) * np.geomspace(1, 0.001, 60)
    values[:, 45] += np.where(is_positive, 0.015, -0.015)
    return values, is_positive, np.repeat(np.arange(count), CROPS).tolist()


def test_a_value_that_varies_little_is_learned_from_few_examples() -> None:
    training = train_probe(*examples(0))
    assert training.accuracy >= 0.9
    values, is_positive, groups = examples(1, 200)
    is_right = (values @ np.array(training.weights) + training.bias > 0) == is_positive
    votes = is_right.reshape(-1, CROPS).sum(axis=1) >= 2
    assert votes.mean() >= 0.95
    assert groups[:4] == [0, 0, 0, 1]


def test_examples_that_differ_by_chance_are_recognised_by_chance() -> None:
    random = np.random.default_rng(0)
    _, is_positive, groups = examples(0)
    assert train_probe(random.normal(size=(TRACKS * CROPS, 50)), is_positive, groups).accuracy < 0.75


def test_a_probe_reads_features_or_the_embedding(tmp_path: Path) -> None:
    file = tmp_path / "hat.probe.json"
    LinearProbe("hat", "m", (1.0, -1.0), 0.0, FEATURES).write(file)
    probe = read_probe(file)
    row = {"recording_id": "a", "track_id": 1, "model_id": "m", "error": None, "embedding": [0.0, 1.0, 0.0]}
    features = np.array([2, 1], np.float16).tobytes()
    rows = probe_rows([row | {"rank": 1, "features": features}, row | {"rank": 2, "features": None}], probe, 1, "p")
    assert [row["class_name"] for row in rows] == ["hat", None]
    assert rows[1]["error"] == "The embedding has no features, which the probe reads: recompute the embeddings."

    values = json.loads(file.read_text())
    del values["reads"]
    file.write_text(json.dumps(values | {"weights": [0, -1, 0]}))
    (older,) = probe_rows([row | {"rank": 1, "features": None}], read_probe(file), 1, "p")
    assert older["class_name"] == "not hat"
    file.write_text(json.dumps(values | {"reads": "pixels"}))
    with pytest.raises(PipelineError, match=r"is no probe \(ValueError\)"):
        read_probe(file)
