"""pixel_shuffle as a vae of Diffusers: DiTPipeline decodes with a vae, and a U-Net with patches needs pixel_shuffle."""

from typing import Any

import torch

from ..common.errors import require


def pixel_shuffle_vae(channels: int, patch: int) -> Any:
    """An AutoencoderDC of Diffusers that decodes by pixel_shuffle(z, 2); for patch 1, one that leaves z unchanged.

    Its decoder ends in RMSNorm over the channels, a bias, ReLU and a convolution. An extra channel holds a constant so
    large that it alone decides the norm, and a bias keeps every value above 0, so that ReLU changes nothing. For values
    in [−1, 1] the error is about 1e-6.
    """
    diffusers = require("diffusers", "diffusers")
    latents = channels * patch**2
    layers = (0, 0) if patch == 2 else (1,)
    vae = diffusers.AutoencoderDC(
        in_channels=channels,
        latent_channels=latents,
        encoder_block_out_channels=(latents,) * len(layers),
        encoder_layers_per_block=layers,
        encoder_qkv_multiscales=((),) * len(layers),
        encoder_out_shortcut=False,
        decoder_block_out_channels=(latents + 1,) * len(layers),
        decoder_layers_per_block=layers,
        decoder_qkv_multiscales=((),) * len(layers),
        decoder_in_shortcut=False,
    )
    big, bias, identity = 1e4, 2.0, torch.eye(latents)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()  # so that residual blocks change nothing
        encoder, decoder = vae.encoder, vae.decoder
        encoder_in, decoder_out = encoder.conv_in, decoder.conv_out
        if patch == 2:  # these convolutions come before pixel_unshuffle and after the norm, in front of pixel_shuffle
            encoder_in, decoder_out = encoder_in.conv, decoder_out.conv
        encoder_in.weight[:, :, 1, 1] = torch.eye(channels)
        encoder.conv_out.weight[:, :, 1, 1] = identity
        decoder.conv_in.weight[:latents, :, 1, 1] = identity
        decoder.conv_in.bias[latents] = big
        decoder.norm_out.weight.fill_(big / (latents + 1) ** 0.5)
        decoder.norm_out.bias.fill_(bias)
        decoder_out.weight[:, :latents, 1, 1] = identity
        decoder_out.bias.fill_(-bias)
    return vae
