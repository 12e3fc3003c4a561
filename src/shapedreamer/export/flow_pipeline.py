"""A Diffusers pipeline for flow matching with a network that takes x_t. An export contains this file as pipeline.py.

    z = (1 − τ) x₀ + τ ε        u = ε − x₀        x_t = z/√((1 − τ)² + τ²)

FlowMatchEulerDiscreteScheduler moves z along the velocity u, from noise (τ = 1) to an image (τ = 0). The networks of
shapedreamer predict u from x_t, which is z scaled to variance 1. No pipeline of Diffusers scales z, so this one does.
"""

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ImagePipelineOutput, ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn.functional import pixel_shuffle


class FlowPipeline(DiffusionPipeline):
    """Samples by Euler steps on the line from noise to image.

    unet:      a UNet2DModel, or a network that is called like one
    timesteps: the network's timesteps, from the least to the most noise
    sigmas:    τ at each of them; Diffusers calls it sigma
    steps:     default number of network calls
    patch:     the unet works on images whose squares of patch x patch pixels are folded into channels
    id2label:  the name of each class; the unet's last class means no label
    """

    def __init__(
        self,
        unet: ModelMixin,
        scheduler: FlowMatchEulerDiscreteScheduler,
        timesteps: list[float] | None = None,  # Diffusers takes an argument without a default for a part with a folder
        sigmas: list[float] | None = None,
        steps: int = 50,
        patch: int = 1,
        id2label: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(timesteps=timesteps, sigmas=sigmas, steps=steps, patch=patch, id2label=id2label)
        self.labels = {name: int(number) for number, name in (id2label or {}).items()}

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: list[int] | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Images: a list of PIL images ("pil"), or values in [0, 1] as an array ("np") or a tensor ("pt").

        class_labels:   a number for each image, in place of batch_size; None for no labels
        guidance_scale: 1 is the conditional model, 0 the unconditional one, above 1 strengthens the label
        latents:        x_T ~ N(0, 1), of the shape that the unet takes; by default it is drawn
        """
        device, size = self._execution_device, self.unet.config.sample_size
        num = batch_size if class_labels is None else len(class_labels)
        shape = (num, self.unet.config.in_channels, *((size, size) if isinstance(size, int) else size))
        x_T = randn_tensor(shape, generator, device) if latents is None else latents.to(device, torch.float32)
        classes = None if class_labels is None else torch.tensor(class_labels, device=device)

        self.set_timesteps(self.config.steps if num_inference_steps is None else num_inference_steps, device)
        tau = self.scheduler.sigmas
        scale = torch.hypot(1 - tau, tau)
        z = x_T * scale[0]
        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            u = self.velocity(z / scale[i], t, classes, guidance_scale)
            x0 = (z - tau[i] * u).clamp(-1, 1)
            z = self.scheduler.step((z - x0) / tau[i], t, z).prev_sample

        images = (pixel_shuffle(z, self.config.patch) / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return ImagePipelineOutput(images=images)
        array = images.cpu().permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(array) if output_type == "pil" else array)

    def set_timesteps(self, steps: int, device: torch.device) -> None:
        """Make the scheduler visit `steps` timesteps, evenly spaced in their order, the noisiest first."""
        timesteps, sigmas = self.config.timesteps, self.config.sigmas
        num = len(timesteps)
        if not 1 <= steps <= num:
            raise ValueError(f"num_inference_steps must be between 1 and {num}, not {steps}")
        visited = [round(num - i * num / steps) - 1 for i in range(steps)]
        self.scheduler.set_timesteps(
            timesteps=[timesteps[i] for i in visited], sigmas=[sigmas[i] for i in visited], device=device
        )

    def velocity(self, x_t: Tensor, t: Tensor, classes: Tensor | None, guidance_scale: float) -> Tensor:
        """u (B, C, H, W) of x_t. With classes (B,) and a scale other than 1, by classifier-free guidance."""
        x_t, num_classes = x_t.to(self.unet.dtype), self.unet.config.num_class_embeds
        no_label = None if num_classes is None else torch.full((len(x_t),), num_classes - 1, device=x_t.device)
        u = self.unet(x_t, t, no_label if classes is None else classes).sample.float()
        if classes is None or guidance_scale == 1:
            return u
        unconditional = self.unet(x_t, t, no_label).sample.float()
        return unconditional + guidance_scale * (u - unconditional)
