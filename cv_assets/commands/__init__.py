"""The command line: what people type, and the pipeline without a UI."""
