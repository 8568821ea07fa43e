"""A batch cut into pieces, for want of memory or for several ranks, that is learnt from as if it were whole."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

Loss = tuple[str, torch.Tensor]  # of a player, by name


def in_pieces(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, count: int) -> torch.Tensor:
    """function(x), where rows of x (B, ...) do not see each other, with the activations of B / count rows in memory.

    Each piece runs once more when its gradient is asked for; random numbers are then drawn again.
    """
    if count == 1:
        return function(x)
    return torch.cat([checkpoint(function, piece, use_reentrant=False) for piece in x.tensor_split(min(count, len(x)))])


def turns(
    network: Any, batch: Sequence[torch.Tensor], progress: float, count: int, rank: int = 0, world: int = 1
) -> Iterator[tuple[str, Iterator[torch.Tensor]]]:
    """The players of a network (see training.Adversaries) in turn, with the losses of at most `count` pieces of the batch.

    The loss of a piece is weighed by its part of the rows, and computed when it is asked for: the one before should have
    been learnt from by then. `batch` holds every `world`-th row, from `rank` on, of a whole batch, for which all
    random numbers are drawn.
    """
    rows = torch.arange(len(batch[0]))
    parts = rows.tensor_split(min(count, len(rows)))
    games = [network.losses(batch if len(parts) == 1 else tuple(t[p] for t in batch), progress) for p in parts]
    if len(parts) == world == 1:
        yield from ((name, iter([loss])) for name, loss in games[0])
        return
    drawn = [Drawn(part * world + rank, len(rows) * world) for part in parts]
    while True:
        before = random_state()
        with drawn[0]:
            turn: Loss | None = next(games[0], None)
        if turn is None:
            return
        yield turn[0], _losses(turn[1], games, drawn, [len(part) / len(rows) for part in parts], before)


def _losses(
    first: torch.Tensor, games: list[Iterator[Loss]], drawn: list["Drawn"], shares: list[float], before: Any
) -> Iterator[torch.Tensor]:
    yield first * shares[0]
    for game, mode, share in zip(games[1:], drawn[1:], shares[1:], strict=True):
        set_random_state(before)
        with mode:
            _, loss = next(game)
        yield loss * share


def random_state() -> list[torch.Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])]


def set_random_state(state: list[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1])


OTHERS = {"bernoulli", "multinomial", "normal", "poisson", "randint", "randperm"} | {
    f"{name}_" for name in ("bernoulli", "exponential", "normal", "random", "uniform")
}  # what draws and would not be known


class Drawn(TorchFunctionMode):
    """Inside, random numbers for a part of a batch are those that its rows have when they are drawn for all of it.

    That holds for torch.rand(*size) and randn, their likes, and F.dropout (on CUDA, dropout draws others than outside).
    Raises NotImplementedError for what else draws.
    """

    def __init__(self, rows: torch.Tensor, whole: int) -> None:
        super().__init__()
        self.rows, self.whole = rows, whole

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        if name in OTHERS or (function in (torch.rand, torch.randn) and not args):
            raise NotImplementedError(f"torch's {name} is not drawn for a whole batch here; pieces.Drawn says what is")
        if function in (torch.rand, torch.randn):
            size = args[0] if isinstance(args[0], (tuple, list)) else args
            if size[0] == len(self.rows):
                return self.mine(function(self.whole, *size[1:], **kwargs))
        elif args and isinstance(args[0], torch.Tensor) and args[0].shape[:1] == self.rows.shape:
            if function in (torch.rand_like, torch.randn_like, torch.randint_like):
                return self.mine(function(self.empty(args[0]), *args[1:], **kwargs))
            if function is F.dropout and kwargs["training"] and 0 < kwargs["p"] < 1:
                left = 1 - kwargs["p"]
                return args[0] * self.mine(self.empty(args[0]).bernoulli_(left).div_(left))
        return function(*args, **kwargs)

    def empty(self, x: torch.Tensor) -> torch.Tensor:
        """As much as x is of a part, of the whole batch, in the same order of memory, which is that of drawing."""
        order = sorted(range(x.ndim), key=x.stride, reverse=True)
        return torch.empty_permuted((self.whole, *x.shape[1:]), order, dtype=x.dtype, device=x.device)

    def mine(self, drawn: torch.Tensor) -> torch.Tensor:
        return drawn[self.rows.to(drawn.device)]
