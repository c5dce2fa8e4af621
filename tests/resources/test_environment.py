from pathlib import Path

import pytest

from resources.config.settings import Settings
from resources.environment import prepare_data_folder
from resources.errors import PipelineError
from resources.schema.summary_tables import CLASS_MINUTES
from resources.storage.delta_store import Store
from tests.builders.class_minutes import class_minutes


def test_a_data_folder_of_another_format_is_an_error(store: Store) -> None:
    prepare_data_folder(Settings(data_folder=store.data_folder))
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 1))
    prepare_data_folder(Settings(data_folder=store.data_folder))
    (store.tables_folder / "format_version").write_text("0")
    with pytest.raises(PipelineError, match="written by an older version"):
        prepare_data_folder(Settings(data_folder=store.data_folder))


def test_dagsters_home_is_created_and_may_be_prepared_again(tmp_path: Path) -> None:
    for _ in range(2):
        prepare_data_folder(Settings(data_folder=tmp_path / "data"))
        assert (tmp_path / "data" / "dagster" / "dagster.yaml").exists()
