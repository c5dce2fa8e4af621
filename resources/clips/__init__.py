"""Clips cut from normalized videos, with boxes, trails, labels and clocks drawn on their frames."""
