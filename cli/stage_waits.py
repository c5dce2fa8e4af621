"""Waits of the pipeline while a folder is processed, read from Dagster's storage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dagster import DagsterInstance

from cv_assets.waits import NOTHING, WAITED, WAITING_FOR

DAEMON_START = ("", "The pipeline")
"""The key of the wait for the daemon, which has no recording."""


@dataclass(frozen=True)
class Wait:
    """A wait of a stage, or of the whole pipeline.

    Attributes:
        text: What is waited for.
        since_s: Its start, in seconds since 1970.
        run_id: The run that waits; empty if none does.
    """

    text: str
    since_s: float
    run_id: str = ""


def read_wait(metadata: Mapping[str, Any], timestamp: float, run_id: str) -> Wait | None:
    """Read a wait from the metadata of an observation; None if it reports no wait, or the end of one.

    Args:
        metadata: The values by key.
        timestamp: Time of the observation, in seconds since 1970.
        run_id: The run that logged it.
    """
    if not metadata.keys() >= {WAITING_FOR, WAITED} or metadata[WAITING_FOR] == NOTHING:
        return None
    return Wait(str(metadata[WAITING_FOR]), timestamp - float(metadata[WAITED]), run_id)


def has_ticked(instance: DagsterInstance, since_s: float) -> bool:
    """Whether the daemon has evaluated a sensor since a time."""
    return any(
        tick.timestamp > since_s
        for state in instance.all_instigator_state()
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
    )
