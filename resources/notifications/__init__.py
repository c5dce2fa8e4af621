"""Notification messages and their delivery by webhook and e-mail."""
