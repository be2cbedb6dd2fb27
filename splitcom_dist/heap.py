"""What a step frees stays with the process: the next step needs as much again, and every page given back to the system
is a fault when it is needed."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's mallopt(3)
NEVER = 2**31 - 1  # bytes: the largest that it takes


def keep_freed_memory() -> bool:
    """Let glibc's malloc give nothing back; False where there is no such malloc. Call it before the first step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, NEVER) for option in (TRIM_THRESHOLD, MMAP_THRESHOLD))
