"""Storage in the data folder: Delta tables, results.duckdb, checkpoints, locks and disk checks."""
