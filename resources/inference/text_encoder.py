"""Text encoders like that of CLIP, from a local folder: a network, and the byte-pair tokens of its texts."""

import functools
import gzip
import html
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from resources.errors import PipelineError, summarize_exception

_NETWORKS = ("text.onnx", "text.xml", "text.pt")
_VOCABULARY, _MERGES = "vocab.json", ("merges.txt", "merges.txt.gz")
_START, _END = "<|startoftext|>", "<|endoftext|>"
_LENGTH = 77  # of CLIP, for networks that accept any number of tokens
_WORDS = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_+")


class TextEncoder:
    """A text encoder.

    Args:
        folder: Its folder, with text.onnx, text.xml or text.pt, vocab.json and merges.txt.

    Raises:
        PipelineError: A file is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        network = next((folder / name for name in _NETWORKS if (folder / name).is_file()), None)
        if network is None:
            raise PipelineError(f"search.text_encoder: the folder {folder} has none of the files {_join(_NETWORKS)}.")
        self._tokens, self._ranks = _read_tokens(folder)
        self._compiled = _compile(network)
        shape = self._compiled.inputs[0].partial_shape
        self._length = shape[1].get_length() if len(shape) == 2 and shape[1].is_static else _LENGTH

    def encode(self, text: str) -> np.ndarray:
        """Compute the embedding of a text: float32 array of shape (n,) and length 1.

        Raises:
            PipelineError: The network does not give one vector for a row of tokens.
        """
        tokens = self.tokenize(text)
        dtype = self._compiled.inputs[0].element_type.to_dtype()
        values = np.full((1, self._length), self._tokens[_END] if len(self._compiled.inputs) > 1 else 0, dtype)
        values[0, : len(tokens)] = tokens
        inputs: dict[int, np.ndarray] = {0: values}
        if len(self._compiled.inputs) > 1:  # the mask of an export by Hugging Face
            mask = np.zeros(values.shape, self._compiled.inputs[1].element_type.to_dtype())
            mask[0, : len(tokens)] = 1
            inputs[1] = mask
        outputs = self._compiled(inputs)
        vectors = [np.asarray(outputs[output], np.float32) for output in self._compiled.outputs]
        vector = next((array.ravel() for array in vectors if array.size == max(array.shape, default=0)), None)
        if vector is None:
            shapes = ", ".join(str(array.shape) for array in vectors)
            raise PipelineError(
                f"search.text_encoder: the network gives {shapes} for one text, but must give one vector: export the "
                "text encoder with its projection."
            )
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))

    def tokenize(self, text: str) -> list[int]:
        """Numbers of the tokens of a text, cut to the length that the network accepts.

        Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", ACL 2016.
        """
        words = _WORDS.findall(re.sub(r"\s+", " ", html.unescape(text)).strip().lower())
        pieces = [piece for word in words for piece in self._split(word)]
        tokens = [self._tokens[piece] for piece in pieces if piece in self._tokens]
        return [self._tokens[_START], *tokens[: self._length - 2], self._tokens[_END]]

    def _split(self, word: str) -> list[str]:
        """Split a word into the pieces that the merges give: the pair of the lowest rank is joined, again and again."""
        letters = [_BYTE_LETTERS[byte] for byte in word.encode()]
        pieces = [*letters[:-1], f"{letters[-1]}</w>"]
        while len(pieces) > 1:
            pairs = list(itertools.pairwise(pieces))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            joined: list[str] = []
            for piece in pieces:
                if joined and (joined[-1], piece) == best:
                    joined[-1] += piece
                else:
                    joined.append(piece)
            pieces = joined
        return pieces


def _letters_of_bytes() -> dict[int, str]:
    """The letter that stands for each byte in the tokens of CLIP: printable ones for themselves, others from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


_BYTE_LETTERS = _letters_of_bytes()


def _read_tokens(folder: Path) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Read the number of each token, and the rank of each merge.

    Raises:
        PipelineError: A file is missing or damaged.
    """
    file = next((folder / name for name in _MERGES if (folder / name).is_file()), None)
    if file is None or not (folder / _VOCABULARY).is_file():
        missing = _VOCABULARY if file is not None else _MERGES[0]
        raise PipelineError(f"search.text_encoder: the folder {folder} has no {missing}: copy it from the encoder.")
    try:
        tokens = {str(piece): int(number) for piece, number in json.loads((folder / _VOCABULARY).read_text()).items()}
        text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text("utf-8")
        lines = [line.split() for line in text.splitlines() if not line.startswith("#version")]
        ranks = {(first, second): rank for rank, (first, second) in enumerate(line for line in lines if line)}
        if not {_START, _END} <= tokens.keys():
            raise ValueError(f"{_START} or {_END} is missing")
    except (OSError, ValueError, AttributeError) as error:
        raise PipelineError(
            f"search.text_encoder: {_VOCABULARY} or {file.name} in {folder} cannot be read "
            f"({summarize_exception(error)}): copy both from the encoder."
        ) from error
    return tokens, ranks


def _compile(network: Path) -> Any:
    """Compile a network for the CPU.

    Raises:
        PipelineError: It cannot be read.
    """
    import openvino

    try:
        if network.suffix == ".pt":
            import torch

            model = torch.jit.load(network, map_location="cpu")
            graph = openvino.convert_model(model, example_input=torch.zeros(1, _LENGTH, dtype=torch.int64))
            graph.reshape([1, _LENGTH])
        else:
            graph = openvino.Core().read_model(network)
        return openvino.Core().compile_model(graph, "CPU")
    except Exception as error:
        # Torch and OpenVINO raise errors of many types; the remedy is always the same.
        summary = summarize_exception(error)
        raise PipelineError(f"search.text_encoder: {network} cannot be read as a network: {summary}.") from error


def _join(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


@functools.lru_cache(maxsize=2)
def load_text_encoder(folder: Path) -> TextEncoder:
    """Load a text encoder; it stays loaded.

    Raises:
        PipelineError: A file is missing or cannot be read.
    """
    return TextEncoder(folder)
