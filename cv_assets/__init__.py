"""WHAT is computed: one file per asset, thin over pure functions; `definitions.py` joins all."""
