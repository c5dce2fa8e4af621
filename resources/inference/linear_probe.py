"""Linear probes: logistic regression on embeddings, trained on a few examples, as a small JSON file."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resources.errors import PipelineError

_PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)  # of the squared weights, per example; cross-validation selects one
_NEWTON_STEPS = 25
_FOLDS = 5
_KEYS = ("name", "embedding_model_id", "weights", "bias")


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of embeddings into a class and its opposite.

    Attributes:
        name: Name of the class; the other one is `not <name>`.
        embedding_model_id: Model of the embeddings on which it was trained.
        weights: Weight of each value of the embedding.
        bias: Added to the weighted sum.
    """

    name: str
    embedding_model_id: str
    weights: tuple[float, ...]
    bias: float

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
        accuracy: Mean of the shares of positive and of negative examples that are classified rightly in
            cross-validation, in which all examples of a group are left out together.
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
    folds = _assign_folds(is_positive, groups)
    accuracies = [_cross_validate(embeddings, is_positive, folds, penalty) for penalty in _PENALTIES]
    best = int(np.argmax(accuracies))
    weights, bias = _fit(embeddings, is_positive, _PENALTIES[best])
    return ProbeTraining(tuple(map(float, weights)), float(bias), accuracies[best])


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


def _cross_validate(embeddings: np.ndarray, is_positive: np.ndarray, folds: np.ndarray, penalty: float) -> float:
    is_right = np.zeros(len(folds), bool)
    for fold in np.unique(folds):
        is_left_out = folds == fold
        if len(np.unique(is_positive[~is_left_out])) < 2:
            continue  # without examples of both kinds, none of this fold counts as right
        weights, bias = _fit(embeddings[~is_left_out], is_positive[~is_left_out], penalty)
        is_right[is_left_out] = (embeddings[is_left_out] @ weights + bias > 0) == is_positive[is_left_out]
    return float(np.mean([is_right[is_positive].mean(), is_right[~is_positive].mean()]))


def _fit(embeddings: np.ndarray, is_positive: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Fit a logistic regression by Newton's method; both kinds of examples have the same total weight."""
    # Embeddings have the length 1: scaled, a value has a variance near 1, whatever their number.
    scale = np.sqrt(embeddings.shape[1])
    inputs = np.concatenate([embeddings * scale, np.ones((len(embeddings), 1))], axis=1).astype(np.float64)
    share = is_positive.mean()
    sample_weights = np.where(is_positive, 0.5 / share, 0.5 / (1 - share)) / len(inputs)
    ridge = np.full(inputs.shape[1], penalty)
    ridge[-1] = 1e-9
    solution = np.zeros(inputs.shape[1])
    for _ in range(_NEWTON_STEPS):
        predicted = _sigmoid(inputs @ solution)
        gradient = inputs.T @ (sample_weights * (predicted - is_positive)) + ridge * solution
        curvature = sample_weights * predicted * (1 - predicted)
        hessian = (inputs * curvature[:, None]).T @ inputs + np.diag(ridge + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        solution -= step
        if np.abs(step).max() < 1e-8:
            break
    return solution[:-1] * scale, float(solution[-1])


def _sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(values, -60, 60)))


def read_probe(file: Path) -> LinearProbe:
    """Read a probe.

    Raises:
        PipelineError: The file does not exist, or is no probe.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        probe = LinearProbe(**{key: values[key] for key in _KEYS})
        return LinearProbe(str(probe.name), str(probe.embedding_model_id), _floats(probe.weights), float(probe.bias))
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
