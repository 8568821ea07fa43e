"""Where randomness comes from: one number per purpose, derived from the seed in params.yaml."""

import hashlib


def derive(seed: int, *names: object) -> int:
    """A number in [0, 2**63) that depends on the seed and the names alone (BLAKE2b), equal on every machine."""
    text = "\x1f".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
