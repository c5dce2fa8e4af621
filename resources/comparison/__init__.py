"""Comparison of the detections of two models, engines or settings on the same recordings."""
