"""Files of other tools with boxes, tracks, masks and keypoints of stored recordings."""
