"""What a model predicts for each utterance of a split, as a table that a person opens.

Legend: N utterances, K classes (1 for regression).
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from msa_jax import metrics
from msa_jax.errors import UserError
from msa_jax.tasks import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionTable:
    """Predictions beside the truth.

    Attributes:
      ids, video_ids: N names.
      scores: [N] float32, the truth, in [-3, 3].
      outputs: [N, K] float32 class probabilities; for regression [N, 1] the predicted score.
      weights: `{modality: [N]}` where the model weighs modalities.
    """

    ids: Sequence[str]
    video_ids: Sequence[str]
    scores: np.ndarray
    outputs: np.ndarray
    weights: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def metrics(self, task: Task) -> metrics.Metrics:
        """The metrics of `task`."""
        return metrics.of_outputs(task, self.scores, self.outputs)

    def to_csv(self, task: Task) -> str:
        """A row an utterance: `id`, `video_id`, `score`, `prediction`, and for classes `label` and
        a probability each; `weight_<modality>` where there are weights.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        weights = [f"weight_{m}" for m in self.weights]
        if task.is_regression:
            writer.writerow([*_COMMON, "prediction", *weights])
            judged = self.outputs.tolist()
        else:
            names = np.array(task.class_names)
            shares = [f"{_PROBABILITY}{name}" for name in names]
            writer.writerow([*_COMMON, "label", "prediction", *shares, *weights])
            labels = names[task.labels(self.scores)]
            chosen = names[self.outputs.argmax(axis=-1)]
            judged = [
                [label, prediction, *row]
                for label, prediction, row in zip(
                    labels, chosen, self.outputs.tolist(), strict=True
                )
            ]
        given = np.array(list(self.weights.values())).T.tolist() if self.weights else None
        for row, name in enumerate(self.ids):
            truth = [name, self.video_ids[row], float(self.scores[row])]
            writer.writerow([*truth, *judged[row], *(given[row] if given else [])])
        return text.getvalue()


def read(path: epath.PathLike, task: Task) -> PredictionTable:
    """What `PredictionTable.to_csv` wrote.

    Raises:
      UserError: if the file is missing or damaged.
    """
    file = epath.Path(path)
    try:
        header, *rows = csv.reader(io.StringIO(file.read_text()))
        columns = dict(zip(header, zip(*rows, strict=True), strict=True))
        outputs = ["prediction"]
        if not task.is_regression:
            outputs = [f"{_PROBABILITY}{name}" for name in task.class_names]
        return PredictionTable(
            ids=columns["id"],
            video_ids=columns["video_id"],
            scores=np.array(columns["score"], np.float32),
            outputs=np.array([columns[name] for name in outputs], np.float32).T,
            weights={
                name.removeprefix(_WEIGHT): np.array(values, np.float32)
                for name, values in columns.items()
                if name.startswith(_WEIGHT)
            },
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read as predictions: {error!r}. Write it anew: python "
            f"scripts/evaluate.py --workdir={file.parent} --split=SPLIT --predictions={path}"
        ) from error


_COMMON = ("id", "video_id", "score")
_PROBABILITY = "probability_"
_WEIGHT = "weight_"
