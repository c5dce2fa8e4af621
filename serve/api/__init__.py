"""The API for other programs: the handlers of each subject under /api/."""
