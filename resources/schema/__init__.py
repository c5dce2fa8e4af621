"""Declarations of all tables: type, unit, meaning and allowed values of every column, declared once."""
