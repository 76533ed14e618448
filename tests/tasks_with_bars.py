"""A task for `test_workers`: its module imports what draws progress bars, as training does."""

import time
from pathlib import Path

from tqdm import tqdm


def line(folder: str, name: str) -> int:
    """The line in which the bar of a task stands; ends when two have begun."""
    with tqdm(total=1, desc=name, disable=False, file=Path(folder, f"{name}.txt").open("w")) as bar:
        for _ in range(600):
            if len(list(Path(folder).iterdir())) == 2:
                break
            time.sleep(0.1)
        return abs(bar.pos)
