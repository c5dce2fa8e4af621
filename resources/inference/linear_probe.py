"""Linear probes: logistic regression on embeddings, trained on a few examples, as a small JSON file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resources.errors import PipelineError

_PENALTIES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # of the squared weights; cross-validation selects one
_MIN_DEVIATION = 1e-3  # of the largest one; what varies less is constant
_NEWTON_STEPS = 25
_FOLDS = 5
EMBEDDING, FEATURES = "embedding", "features"
"""Columns of `crop_embeddings` that a probe can read."""
_KEYS = ("name", "embedding_model_id", "weights", "bias")


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of embeddings into a class and its opposite.

    Attributes:
        name: Name of the class; the other one is `not <name>`.
        embedding_model_id: Model of the embeddings on which it was trained.
        weights: Weight of each value of the embedding.
        bias: Added to the weighted sum.
        reads: The column of `crop_embeddings` that has the values: embedding or features.
    """

    name: str
    embedding_model_id: str
    weights: tuple[float, ...]
    bias: float
    reads: str = EMBEDDING

    def read_values(self, row: Mapping[str, Any]) -> np.ndarray | None:
        """Read from a row of `crop_embeddings` the values that are classified; None if it has none."""
        if row[self.reads] is None:
            return None
        return read_features(row[FEATURES]) if self.reads == FEATURES else np.array(row[EMBEDDING], np.float32)

    def classify(self, embedding: np.ndarray) -> list[tuple[str, float]]:
        """Class names and confidences of one embedding, most likely first.

        Raises:
            ValueError: The embedding has another number of values.
        """
        share = float(_sigmoid(embedding @ np.array(self.weights) + self.bias))
        return sorted([(self.name, share), (f"not {self.name}", 1 - share)], key=lambda pair: -pair[1])

    def write(self, file: Path) -> None:
        """Write the probe as JSON."""
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True)
class ProbeTraining:
    """A trained probe and its quality.

    Attributes:
        weights: Weight of each value of the embedding.
        bias: Added to the weighted sum.
        accuracy: Mean of the shares of positive and of negative groups for which most of their examples are classified
            rightly in cross-validation, in which all examples of a group are left out together.
    """

    weights: tuple[float, ...]
    bias: float
    accuracy: float


def train_probe(embeddings: np.ndarray, is_positive: np.ndarray, groups: Sequence[Any]) -> ProbeTraining:
    """Train a probe; cross-validation selects the penalty of large weights.

    Args:
        embeddings: Shape (n, values).
        is_positive: Shape (n,).
        groups: The track of each example, or anything else whose examples resemble each other too much to test a
            probe that was trained on the others.
    """
    # A value of the embedding that varies little may be what distinguishes the examples, so all get the same scale.
    mean, deviation = embeddings.mean(axis=0), embeddings.std(axis=0)
    scale = deviation.clip(_MIN_DEVIATION * float(deviation.max(initial=1e-12))) * np.sqrt(embeddings.shape[1])
    inputs = ((embeddings - mean) / scale).astype(np.float64)
    folds = _assign_folds(is_positive, groups)
    margins = [_cross_validate(inputs, is_positive, folds, penalty) for penalty in _PENALTIES]
    # The loss, not the share of right answers, which is the same for several penalties with so few examples.
    best = int(np.argmin([np.logaddexp(0, -margin).mean() for margin in margins]))
    weights, bias = _fit(inputs, is_positive, _PENALTIES[best])
    weights = weights / scale
    accuracy = _vote_accuracy(margins[best] > 0, is_positive, groups)
    return ProbeTraining(tuple(map(float, weights)), float(bias - mean @ weights), accuracy)


