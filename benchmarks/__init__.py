"""Speed and agreement, measured as ratios against the alternative in the same run."""
