"""glibc keeps what is freed, in a process of its own: blocks that come back are not mapped anew."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
from unnoise.core.allocator import keep_freed_memory

c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, (ctypes.c_size_t,), (ctypes.c_void_p,)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = c.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    c.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
usual = faults()
told = keep_freed_memory()
faults()
print(told, usual, faults())
"""


def pages(**env):
    whole = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))} | env
    said = subprocess.run([sys.executable, "-c", FAULTS], env=whole, capture_output=True, text=True, check=True).stdout.split()
    return said[0] == "True", int(said[1]), int(said[2])


@pytest.mark.skipif(sys.platform != "linux" or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc's allocator")
def test_freed_blocks_are_found_again():
    told, before, after = pages()
    assert told
    assert before >= (64 << 20) // (2 << 20)  # pages of 2 MiB at the largest
    assert after < before / 10


def test_the_environments_own_word_counts():
    assert pages(MALLOC_TOP_PAD_="131072")[0] is False
