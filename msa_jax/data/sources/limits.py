"""How much an untrusted file may unpack to, in proportion to its size."""

from msa_jax.errors import UserError

# A file may unpack to anything below `LARGE` bytes; beyond that, to so many times its size. Padded
# features shrink up to some ten times, zeros a thousand times.
LARGE = 1 << 30
LARGEST_RATIO = 200


def check_unpacked(path: str, size: int, promised: int, advice: str) -> None:
    """Checks the bytes that a file of `size` bytes promises to unpack to.

    Args:
      advice: what to do about a file that is one's own.

    Raises:
      UserError: if they are more than `LARGE` and more than `LARGEST_RATIO` times `size`.
    """
    if promised > LARGE and promised > LARGEST_RATIO * size:
        raise UserError(
            f"{path} has {size} bytes and would unpack to {promised}: more than 1 GiB and "
            f"more than {LARGEST_RATIO} times its size. Real features do not shrink so far: "
            f"check where it comes from; if it is yours, {advice}."
        )
