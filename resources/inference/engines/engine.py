"""The interface of an engine, which runs a network on letterboxed images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from resources.media.frame_reader import Image

Outputs = tuple[np.ndarray, ...]
"""The raw outputs of a network for one image."""
ReadSampleImages = Callable[[], Sequence[np.ndarray]]
"""Reads sample images of the user's recordings, uint8 of shape (height_px, width_px, 3)."""


class Engine(Protocol):
    """Runs a network on letterboxed images, several in flight, and returns the outputs in order.

    Attributes:
        name: Library, precision and input size.
        precision: f32, bf16, int8 or f16.
        batch: Number of images that are computed together, and whose outputs are yielded together.
    """

    name: str
    precision: str
    batch: int

    @property
    def in_flight(self) -> int:
        """Number of images that are consumed before the first output is yielded."""

    def infer(self, images: Iterable[Image]) -> Iterator[Outputs]:
        """Run the network on images.

        Args:
            images: uint8 BGR arrays of shape (input_height_px, input_width_px, 3); torch and TensorRT engines also
                accept tensors in their device's memory.

        Yields:
            The raw outputs of one image: float32 arrays without the batch axis, valid only until the next outputs are
            requested.
        """
        ...
