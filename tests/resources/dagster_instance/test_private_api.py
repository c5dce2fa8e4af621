"""The private parts of Dagster that the wings use: a new Dagster that changes one fails here, in a sentence."""

import dagster
from dagster import AssetExecutionContext, AssetKey, DagsterInstance, StaticPartitionsDefinition, asset, materialize

from resources.dagster_instance.private_api import add_asset_metadata

HINT = f"Dagster {dagster.__version__} has changed `step._metadata_accumulator`: correct add_asset_metadata."


def test_metadata_is_added_to_the_materialization_of_each_partition() -> None:
    @asset(partitions_def=StaticPartitionsDefinition(["a", "b"]))
    def counts(context: AssetExecutionContext) -> None:
        step = context.get_step_execution_context()
        assert hasattr(step, "_metadata_accumulator"), HINT
        add_asset_metadata(step, "counts", {"a": {"rows": 3}})
        add_asset_metadata(step, "counts", {"a": {"seconds": 0.5}})

    with DagsterInstance.ephemeral() as instance:
        materialize([counts], instance=instance, partition_key="a")
        event = instance.get_latest_materialization_event(AssetKey("counts"))
        assert event is not None and event.asset_materialization is not None
        metadata = event.asset_materialization.metadata
    assert {name: value.value for name, value in metadata.items()} == {"rows": 3, "seconds": 0.5}, HINT
