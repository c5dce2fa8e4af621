from pathlib import Path

import pytest
from dagster import DagsterInstance, SkipReason, build_sensor_context

from cv_assets.definitions import defs
from resources.settings import NotificationSettings
from sensors.outcomes import outcomes_sensor
from tests.cv_assets.test_outcomes import House
from tests.receivers import HOST, hook


def look(house: House) -> str | None:
    context = build_sensor_context(house.instance, resources={"store": house.store, "settings": house.settings})
    said = outcomes_sensor(context)
    assert isinstance(said, SkipReason)
    return said.skip_message


def test_without_a_channel_nothing_is_looked_at(tmp_path: Path) -> None:
    with DagsterInstance.ephemeral() as instance:
        house = House(tmp_path, instance)
        assert look(house) == "No channel is named in the settings, at notifications."
        assert not house.store.tables_folder.exists()
    shown = defs.resolve_sensor_def("outcomes")
    assert (NotificationSettings().channels, shown.default_status.value) == ((), "STOPPED")


def test_it_looks_again_where_something_happened_or_waits_to_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", HOST)
    with hook() as web, DagsterInstance.ephemeral() as instance:
        house = House(tmp_path, instance, webhooks=[{"name": "ops", "url": web.url}])
        assert look(house) == look(house) == "Nothing new to tell."
        house.arrive("bad", status="rejected", error="It is no video.")
        web.answers = [500]
        monkeypatch.setattr("cv_assets.outcomes._FIRST_RETRY_S", 0.0)
        assert str(look(house)).startswith("ops: missed")
        assert look(house) == "ops: sent"
        assert look(house) == look(house) == "Nothing new to tell."
        assert len(web.posted) == 2
