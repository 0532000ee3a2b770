"""python -m tbn_bench.native: one line that says what will run here."""

from tbn_bench import native

try:
    print(
        f"native kernels: level {native.level()} (this CPU has {', '.join(native.levels())}), {native.library()}"
    )
except native.NativeUnavailable as error:
    print(f"NATIVE KERNELS MISSING: {error}")
