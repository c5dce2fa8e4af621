"""Dagster's partitions: one per recording, named by its recording_id, in the order in which they were found."""

from dagster import DynamicPartitionsDefinition

recordings_partitions = DynamicPartitionsDefinition(name="recordings")
