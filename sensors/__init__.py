"""WHEN work happens: the sensors, the run planner and what they read."""
