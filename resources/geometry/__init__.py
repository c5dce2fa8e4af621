"""Boxes, zones, lines and the ground plane, as pure functions on arrays."""
