"""Tracking and track linking, from boxes and times alone: no pixels, no model."""
