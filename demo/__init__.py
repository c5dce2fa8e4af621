"""The demo: drawn scenes with ground truth, and the training of the bundled detector."""
