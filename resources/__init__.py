"""WITH WHAT: settings, storage, media, inference and the run queue. Imports nothing of the other wings."""
