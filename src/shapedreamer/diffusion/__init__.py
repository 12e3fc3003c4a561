"""The mathematics of diffusion, in the order to read it:

    schedule   ᾱ_t, how much signal is left at timestep t
    process    the forward process, its posterior, and ε ↔ x₀ ↔ v
    denoiser   a network as a function (x_t, t) -> x̂₀; guidance and clipping wrap it
    loss       the training objective
    samplers   DDPM, DDIM, Heun, DPM-Solver++(2M)
    oracle     denoisers that are known exactly, without a network
    masked     another process for black-and-white images: it hides pixels instead of adding noise

It imports only `common`.
"""
