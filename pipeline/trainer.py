"""The lightning.Trainer that all trainings have: on one device, or on one per rank."""

import logging
import signal
import threading
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from pipeline import ranks


class Signals(pl.Callback):
    """A signal ends the process as it would without Lightning, which sets handlers of its own that let the step end first.

    A worker would then go on to its next job.
    """

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.before)


def build(where: torch.device, exact: Any) -> pl.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # its advice on loaders and devices does not apply here
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", "(?s).*Grad strides do not match bucket view strides")
    return pl.Trainer(
        accelerator=where.type,
        **strategy(where),
        precision=exact,
        max_epochs=1,
        logger=False,
        callbacks=[Signals()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def strategy(where: torch.device) -> dict[str, Any]:
    """On which devices Lightning trains, and how."""
    here = ranks.here()
    if here.world == 1:
        alone = LightningEnvironment()  # whatever SLURM or torchrun say: of their ranks the first alone is here
        return {"devices": 1 if where.index is None else [where.index], "plugins": [alone]}
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # Lightning builds it on a side stream
    ddp = DDPStrategy(
        cluster_environment=TorchElasticEnvironment(),  # whoever started the ranks: ranks.begin sets what it reads
        find_unused_parameters=True,  # a player's loss does not reach the others
        broadcast_buffers=False,
        timeout=ranks.PATIENCE,
    )
    return {"devices": here.beside, "num_nodes": here.world // here.beside, "strategy": ddp}
