"""python -m tbn_bench.native: one line that says what will run here."""

from tbn_bench import native

try:
    level = native.level()
    levels = ", ".join(native.available_levels())
    print(f"native kernels: level {level} (this CPU has {levels}), {native.library_path()}")
except native.NativeUnavailable as error:
    print(f"NATIVE KERNELS MISSING: {error}")
