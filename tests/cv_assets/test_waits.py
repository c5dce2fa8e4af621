"""Waits of a stage: what the observations say, on a real Dagster instance."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from dagster import AssetExecutionContext, AssetKey, DagsterInstance, asset, materialize

from cv_assets import waits
from cv_assets.waits import NOTHING, WAITED, WAITING_FOR, report_wait


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are reported after 0.2 s and every 0.5 s."""
    monkeypatch.setattr(waits, "_FIRST_REPORT_S", 0.2)
    monkeypatch.setattr(waits, "_REPORT_INTERVAL_S", 0.5)
    monkeypatch.setattr(waits, "_CHECK_INTERVAL_S", 0.05)


def observe(block: Callable[[], None], describe: Callable[[], str]) -> tuple[bool, list[dict[str, Any]]]:
    """Run a block as a wait inside an asset; returns whether its run succeeded, and the metadata of observations."""

    @asset(name="detections")
    def detections(context: AssetExecutionContext) -> None:
        with report_wait(context, "detections", "gate-1", describe):
            block()

    with DagsterInstance.ephemeral() as instance:
        is_success = materialize([detections], instance=instance, raise_on_error=False).success
        records = instance.fetch_observations(AssetKey("detections"), limit=50, ascending=True).records
    events = [record.asset_observation for record in records]
    assert {event.partition for event in events if event} <= {"gate-1"}
    return is_success, [{name: value.value for name, value in event.metadata.items()} for event in events if event]


def test_a_short_wait_is_not_reported() -> None:
    assert observe(lambda: time.sleep(0.1), lambda: pytest.fail("a short wait needs no description")) == (True, [])


def test_a_long_wait_is_reported_again_and_again_and_at_its_end() -> None:
    is_success, reports = observe(lambda: time.sleep(1.5), lambda: "cpu, which is held by process 7")
    assert is_success
    texts = [report[WAITING_FOR] for report in reports]
    assert texts[-1] == NOTHING and set(texts[:-1]) == {"cpu, which is held by process 7"}
    assert 2 <= len(texts[:-1]) <= 3  # at 0.2, 0.7 and 1.2 s
    seconds = [report[WAITED] for report in reports]
    assert seconds == sorted(seconds) and seconds[0] >= 0.2 and seconds[-1] >= 1.5


def test_a_new_reason_is_reported_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    started_s = time.monotonic()

    def describe() -> str:
        return "the weights to be read" if time.monotonic() - started_s < 0.4 else "the network to be compiled"

    _, reports = observe(lambda: time.sleep(0.6), describe)
    texts = [report[WAITING_FOR] for report in reports]
    assert texts in (
        ["the weights to be read", "the network to be compiled", NOTHING],
        ["the network to be compiled", NOTHING],  # on a slow machine
    )
    assert "gate-1: detections waits for the network to be compiled." in capfd.readouterr().err


def test_an_error_ends_the_wait_and_stays_the_error_of_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        time.sleep(0.4)
        raise ValueError("The weights are damaged.")

    is_success, reports = observe(fail, lambda: "the weights to be read")
    assert not is_success and reports[-1][WAITING_FOR] == NOTHING
    assert "The weights are damaged." in capfd.readouterr().err
