"""Zones, lines and the ground plane, as pure functions on arrays."""
