"""Load, predict, correct, export, train: segmentation masks that keep their place."""
