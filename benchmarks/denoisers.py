"""Two diffusion models in one training loop: ours, and diffusers' U-Net as its documentation trains it.

Matched in parameters (1.5 to 1.7 million) at 32x32x3. Imported by processes of benchmarks/rounds.py alone.
"""

import time
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from benchmarks.rounds import ROOT
from pipeline import devices, params
from pipeline.generators import diffusion
from pipeline.samples import to_network, to_pixels
from pipeline.training import by_channel

SIDE, CHANNELS, CLASSES, BATCH = 32, 3, 10, 32
WIDTH, PEER_WIDTHS = 64, (32, 64, 64)
DDIM_STEPS = 50


def options(width: int) -> diffusion.Options:
    """The block `diffusion` of params.yaml at another width."""
    shipped = params.load(ROOT / "params.yaml").generators["diffusion"].options
    return diffusion.Options(**{**shipped, "width": width})


class Ours:
    """EDM preconditioning around the lean U-Net; Heun's method, by the shipped `sample`."""

    lr = 0.002

    def __init__(self, width: int) -> None:
        o = options(width)
        net = diffusion.UNet((SIDE, SIDE), CHANNELS, CLASSES, o)
        self.network = diffusion.Denoiser(net, CLASSES, (SIDE, SIDE), CHANNELS, o)
        compute = params.Compute(accelerator="cpu", precision="auto", processes=1, threads=1, devices=1, num_nodes=1)
        self.model = diffusion.Model(o, compute)
        self.model.shape, self.model.classes = (SIDE, SIDE, CHANNELS), CLASSES
        self.model.chosen, self.chunk = np.zeros(CLASSES, np.int64), self.model.chunk

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return next(self.network.losses((x, y, y), 0.0))[1]

    def sample(self, labels: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        self.model.networks = [self.network]
        return self.model.sample(labels, seeds)


class Peer:
    """Noise predicted at one of 1,000 levels; deterministic DDIM."""

    lr = 0.001
    chunk = 64

    def __init__(self, attention: bool, widths: tuple[int, ...]) -> None:
        from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

        kind = "AttnDownBlock2D" if attention else "DownBlock2D"
        down = ["DownBlock2D"] + [kind] * (len(widths) - 1)
        self.network = UNet2DModel(
            sample_size=SIDE,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            layers_per_block=2,
            block_out_channels=widths,
            down_block_types=down,
            up_block_types=[name.replace("Down", "Up") for name in down[::-1]],
            norm_num_groups=min(32, widths[0]),
            add_attention=attention,
            num_class_embeds=CLASSES,
        )
        self.noise, self.solver = DDPMScheduler(1000), DDIMScheduler(1000)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        t, noise = torch.randint(1000, (len(x),)), torch.randn_like(x)
        said = self.network(self.noise.add_noise(x, noise, t), t, class_labels=y).sample
        return (said.float() - noise).square().mean()

    @torch.inference_mode()
    def sample(self, labels: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        self.network.eval()
        self.solver.set_timesteps(DDIM_STEPS)
        y, draw = torch.from_numpy(labels), torch.Generator().manual_seed(int(seeds[0]))
        x = torch.randn((len(labels), CHANNELS, SIDE, SIDE), generator=draw)
        for t in self.solver.timesteps:
            x = self.solver.step(self.network(x, t, class_labels=y).sample.float(), t, x).prev_sample
        return to_pixels(x)


class Training:
    """The loop around either: fused AdamW, clipped gradients, one moving average of the weights."""

    def __init__(self, side: Ours | Peer, bf16: bool, channels_last: bool) -> None:
        self.side, self.bf16, self.last = side, bf16, channels_last
        network = side.network.train()
        if channels_last and isinstance(side, Peer):  # ours is trained with batches alone in that order
            network.to(memory_format=torch.channels_last)
        self.parameters = list(network.parameters())
        self.mean, self.steps = [p.detach().clone() for p in self.parameters], 0
        self.optimiser = torch.optim.AdamW(self.parameters, side.lr, (0.9, 0.99), weight_decay=0.0, fused=True)

    def step(self, images: np.ndarray, y: np.ndarray, progress: float = 0.5) -> float:
        """One step on uint8 images (N, H, W, C), whose float form lies in memory pixel by pixel; returns the loss."""
        batch = (to_network(images), torch.from_numpy(y))
        x, y = batch if self.last else by_channel(batch)
        for group in self.optimiser.param_groups:
            group["lr"] = self.side.lr * min(1.0, progress / 0.05 + 0.01, (1 - progress) / 0.3)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.side.loss(x, y)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.steps += 1
        with torch.no_grad():
            torch._foreach_lerp_(self.mean, self.parameters, 1 - min(0.99, self.steps / (9 + self.steps)))
        return loss.item()

    @torch.no_grad()
    def settle(self) -> None:
        """The average takes the place of the weights."""
        for p, mean in zip(self.parameters, self.mean, strict=True):
            p.copy_(mean)
        self.side.network.eval()


@cache
def side(name: str, small: bool) -> Ours | Peer:
    devices.set_threads(
        params.Compute(accelerator="cpu", precision="auto", processes=1, threads=1, devices=1, num_nodes=1)
    )
    torch.manual_seed(0)
    if name == "ours":
        return Ours(8 if small else WIDTH)
    return Peer(name == "peer_attention", (8, 16) if small else PEER_WIDTHS)


@cache
def training(name: str, bf16: bool, channels_last: bool, small: bool) -> Training:
    return Training(side.__wrapped__(name, small), bf16, channels_last)


def count(name: str, small: bool) -> int:
    """Parameters."""
    return sum(p.numel() for p in side(name, small).network.parameters())


def auto() -> str:
    """What `precision: auto` comes to here."""
    compute = params.Compute(accelerator="cpu", precision="auto", processes=1, threads=1, devices=1, num_nodes=1)
    return "bf16" if devices.precision(compute, SIDE) == "bf16-mixed" else "fp32"


def speed(name: str, bf16: bool, channels_last: bool, steps: int, small: bool) -> float:
    """Images trained on per CPU second."""
    loop, rng = training(name, bf16, channels_last, small), np.random.default_rng(0)
    images, y = rng.integers(0, 256, (BATCH, SIDE, SIDE, CHANNELS), np.uint8), rng.integers(0, CLASSES, BATCH)
    return BATCH * steps / cpu(lambda: [loop.step(images, y) for _ in range(steps)])


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of this process, all of its threads."""
    begun = time.process_time()
    work()
    return time.process_time() - begun
