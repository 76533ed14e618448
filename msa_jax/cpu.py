"""What training on a CPU needs: devices for its cores, and memory that is kept."""

import ctypes
import os
import platform

import jax
from jax.sharding import Mesh

# Of glibc's <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def prepare(num_seeds: int) -> None:
    """Makes JAX see as many CPU devices as there are cores over which `num_seeds` divide evenly.

    Two seeds' steps on a device each fill the cores at least as well as one seed's step does, whose
    small programs wait for one another; at width 64 better. A lone device computes
    in the thread that asks it to, for which `keep_memory` can speak. To be called before anything
    else asks for a device; does nothing to accelerators, and leaves the devices to XLA's flags
    where these say how many there are.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        devices = max(n for n in range(1, (cores or 1) + 1) if num_seeds % n == 0)
        jax.config.update("jax_num_cpu_devices", devices)


def keep_memory(mesh: Mesh) -> None:
    """Has the process keep the memory that each step gives back, if `mesh` is of CPU devices.

    XLA takes what a step needs besides its arguments at once, and gives it back after the step.
    Buckets need different amounts, so glibc returns them to the kernel, which hands them out anew
    page by page, each filled with zeros: a fifth of the time of a step of A2 at width 128 with
    four layers on two cores. From now on the whole process holds what it held at most. Only the
    main thread can keep pieces of more than 64 MB, so devices that compute in threads of their own
    gain less. Does nothing where the C library is another.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    if on_cpu and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
