"""Seeds that depend on what they are for, not on what ran before."""

import hashlib


def stable_seed(*parts: object) -> int:
    """Turn a purpose and its numbers into a seed in [0, 2^32), the same on every platform and version."""
    text = "|".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
