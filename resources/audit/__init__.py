"""Audits: a random sample of counts is looked at by a person, and tells how far the counts can be trusted."""
