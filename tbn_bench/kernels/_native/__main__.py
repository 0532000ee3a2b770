"""python -m tbn_bench.kernels._native: one line that says what will run here."""

from tbn_bench.kernels import _native

try:
    print(
        f"native kernels: level {_native.level()} (this CPU has {', '.join(_native.levels())}), {_native.library()}"
    )
except _native.NativeUnavailable as error:
    print(f"NATIVE KERNELS MISSING: {error}")
