"""Drawn scenes with exact truth and the training of the bundled detector."""
