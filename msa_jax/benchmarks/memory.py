"""How much memory a process has held."""

import resource
import sys
from pathlib import Path


def peak_memory_gb() -> float:
    """The most memory that this process has held, in GB (10^9 bytes).

    A new process takes its parent's peak over into what getrusage tells of it, but not, on Linux,
    into its status file.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
