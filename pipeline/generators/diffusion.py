"""Class-conditional diffusion: rows denoised from nothing but noise."""

from pipeline.generators._edm import Diffusion as Model
from pipeline.generators._edm import Options

__all__ = ["Model", "Options"]
