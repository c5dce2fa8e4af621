"""Settings by subject, and their loader. Nothing is read at import."""
