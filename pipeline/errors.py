"""What can go wrong with a training itself, apart from the libraries that train; and how these say that memory is full."""

FULL = (  # torch's own word comes as a class; these come from cuBLAS, cuDNN, the driver, and the host
    "out of memory",
    "not enough memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "unable to find an engine to execute this computation",
)


class Diverged(ArithmeticError):
    """A loss became NaN or infinite, and again at half the learning rate."""


def out_of_memory(error: BaseException) -> bool:
    """Whether torch, or a library of the GPU, says that no memory is left; torch is not imported for that."""
    told = type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in FULL)
    return isinstance(error, RuntimeError) and told
