"""Dagster's instance: run coordinator, storage, event log, and the imports of Dagster's private modules for them."""
