"""ShapeDreamer: learn image diffusion by building it."""
