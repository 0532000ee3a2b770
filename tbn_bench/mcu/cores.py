"""What programs are built for: export targets, processors, and chips and boards that have them."""

from typing import Literal, NamedTuple

Family = Literal["host", "arm", "riscv", "avr"]

# Families whose programs run without operating system or libc, with files by semihosting.
BARE: tuple[Family, ...] = ("arm", "riscv")


class Target(NamedTuple):
    """A kind of processor that a network is exported for.

    bit_order: of the weights (layout.py). core: that measures the export by default.
    processors: in words.
    """

    bit_order: str
    core: str
    processors: str


TARGETS = {
    "generic": Target("nat", core="m3", processors="any core"),
    "m4": Target("lane4", core="m4", processors="Cortex-M4, M7 and M33"),
    "m55": Target("nat", core="m55", processors="Cortex-M55"),
    "avr": Target("nat", core="uno", processors="AVR"),
}


class Core(NamedTuple):
    """A processor that an exported network can be built for.

    flags: for gcc. zig: flags for zig; None where it cannot. target: for which a network is
    exported for this core. clock_hz: of a common chip, for the estimated frames per second; None on
    the host. board: QEMU's machine. ticks: of its timer in an instruction of 64 ns (-icount
    shift=6). unicorn: its name there, or None. fma: it has fused multiply-adds.
    """

    name: str
    family: Family
    flags: tuple[str, ...] = ()
    zig: tuple[str, ...] | None = None
    target: str = "generic"
    clock_hz: float | None = None
    board: str | None = None
    ticks: float | None = None
    unicorn: str | None = None
    fma: bool = False


def _arm(
    name: str,
    cpu: str,
    board: str,
    board_mhz: float,
    clock_hz: float,
    fpu: str | None = None,
    zig_features: str = "",
    target: str = "generic",
    in_unicorn: bool = True,
) -> Core:
    """fpu: None for a core without one, "" for the one that the processor's name implies."""
    flags = ["-mthumb", f"-mcpu={cpu}"]
    if fpu is not None:
        flags.append("-mfloat-abi=hard")
    if fpu:
        flags.append(f"-mfpu={fpu}")
    abi = "eabi" if fpu is None else "eabihf"
    zig_cpu = cpu.replace("-", "_")
    return Core(
        name,
        family="arm",
        flags=tuple(flags),
        zig=("-target", f"thumb-freestanding-{abi}", f"-mcpu={zig_cpu}{zig_features}"),
        target=target,
        clock_hz=clock_hz,
        board=board,
        ticks=board_mhz * 64 / 1000,
        unicorn=name.upper() if in_unicorn else None,
        fma=fpu is not None,
    )


def _riscv(name: str, isa: str, abi: str, clock_hz: float, zig_cpu: str = "") -> Core:
    """zig_cpu: "" for an ABI that zig lacks.

    QEMU's board runs every RV32 and counts instructions.
    """
    zig = ("-target", "riscv32-freestanding-none", f"-mcpu={zig_cpu}") if zig_cpu else None
    return Core(
        name,
        family="riscv",
        flags=(f"-march={isa}", f"-mabi={abi}"),
        zig=zig,
        clock_hz=clock_hz,
        board="virt",
        ticks=1.0,
    )


_ALL = (
    Core("host", "host", zig=()),
    _arm("m0", "cortex-m0", "microbit", board_mhz=16, clock_hz=16e6),
    _arm("m3", "cortex-m3", "mps2-an385", board_mhz=25, clock_hz=64e6),
    _arm(
        "m4",
        "cortex-m4",
        "mps2-an386",
        board_mhz=25,
        clock_hz=64e6,
        fpu="fpv4-sp-d16",
        zig_features="+vfp4d16sp",
        target="m4",
    ),
    _arm(
        "m7",
        "cortex-m7",
        "mps2-an500",
        board_mhz=25,
        clock_hz=64e6,
        fpu="fpv5-sp-d16",
        zig_features="+fp_armv8d16sp",
        target="m4",
    ),
    _arm(
        "m33",
        "cortex-m33",
        "mps2-an505",
        board_mhz=20,
        clock_hz=64e6,
        fpu="fpv5-sp-d16",
        zig_features="+fp_armv8d16sp+dsp",
        target="m4",
    ),
    _arm(
        "m55",
        "cortex-m55",
        "mps3-an547",
        board_mhz=32,
        clock_hz=64e6,
        fpu="",
        zig_features="+mve_fp",
        target="m55",
        in_unicorn=False,
    ),
    _riscv(
        "rv32imc",
        isa="rv32imc",
        abi="ilp32",
        clock_hz=160e6,
        zig_cpu="generic_rv32+m+c",
    ),
    _riscv("rv32ec", isa="rv32ec", abi="ilp32e", clock_hz=48e6),
    Core("uno", "avr", ("-mmcu=atmega328p",), target="avr", clock_hz=16e6),
)
CORES: dict[str, Core] = {core.name: core for core in _ALL}


class Product(NamedTuple):
    """Memory that a program may use on a real board, bytes."""

    name: str
    flash: int
    ram: int


# From the boards' makers. The bootloader is subtracted on boards that load programs by one.
PRODUCTS: dict[str, tuple[Product, ...]] = {
    "m0": (
        Product("micro:bit v1 (nRF51822)", 256 * 1024, 16 * 1024),
        Product("Arduino Zero (SAMD21G18)", (256 - 8) * 1024, 32 * 1024),
    ),
    "m3": (Product("STM32VLDISCOVERY (STM32F100RB)", 128 * 1024, 8 * 1024),),
    "m4": (Product("Nano 33 BLE Sense (nRF52840)", (1024 - 64) * 1024, 256 * 1024),),
    "m7": (Product("NUCLEO-F767ZI (STM32F767ZI)", 2048 * 1024, 512 * 1024),),
    "m33": (Product("nRF5340 DK (nRF5340, application core)", 1024 * 1024, 512 * 1024),),
    "rv32imc": (Product("ESP32-C3 (flash of 4 MB)", 4096 * 1024, 384 * 1024),),
    "rv32ec": (
        Product("CH32V003", 16 * 1024, 2 * 1024),
        Product("CH32V002", 16 * 1024, 4 * 1024),
    ),
    "uno": (Product("Arduino Uno (ATmega328P)", 32 * 1024 - 512, 2 * 1024),),
}


class Fit(NamedTuple):
    product: Product
    fits: bool
    flash_left: int  # bytes; negative: missing
    ram_left: int


def fits(core: str, flash: int = 0, ram: int = 0) -> list[Fit]:
    """Whether `flash` and `ram` bytes fit each real board with this core.

    Without sizes, the bytes that are left are the boards' limits.
    """
    found = []
    for product in PRODUCTS.get(find_core(core).name, ()):
        flash_left = product.flash - flash
        ram_left = product.ram - ram
        has_room = flash_left >= 0 and ram_left >= 0
        found.append(Fit(product, has_room, flash_left, ram_left))
    return found


def find_core(name: str) -> Core:
    if name not in CORES:
        known = ", ".join(CORES)
        raise ValueError(f"core must be one of {known}, got {name!r}")
    return CORES[name]
