"""WHEN: the sensors that notice recordings and request what is missing."""
