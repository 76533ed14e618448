"""What every reader of a file format offers."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from msa_jax.data.schema import Utterance


@dataclasses.dataclass(frozen=True)
class Dropped:
    """An utterance of the source that cannot be used, and why (the same words for the same why)."""

    id: str
    split: str
    reason: str


@dataclasses.dataclass
class Report:
    """What a reader noticed; complete once all splits have been read. It goes to the data card.

    Attributes:
      found: `{split: utterances in the source}`, before anything was dropped.
      dropped: one entry for each utterance left out.
      notes: remarks in whole sentences: renamed ids, clipped scores, recognised checksums.
    """

    found: dict[str, int] = dataclasses.field(default_factory=dict)
    dropped: list[Dropped] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain containers."""
        return {
            "found": dict(self.found),
            "dropped": [dataclasses.asdict(entry) for entry in self.dropped],
            "notes": list(self.notes),
        }


class Source(Protocol):
    """A file or folder whose structure has been checked; frames are read as they are asked for.

    Attributes:
      format: its reader's name.
      channels: `{modality: C}`, by name.
      splits: the splits that it has, in the order train, valid, test.
      report: fills while `utterances` is read.
    """

    format: str
    channels: Mapping[str, int]
    splits: Sequence[str]
    report: Report

    def utterances(self, split: str) -> Iterator[Utterance]:
        """The utterances of a split in the source's order; call it once for each split.

        Raises:
          UserError: if an utterance breaks the schema.
        """
        ...
