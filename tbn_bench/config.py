"""RunConfig: the single source of command-line flags, YAML presets, sweep checks and records."""

import hashlib
import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from tbn_bench import catalog
from tbn_bench.catalog import plugged
from tbn_bench.catalog.plugged import Plugin

SHELF_OF = {  # field of a call -> the open folder of its entries
    "data": "data",
    "model": "models",
    "binarizer": "binarizers",
    "task": "tasks",
    "optimizer": "optimizers",
}
FILE = r"^.+\.safetensors(#[0-9a-f]{12})?$"  # with the beginning of its sha256
MANY = 2**31  # epochs, or samples in a batch
RUN = r"^[\w.-]*[\w-][\w.-]*/[0-9a-f]{12}$"  # dots alone would be a path

EXPECTED = {  # what the patterns of these fields say
    "init": "a finished run (SWEEP/RUN_ID) or a FILE.safetensors",
    "teacher": "a finished run (SWEEP/RUN_ID)",
}


def plugin_flags(names: Iterable[str]) -> str:
    """The files of its user that a run needs, as flags behind its command."""
    return "".join(f" --plugin={shlex.quote(name)}" for name in names)


class RunConfig(BaseModel):
    """Everything that decides a run's numbers. Frozen; two equal configs have one run_id."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: str = Field("digits", description="data set, e.g. digits, cifar10")
    model: str = Field("mlp", description="model, e.g. 'resnet_cifar(depth=18)'")
    binarizer: str = Field("full_precision", description="binarizer, e.g. 'tbn(p=4)'")
    task: str = Field("image_classification", description="task, see: tbn-bench list tasks")
    keep: tuple[str, ...] = Field(
        (), description="patterns of weights that stay full precision, e.g. conv1 fc"
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="seed of weights, sample order and augmentation, not of the data split",
    )
    epochs: int = Field(20, ge=1, lt=MANY, description="epochs")
    batch_size: int = Field(128, ge=1, lt=MANY, description="training batch size")
    optimizer: str = Field("sgd", description="optimizer, e.g. adam or 'muon(momentum=0.6)'")
    lr: float = Field(0.1, gt=0, description="peak learning rate")
    clip_norm: float = Field(
        0.0, ge=0, description="largest norm of a step's gradient, all weights together; 0: any"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum (sgd only)")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay")
    schedule: Literal["cosine", "cosine_to_min", "linear", "step", "constant"] = Field(
        "cosine",
        description="learning-rate schedule: cosine (to 0, cut off at min_lr), cosine_to_min "
        "(from lr to min_lr), linear, step or constant",
    )
    schedule_every: Literal["epoch", "step"] = Field(
        "epoch", description="when the schedule changes the rate: after every epoch or step"
    )
    min_lr: float = Field(0.0, ge=0, description="lower bound of the learning rate after warm-up")
    warmup_epochs: int = Field(0, ge=0, lt=MANY, description="epochs of linear warm-up")
    step_epochs: int = Field(20, ge=1, lt=MANY, description="epochs between drops (schedule=step)")
    step_gamma: float = Field(0.7, gt=0, le=1, description="factor of each drop (schedule=step)")
    bn_momentum_gamma: float = Field(
        1.0,
        gt=0,
        le=1,
        description="factor on batch norm's momentum (0.1) every step_epochs epochs, down to 0.01",
    )
    batch_norm: Literal["running", "reestimated"] = Field(
        "running",
        description="statistics of batch norm in evaluation: running averages, "
        "or reestimated on training samples before each evaluation",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing")
    mixup: float = Field(
        0.0, ge=0, description="alpha of timm's mixup, for image classification; 0 turns it off"
    )
    cutmix: float = Field(
        0.0, ge=0, description="alpha of timm's cutmix, for image classification; 0 turns it off"
    )
    select: Literal["best", "last"] = Field(
        "best", description="the epoch to test: best (on held-out data) or last"
    )
    tta: bool = Field(
        False,
        description="also score the test set with test-time augmentation "
        "(mirror and one-pixel shifts)",
    )
    init: str | None = Field(
        None,
        pattern=f"{RUN}|{FILE}",
        description="initial weights: a finished run (SWEEP/RUN_ID), or a safetensors file with "
        "the float network's state dict",
    )
    teacher: str | None = Field(
        None,
        pattern=RUN,
        description="distillation: use the outputs of this finished run (SWEEP/RUN_ID) as labels",
    )
    precision: Literal["32", "bf16"] = Field(
        "32", description="32 (float32) or bf16 (bfloat16 autocast)"
    )
    fuse: bool = Field(
        False,
        description="train faster behind tiled convolutions: fused operations in channels-last "
        "memory, whose sums have another order (docs/kernels.md)",
    )

    @field_validator("data", "model", "binarizer", "task", "optimizer")
    @classmethod
    def _one_spelling(cls, value: str) -> str:
        return catalog.canonical(value)

    @field_validator(
        "lr",
        "momentum",
        "weight_decay",
        "step_gamma",
        "label_smoothing",
        "min_lr",
        "clip_norm",
        "bn_momentum_gamma",
        "mixup",
        "cutmix",
    )
    @classmethod
    def _one_zero(cls, value: float) -> float:
        return value + 0.0  # -0.0 equals 0.0 but is written differently

    @field_validator("init")
    @classmethod
    def _one_content(cls, value: str | None) -> str | None:
        """The name of a file is followed by the beginning of its sha256, which the run id has."""
        if value is None or "#" in value or not value.endswith(".safetensors"):
            return value

        try:
            content = Path(value).read_bytes()
        except OSError as error:
            raise ValueError(f"{value} cannot be read ({error.strerror}), got {value!r}") from error

        digest = hashlib.sha256(content)
        return f"{value}#{digest.hexdigest()[:12]}"

    @property
    def starts_from_file(self) -> bool:
        """Whether init names a file, not a run."""
        return self.init is not None and ".safetensors" in self.init

    @property
    def non_defaults(self) -> dict[str, Any]:
        """The fields that differ from the defaults, as JSON types: the content of the run id."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def run_id(self) -> str:
        """First 12 hexadecimal digits of the sha256 of the non-default fields.

        A new field therefore changes no old id.
        """
        text = json.dumps(self.non_defaults, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def group_id(self) -> str:
        """The run_id of the same config at seed 0: runs that differ only in seed share it."""
        return self.model_copy(update={"seed": 0}).run_id

    @property
    def command(self) -> str:
        """The command that makes this run; Python for one of a given object."""
        if self.given:
            return self._python({})

        words = ["tbn-bench", "train"]
        for name, value in self.non_defaults.items():
            text = ",".join(value) if name == "keep" else value
            words.append(f"--{name}={text}")
        return shlex.join(words)

    @property
    def plugins(self) -> list[Plugin]:
        """The files from outside this package that its entries come from."""
        found: dict[Plugin, None] = {}
        for field, shelf in SHELF_OF.items():
            name, _ = catalog.parse(getattr(self, field))
            entry = plugged.find(shelf, name)
            if entry is not None:
                found[entry.plugin] = None
        return list(found)

    @property
    def packages(self) -> list[dict[str, str]]:
        """The installed packages that its entries come from, as a run's provenance has them."""
        found = []
        for field, shelf in SHELF_OF.items():
            name, _ = catalog.parse(getattr(self, field))
            package = plugged.package(shelf, name)
            if package and package not in found:
                found.append(package)
        return found

    def command_in(self, sweep: str) -> str:
        """The command that makes this run as one of a sweep."""
        if self.given:
            return self._python({"sweep": sweep})
        return f"{self.command} --sweep {shlex.quote(sweep)}"

    @property
    def given(self) -> tuple[str, ...]:
        """The fields whose object was given in Python; only its owner can make such a run again."""
        calls = {field: getattr(self, field) for field in SHELF_OF}
        return tuple(field for field, call in calls.items() if catalog.is_given(call))

    def _python(self, more: dict[str, Any]) -> str:
        arguments = []
        for name, value in {**self.non_defaults, **more}.items():
            text = repr(value)
            if name in self.given:
                _, identity = catalog.parse(value)
                text = f"<{identity.get('type', 'object')}>"
            arguments.append(f"{name}={text}")
        return f"tb.train({', '.join(arguments)})"


def make(values: dict[str, Any]) -> RunConfig:
    """RunConfig from plain values.

    Raises ValueError, one line per fault, with a suggestion for an unknown key.
    """
    unknown = [_unknown(name) for name in values if name not in RunConfig.model_fields]
    if unknown:
        raise ValueError("\n".join(unknown))

    if isinstance(values.get("keep"), str):
        values = {**values, "keep": tuple(filter(None, values["keep"].split(",")))}
    if isinstance(values.get("precision"), int):
        values = {**values, "precision": str(values["precision"])}
    try:
        return RunConfig(**values)
    except ValidationError as error:
        lines = [_line(fault) for fault in error.errors()]
        raise ValueError("\n".join(lines)) from error


def _unknown(name: Any) -> str:
    hint = catalog.did_you_mean(str(name), RunConfig.model_fields)
    return f"unknown parameter {catalog.short(name)}{hint}"


def _line(error: ErrorDetails) -> str:
    field = ".".join(map(str, error["loc"]))
    said = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_pattern_mismatch":
        said = f"expected {EXPECTED[field]}"
    got = "" if "got " in said else f", got {catalog.short(error['input'])}"
    return f"{field}: {said}{got}"
