"""A UNet2DModel with a head at full resolution, for Diffusers. An export contains this file beside its weights.

UNet2DModel has no patches and no head. Here it computes at 1/patch of the resolution, and the head refines its output.
"""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu


class PixelHead(nn.Module):
    """Add what the coarse prediction missed: noisy images and their prediction (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, width: int, time_dim: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.time = nn.Linear(time_dim, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, prediction: Tensor, time: Tensor) -> Tensor:
        h = self.conv_in(torch.cat([x, prediction], dim=1)) + self.time(silu(time))[:, :, None, None]
        return prediction + self.conv_out(silu(self.conv(silu(h))))


class PixelHeadUNet(ModelMixin, ConfigMixin):
    """Called like a UNet2DModel, with images at full resolution for any patch.

    sample_size:      height and width, or one number if they are equal
    in_channels, out_channels:
                      channels of the images, twice the same number
    num_class_embeds: number of classes; None without classes
    patch:            the UNet2DModel gets images whose squares of patch x patch pixels are folded into channels
    head_channels:    channels inside the head
    unet_config:      the arguments of the UNet2DModel
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | list[int],
        in_channels: int,
        out_channels: int,
        num_class_embeds: int | None,
        patch: int,
        head_channels: int,
        unet_config: dict[str, Any],
    ) -> None:
        super().__init__()
        self.unet = UNet2DModel(**unet_config)
        self.head = PixelHead(in_channels, head_channels, self.unet.time_embedding.linear_2.out_features)

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        t, patch = torch.as_tensor(timestep, device=sample.device).expand(len(sample)), self.config.patch
        coarse = self.unet(pixel_unshuffle(sample, patch), t, class_labels).sample
        output = self.head(sample, pixel_shuffle(coarse, patch), self.embed(t, class_labels))
        return UNet2DOutput(sample=output) if return_dict else (output,)

    def embed(self, t: Tensor, class_labels: Tensor | None) -> Tensor:
        """The embedding of timesteps and class labels, (B,) each, that the unet computes and does not return."""
        time = self.unet.time_embedding(self.unet.time_proj(t).to(self.dtype))
        return time if class_labels is None else time + self.unet.class_embedding(class_labels)
