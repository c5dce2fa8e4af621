"""Dagster's instance: run coordinator, storage, event log, tag names, and all imports of Dagster's private modules."""
