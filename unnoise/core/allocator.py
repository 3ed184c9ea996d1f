"""glibc told to keep memory that is given back to it.

As it comes, every block above 32 MiB at most is mapped from the system when it is asked for, with a page fault and a page of
zeros for each 4 KiB, and unmapped when it is freed; a network asks for the same blocks again at every call. With no blocks mapped,
none trimmed off the heap, and the heap grown by 256 MiB at a time, they are found again (mallopt(3)).
"""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h
_SETTINGS = {_TRIM_THRESHOLD: -1, _TOP_PAD: 256 << 20, _MMAP_MAX: 0}
_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """From now on in this process; whether it is so. Not where the environment sets the allocator, nor without glibc."""
    if sys.platform != "linux" or any(name in os.environ for name in _OWN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(what, value) == 1 for what, value in _SETTINGS.items())
