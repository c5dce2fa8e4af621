import pytest
from deltalake import write_deltalake

from resources.environment import prepare_data_folder
from resources.errors import PipelineError
from resources.schema.summary_tables import CLASS_MINUTES
from resources.storage.delta_store import Store
from tests.builders.class_minutes import class_minutes


def test_a_data_folder_of_another_version_is_an_error(store: Store) -> None:
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 1))
    assert store.outdated_tables() == []
    prepare_data_folder(store.data_folder)
    folder = store.tables_folder / CLASS_MINUTES.name
    write_deltalake(
        str(folder), class_minutes("a", 1).drop_columns(["class_name"]), mode="overwrite", schema_mode="overwrite"
    )
    with pytest.raises(PipelineError, match=r"written by another version.*\(class_minutes\)"):
        prepare_data_folder(store.data_folder)
