"""Whether this machine computes in a run's precision at speed. Needs torch only where Linux's
own list of the processor's features does not settle it."""

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}  # torch's level AVX512 needs them all


def slow_bfloat16(precision: str, device: str) -> str:
    """A warning for training in bfloat16 on a processor that emulates it; '' if none is needed."""
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    if precision != "bf16" or device != "cpu" or not is_x86:
        return ""
    if _features() >= _AVX512 and "ATEN_CPU_CAPABILITY" not in os.environ:
        return ""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    if capability.startswith("AVX512"):
        return ""
    return (
        f"precision=bf16: this processor ({capability}) has no bfloat16 units; "
        "training takes many times as long as in float32 (17 times on an EPYC with AVX2); "
        "use precision=32"
    )


def _features() -> set[str]:
    """The flags of the first processor in Linux's list; none on other systems."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return set(value.split())
    return set()
