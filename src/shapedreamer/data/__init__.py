"""Data sets: (seed, index) or a file -> images (B, C, H, W) in [−1, 1] and labels. A DataSpec describes any."""
