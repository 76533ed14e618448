"""Readers of the field's file formats: one file each, all to `schema.Utterance`."""

from msa_jax.data.sources.opening import checksum, open_source

__all__ = ["checksum", "open_source"]
