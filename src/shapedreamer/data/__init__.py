"""Data sets, drawn or read from files: images (B, C, H, W) in [−1, 1], labels, and a DataSpec that describes them."""
