"""Launchers are run with fakes of the tools that they call.

A fake is a script on PATH that writes down how it was called and plays the part.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
TRAIN = ["python", "-m", "msa_jax.main", "--distributed", "--workdir=gs://bucket/a run"]
SLICE = {
    "TPU_NAME": "slice",
    "ZONE": "us-west4-a",
    "ACCELERATOR_TYPE": "v5litepod-16",
    "RUNTIME_VERSION": "v2-alpha-tpuv5-lite",
}
JOBSET = {"NAME": "msa", "IMAGE": "image:1", "ACCELERATOR": "tpu-v5-lite-podslice"}


def run(
    script: str, *arguments: str, where: Path = LAUNCH, **variables: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a launcher with no other environment than PATH and `variables`."""
    environment = {"PATH": os.environ["PATH"], **{k: str(v) for k, v in variables.items()}}
    return subprocess.run(
        [str(where / script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


class FakeTools:
    """Commands written in bash, in a folder of their own.

    Attributes:
      path: a PATH on which they come first.
    """

    def __init__(self, folder: Path, **commands: str) -> None:
        """Writes the commands, `{name: body}`."""
        self._calls = folder / "calls"
        tools = folder / "bin"
        tools.mkdir()
        for name, body in commands.items():
            note = f'printf "%s\\n" "{name} $*" >>{self._calls}'
            (tools / name).write_text(f"#!/usr/bin/env bash\n{note}\n{body}\n")
            (tools / name).chmod(0o755)
        self.path = f"{tools}:{os.environ['PATH']}"

    def calls(self, words: str) -> list[str]:
        """The calls by now that contain `words`."""
        calls = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [call for call in calls if words in call]
