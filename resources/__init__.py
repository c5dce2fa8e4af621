"""WITH WHAT: settings, storage, media, inference and the Dagster instance. Imports nothing from the other packages."""

import os

# OpenCV reads this when it is imported. Codecs and networks use the cores; OpenCV's threads, which busy-wait for a
# while after each image, cost several times what they gain.
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
