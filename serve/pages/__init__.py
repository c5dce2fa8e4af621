"""The pages that people open: library, recording, camera, queue and search."""
