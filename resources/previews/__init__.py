"""Previews for the UI: annotated frames, contact sheets, timeline charts."""