def _vote_accuracy(is_right: np.ndarray, is_positive: np.ndarray, groups: Sequence[Any]) -> float:
    """Mean of the shares of positive and negative groups of whose examples more than half are right."""
    votes: dict[Any, list[bool]] = {}
    kinds: dict[Any, bool] = {}
    for group, right, positive in zip(groups, is_right, is_positive, strict=True):
        votes.setdefault(group, []).append(bool(right))
        kinds[group] = bool(positive)
    shares = [
        np.mean([np.mean(votes[group]) > 0.5 for group in votes if kinds[group] == kind]) for kind in (True, False)
    ]
    return float(np.mean(shares))


def _assign_folds(is_positive: np.ndarray, groups: Sequence[Any]) -> np.ndarray:
    """Assign examples to folds, those of a group to the same one, and spread both kinds over the folds."""
    folds, numbers = np.zeros(len(groups), int), dict[Any, int]()
    next_fold = {True: 0, False: 0}
    for index, group in enumerate(groups):
        if group not in numbers:
            kind = bool(is_positive[index])
            numbers[group] = next_fold[kind] % _FOLDS
            next_fold[kind] += 1
        folds[index] = numbers[group]
    return folds


def _cross_validate(inputs: np.ndarray, is_positive: np.ndarray, folds: np.ndarray, penalty: float) -> np.ndarray:
    """How clearly each example is classified by a probe that was trained without its fold; negative if wrongly."""
    margins = np.full(len(folds), -1.0)
    for fold in np.unique(folds):
        is_left_out = folds == fold
        if len(np.unique(is_positive[~is_left_out])) < 2:
            continue  # without examples of both kinds, none of this fold counts as right
        weights, bias = _fit(inputs[~is_left_out], is_positive[~is_left_out], penalty)
        score = inputs[is_left_out] @ weights + bias
        margins[is_left_out] = np.where(is_positive[is_left_out], score, -score)
    return margins


def _fit(inputs: np.ndarray, is_positive: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Fit a logistic regression by Newton's method; both kinds of examples have the same total weight.

    The weights are a sum of the examples, so only as many unknowns are solved for as there are examples.
    """
    extended = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    products = extended @ extended.T
    share = is_positive.mean()
    sample_weights = np.where(is_positive, 0.5 / share, 0.5 / (1 - share)) / len(inputs)
    solution = np.zeros(len(inputs))
    for _ in range(_NEWTON_STEPS):
        predicted = _sigmoid(products @ solution)
        gradient = sample_weights * (predicted - is_positive) + penalty * solution
        curvature = sample_weights * predicted * (1 - predicted)
        step = np.linalg.solve(curvature[:, None] * products + penalty * np.eye(len(inputs)), gradient)
        solution -= step
        if np.abs(step).max() < 1e-9:
            break
    weights = extended.T @ solution
    return weights[:-1], float(weights[-1])


def _sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(values, -60, 60)))


def read_features(features: bytes) -> np.ndarray:
    """Read the column `features` of `crop_embeddings`, float32 of shape (n,)."""
    return np.frombuffer(features, np.float16).astype(np.float32)


def read_probe(file: Path) -> LinearProbe:
    """Read a probe.

    Raises:
        PipelineError: The file does not exist, or is no probe.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        probe = LinearProbe(**{key: values[key] for key in _KEYS})
        reads = str(values.get("reads", EMBEDDING))  # an older version read embeddings
        if reads not in (EMBEDDING, FEATURES):
            raise ValueError(reads)
        weights, bias = _floats(probe.weights), float(probe.bias)
        return LinearProbe(str(probe.name), str(probe.embedding_model_id), weights, bias, reads)
    except FileNotFoundError:
        raise PipelineError(f"The probe {file} does not exist: write it with cv-assets teach.") from None
    except OSError as error:
        raise PipelineError(f"The probe {file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise PipelineError(
            f"The file {file} is no probe ({type(error).__name__}): write it again with cv-assets teach."
        ) from error


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def probe_id(file: Path) -> str:
    """Readable name and content hash of a probe.

    Raises:
        PipelineError: The file does not exist, or is no probe.
    """
    read_probe(file)
    return f"{file.name.split('.')[0]}-{hashlib.blake2b(file.read_bytes(), digest_size=4).hexdigest()}"
