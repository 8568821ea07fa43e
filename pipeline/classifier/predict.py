"""What a trained classifier says of images: logits, features and calibrated probabilities, rows in order."""

import json
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from pipeline import weights
from pipeline.classifier.model import Network, Settings
from pipeline.errors import out_of_memory
from pipeline.samples import to_network

log = logging.getLogger(__name__)


def save(network: Network, settings: Settings, stem: Path) -> None:
    """Writes <stem>.safetensors and <stem>.json."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps(settings.model_dump(), indent=1))


def load(stem: Path) -> Network:
    """The network that `save` wrote. Raises ValueError if its weights are damaged or no safetensors at all."""
    network = Network(Settings.model_validate_json(stem.with_suffix(".json").read_text()))
    network.load_state_dict(weights.read(stem.with_suffix(".safetensors"), load_file))
    return network.eval()


@torch.inference_mode()
def run(network: Network, images: np.ndarray, device: torch.device, batch: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 (N, K) and features float32 (N, D) of uint8 images (N, H, W, C).

    Out of memory, it goes on with batches of half the rows; where one row does not fit, raises torch's error.
    """
    network = network.to(device).eval()
    logits = [np.empty((0, network.head.out_features), np.float32)]
    features = [np.empty((0, network.head.in_features), np.float32)]
    start = 0
    while start < len(images):
        try:
            f = network.features(to_network(images[start : start + batch]).to(device))
        except RuntimeError as error:
            if batch == 1 or not out_of_memory(error):
                raise
            batch //= 2
            log.warning("warning: %s; on from row %d, %d rows at a time", error, start, batch)
            continue
        features.append(f.cpu().numpy())
        logits.append(network.head(f).cpu().numpy())
        start += batch
    return np.concatenate(logits), np.concatenate(features)


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax of logits (N, K) at a temperature, float64, rows summing to one."""
    from scipy.special import softmax

    return softmax(logits.astype(np.float64) / temperature, axis=1)


def fit_temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """The temperature in [0.05, 20] of least negative log-likelihood (Guo et al., On Calibration, 2017)."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows = np.arange(len(y))

    def loss(log_t: float) -> float:
        return -log_softmax(logits.astype(np.float64) / np.exp(log_t), axis=1)[rows, y].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))
