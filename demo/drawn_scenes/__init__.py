"""Drawn scenes with exact ground truth, as frames and videos."""
