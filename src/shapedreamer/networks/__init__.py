"""The networks: (x_t, t) -> a prediction. They know nothing of diffusion."""
