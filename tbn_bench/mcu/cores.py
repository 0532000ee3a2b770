"""The processors that programs are built for, and chips and boards that have them."""

from typing import Literal, NamedTuple

Family = Literal["host", "arm", "avr"]


class Core(NamedTuple):
    """A processor that a model can be built for.

    board: QEMU's machine. ticks: of its SysTick in an instruction of 64 ns (-icount shift=6).
    """

    name: str
    family: Family
    flags: tuple[str, ...] = ()  # gcc
    zig: tuple[str, ...] | None = None
    board: str | None = None
    ticks: float | None = None


ZIG_FEATURES = {
    "m4": "+vfp4d16sp",
    "m7": "+fp_armv8d16sp",
    "m33": "+fp_armv8d16sp+dsp",
    "m55": "+mve_fp",
}


def _arm(
    name: str,
    cpu: str,
    fpu: str | None,
    board: str,
    megahertz: float,
) -> Core:
    """fpu: None for a core without one, "" for the one that the processor's name implies."""
    flags = ["-mthumb", f"-mcpu={cpu}"]
    if fpu is not None:
        flags.append("-mfloat-abi=hard")
    if fpu:
        flags.append(f"-mfpu={fpu}")
    abi = "eabi" if fpu is None else "eabihf"
    features = ZIG_FEATURES.get(name, "")
    zig_cpu = cpu.replace("-", "_")
    return Core(
        name,
        family="arm",
        flags=tuple(flags),
        zig=("-target", f"thumb-freestanding-{abi}", f"-mcpu={zig_cpu}{features}"),
        board=board,
        ticks=megahertz * 64 / 1000,
    )


_ALL = (
    Core(
        "host",
        "host",
        (),
        (),
    ),
    _arm(
        "m0",
        "cortex-m0",
        None,
        "microbit",
        16,
    ),
    _arm(
        "m3",
        "cortex-m3",
        None,
        "mps2-an385",
        25,
    ),
    _arm(
        "m4",
        "cortex-m4",
        "fpv4-sp-d16",
        "mps2-an386",
        25,
    ),
    _arm(
        "m7",
        "cortex-m7",
        "fpv5-sp-d16",
        "mps2-an500",
        25,
    ),
    _arm(
        "m33",
        "cortex-m33",
        "fpv5-sp-d16",
        "mps2-an505",
        20,
    ),
    _arm(
        "m55",
        "cortex-m55",
        "",
        "mps3-an547",
        32,
    ),
    Core("uno", "avr", ("-mmcu=atmega328p",)),
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
        found.append(
            Fit(
                product,
                has_room,
                flash_left,
                ram_left,
            )
        )
    return found


def find_core(name: str) -> Core:
    if name not in CORES:
        known = ", ".join(CORES)
        raise ValueError(f"core must be one of {known}, got {name!r}")
    return CORES[name]
