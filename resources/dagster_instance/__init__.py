"""Dagster's instance: run coordinator, storage, event log, tag names, and all uses of Dagster's private parts."""
