"""Finding and loading libtbn_bench, the compiled library."""

import ctypes
import functools
import os
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from tbn_bench.native.abi import (
    KINDS,
    HadamardStruct,
    NormStruct,
    OpStruct,
    ProgramStruct,
    SignConvStruct,
    ValueStruct,
)

LIBRARY_VARIABLE = "TBN_BENCH_LIBRARY"  # path of another build, e.g. one with sanitizers
_NAMES = ("libtbn_bench.so", "libtbn_bench.dylib")


class NativeUnavailable(RuntimeError):
    """The compiled library, or the level asked for, is not to be had here; the message says why."""


def library_path() -> Path:
    """Path of the library: beside this file, or in the installed package.

    An editable install keeps the two apart.
    """
    given = os.environ.get(LIBRARY_VARIABLE)
    if given:
        return Path(given)
    for name in _NAMES:
        path = Path(__file__).parent / name
        if path.exists():
            return path
    try:
        recorded = files("tbn-bench") or []
    except PackageNotFoundError:
        recorded = []
    for entry in recorded:
        if entry.name not in _NAMES:
            continue
        path = Path(str(entry.locate()))
        if path.exists():
            return path
    raise NativeUnavailable(
        "the native kernels were not built (no C++17 compiler at installation?); "
        "install one and run: pip install --force-reinstall --no-deps -e . ; "
        "until then every network runs on torch"
    )


@functools.cache
def load() -> ctypes.CDLL:
    """The library, with its signatures set. Raises NativeUnavailable, saying why."""
    path = library_path()
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailable(f"{path} cannot be loaded: {error}") from error
    if not _is_ours(lib):
        raise NativeUnavailable(
            f"{path} belongs to another version of tbn_bench; reinstall the package (make venv)"
        )
    _set_signatures(lib)
    return lib


@functools.cache
def kind_numbers() -> dict[str, int]:
    """Name of each kind of op -> its number in the library. Raises NativeUnavailable."""
    return {name: number for number, name in enumerate(_op_names(load()))}


def _op_names(lib: ctypes.CDLL) -> list[str]:
    lib.tbn_op_name.restype = ctypes.c_char_p
    count = lib.tbn_op_kinds()
    return [lib.tbn_op_name(number).decode() for number in range(count)]


def _is_ours(lib: ctypes.CDLL) -> bool:
    """True where the library has this version's kinds and structures."""
    if not hasattr(lib, "tbn_op_name"):
        return False
    unknown = set(KINDS) - set(_op_names(lib))
    if unknown:
        return False
    structures = {
        "op": OpStruct,
        "value": ValueStruct,
        "plan": ProgramStruct,
        "norm": NormStruct,
        "sign_conv": SignConvStruct,
        "hadamard": HadamardStruct,
    }
    for name, structure in structures.items():
        if not hasattr(lib, f"tbn_sizeof_{name}"):
            return False
        size = getattr(lib, f"tbn_sizeof_{name}")()
        if size != ctypes.sizeof(structure):
            return False
    return True


def _set_signatures(lib: ctypes.CDLL) -> None:
    lib.tbn_level_name.restype = ctypes.c_char_p
    lib.tbn_prepare.restype = ctypes.c_void_p
    lib.tbn_prepare.argtypes = [ctypes.c_int] * 6 + [ctypes.c_void_p] * 2
    lib.tbn_free.argtypes = [ctypes.c_void_p]
    lib.tbn_free.restype = None
    lib.tbn_weight_bytes.argtypes = [ctypes.c_void_p]
    lib.tbn_weight_bytes.restype = ctypes.c_int64
    lib.tbn_run.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64, ctypes.c_int]
    lib.tbn_peak.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64]
    lib.tbn_peak.restype = ctypes.c_int64
    lib.tbn_read.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    lib.tbn_read.restype = ctypes.c_double
    for direction in ("forward", "backward"):
        function = getattr(lib, f"tbn_norm_{direction}")
        function.argtypes = [ctypes.c_int, ctypes.c_void_p]
        function.restype = None
    lib.tbn_sign_conv.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
    for name in ("tile", "gradient"):
        function = getattr(lib, f"tbn_hadamard_{name}")
        function.argtypes = [ctypes.c_void_p]
        function.restype = None
    lib.tbn_group_conv.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
    lib.tbn_group_gradient.argtypes = [ctypes.c_int, ctypes.c_void_p]
    lib.tbn_weight_gradient.argtypes = [ctypes.c_int, ctypes.c_void_p]
    lib.tbn_weight_gradient.restype = None
