"""Neural networks that map a noisy image and its timestep, (x_t, t), to a prediction. In the order to read them:

    unet           the U-Net of DDPM, the default network; start here
    layers         its building blocks: time embedding, residual block, attention, down- and upsampling
    context_unet   a smaller U-Net whose features are scaled and shifted by the label (FiLM)
    dit            a small diffusion transformer: patches of the image that attend to each other
    critic         the encoder of a network as a critic, for training few-step models
    kernels        faster implementations of attention, group normalisation and upsampling
    threads        a network on several CPU threads, each with its own share of the images
    tuning         a self-test that finds the fastest settings of the kernels on this machine

The networks do not depend on the diffusion process. It decides what x_t is and what the prediction means: ε, x₀ or v.
"""
