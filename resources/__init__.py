"""WITH WHAT: settings, storage, media, inference and the run queue. Imports nothing of the other wings."""

import os

# Read by OpenCV when it is loaded. Codecs and networks use the cores, and OpenCV's threads, which keep looking for work
# for a while after each picture, cost several times what they give.
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
