"""What can go wrong with a training itself, apart from the libraries that train."""


class Diverged(ArithmeticError):
    """A loss became NaN or infinite, and again at half the learning rate."""
