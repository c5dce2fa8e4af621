"""Dagster partitions: one per recording, named after its recording_id, in the order of registration."""

from dagster import DynamicPartitionsDefinition

recordings_partitions = DynamicPartitionsDefinition(name="recordings")
