"""Guards the CPU kernels where an ordinary run cannot look: under sanitizers, at the AMX level without AMX, without a compiler."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CMAKE = shutil.which("cmake")
COMPILER = shutil.which("c++") or shutil.which("g++")
needs_tools = pytest.mark.skipif(not CMAKE or not COMPILER, reason="needs cmake and a C++ compiler")


def configure(
    folder: Path, *options: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [
        CMAKE or "cmake",
        "-S",
        str(ROOT),
        "-B",
        str(folder),
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        "-DTBN_OPTIMIZE=-O1",
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def build(folder: Path, *options: str) -> Path:
    done = configure(folder, *options)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [CMAKE or "cmake", "--build", str(folder), "-j", "2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return next(folder.glob("libtbn_bench.*"))


def run_native_tests(
    library: Path, *arguments: str, **env: str
) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests" / "native" / "test_native_levels.py"),
        *arguments,
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"TBN_BENCH_LIBRARY": str(library)} | env,
        cwd=ROOT,
    )


@needs_tools
@pytest.mark.skipif(sys.platform != "linux", reason="preloads gcc's sanitizers")
def test_no_sanitizer_complains(tmp_path):
    """Every native test again, with addresses and undefined behaviour watched."""
    library = build(tmp_path, "-DTBN_SANITIZE=ON")
    preload = []
    for name in ("libasan.so", "libubsan.so"):
        found = subprocess.run(
            [COMPILER or "c++", f"-print-file-name={name}"], capture_output=True, text=True
        ).stdout.strip()
        if "/" not in found:
            pytest.skip(f"{name} is not installed")
        preload.append(found)
    done = run_native_tests(
        library,
        LD_PRELOAD=" ".join(preload),
        ASAN_OPTIONS="detect_leaks=0",
        UBSAN_OPTIONS="halt_on_error=1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runtime error" not in done.stderr


CPUINFO = Path("/proc/cpuinfo")
CPU_FLAGS = CPUINFO.read_text().split() if CPUINFO.exists() else []


@needs_tools
@pytest.mark.skipif("avx512bw" not in CPU_FLAGS, reason="needs AVX-512")
def test_the_amx_level_is_right_where_there_is_no_amx(tmp_path):
    """Its instructions emulated in C: layout, borders, splitting into bfloat16 terms and sums are those of the real level."""
    done = run_native_tests(
        build(tmp_path, "-DTBN_EMULATE_AMX=ON"), "-rp", "-k", "amx or random or precision"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = [line for line in done.stdout.splitlines() if line.startswith("PASSED")]
    names = [
        "test_geometry[kernel0-stride0-padding0-dilation0-amx]",
        "test_rounded_activations_keep_their_bound[amx-bf16x2]",
        "test_positions_and_rows_of_any_count[amx-f32]",
    ]
    if "avx512_vnni" in CPU_FLAGS:  # its instructions are not emulated
        names.append("test_rounded_activations_keep_their_bound[amx-a14]")
    for name in names:
        assert any(line.endswith(name) for line in passed), name


@needs_tools
def test_without_a_compiler_the_package_still_installs(tmp_path):
    """CMake says loudly that kernels are missing, and succeeds."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("cmake", "ninja", "make", "sh"):
        if shutil.which(name):
            (tools / name).symlink_to(shutil.which(name))
    done = configure(tmp_path / "build", env={"PATH": str(tools), "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "no C++ compiler found" in done.stderr
