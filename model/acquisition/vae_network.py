"""A convolutional variational autoencoder and its loss, as plain PyTorch: what `vae` trains and asks.

Source: Kingma and Welling, ICLR 2014; batch normalisation (Ioffe and Szegedy, ICML 2015). What normalises each picture
by itself takes its contrast away, which the decoder then has to guess: such a network needed three times the steps.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (16, 32, 64, 128)
SMALLEST = 2 ** len(WIDTHS)
"""Pixels per side that the deepest features have one cell for; pictures are a multiple of it."""
_LOG_VARIANCE = 10.0


class Posterior(NamedTuple):
    """The Gaussian that the encoder sees behind each picture, one independent number a dimension.

    Attributes:
        mean: shape (n, latent).
        log_variance: shape (n, latent), of the natural logarithm, in [-10, 10].
    """

    mean: Tensor
    log_variance: Tensor


class VaeNetwork(nn.Module):
    """Encoder and decoder; in training mode a batch needs two pictures.

    Args:
        size: pixels per side of the square pictures, a multiple of 16.
        latent: numbers between encoder and decoder.
    """

    def __init__(self, size: int, latent: int) -> None:
        super().__init__()
        self._cells = size // SMALLEST
        features = WIDTHS[-1] * self._cells**2
        down = [_block(nn.Conv2d(a, b, 4, 2, 1, bias=False), b) for a, b in zip((3, *WIDTHS), WIDTHS, strict=False)]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(features, 2 * latent))
        back = WIDTHS[::-1]
        up = [_block(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), b) for a, b in itertools.pairwise(back)]
        self.expand = nn.Linear(latent, features)
        self.decoder = nn.Sequential(*up, nn.ConvTranspose2d(WIDTHS[0], 3, 4, 2, 1), nn.Sigmoid())

    def encode(self, pictures: Tensor) -> Posterior:
        """What lies behind pictures of shape (n, 3, size, size) in [0, 1]."""
        mean, log_variance = self.encoder(pictures).chunk(2, dim=1)
        # Beyond these limits nothing changes but that the exponential may overflow.
        return Posterior(mean, log_variance.clamp(-_LOG_VARIANCE, _LOG_VARIANCE))

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures of shape (n, 3, size, size) in (0, 1) from points of shape (n, latent)."""
        features = functional.silu(self.expand(latent))
        pictures: Tensor = self.decoder(features.view(len(latent), WIDTHS[-1], self._cells, self._cells))
        return pictures


class VaeLoss(NamedTuple):
    """The parts of the loss of a batch, scalars.

    Attributes:
        total: negative evidence lower bound per colour value, but for a constant: what a training lowers.
        reconstruction: mean squared error of a colour value, colours in [0, 1].
        kl: Kullback-Leibler divergence of the posterior from the standard normal, nats per picture.
    """

    total: Tensor
    reconstruction: Tensor
    kl: Tensor


def kl_divergence(posterior: Posterior) -> Tensor:
    """Of the posterior from the standard normal: `sum (mean^2 + variance - 1 - ln variance) / 2`, shape (n,), nats.

    Source: Kingma and Welling, ICLR 2014, appendix B.
    """
    mean, log_variance = posterior
    return (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1) / 2


def reconstruction_error(pictures: Tensor, reconstructed: Tensor) -> Tensor:
    """Mean squared difference over all colour values of each picture, shape (n,)."""
    return (pictures - reconstructed).square().flatten(1).mean(dim=1)


def vae_loss(network: VaeNetwork, pictures: Tensor, noise: Tensor, pixel_std: float) -> VaeLoss:
    """The loss of a batch.

    Args:
        network: any.
        pictures: shape (n, 3, size, size) in [0, 1].
        noise: shape (n, latent), standard normal; zeros give the loss at the posterior's mean.
        pixel_std: deviation that a colour value is allowed to have from its reconstruction. It sets the weight of the
            divergence: with a Gaussian of this deviation the bound is `error / (2 pixel_std^2) + KL / values`.
    """
    posterior = network.encode(pictures)
    mean, log_variance = posterior
    reconstructed = network.decode(mean + (log_variance / 2).exp() * noise)
    reconstruction = reconstruction_error(pictures, reconstructed).mean()
    kl = kl_divergence(posterior).mean()
    total = reconstruction / (2 * pixel_std**2) + kl / pictures[0].numel()
    return VaeLoss(total, reconstruction, kl)


def create_network(size: int, latent: int, seed: int) -> VaeNetwork:
    """A network with random weights that follow from `seed`, whatever else was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VaeNetwork(size, latent)


def _block(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.SiLU())
