"""Corrections by people: how they are stored, found again in the tracks of today, and applied."""
