"""Procedural point clouds of ten labelled solids and surfaces, for PointNet without a download; the same clouds on every machine.

A cloud lies on the surface, is stretched along each axis, turned about the vertical one, roughened, centred and scaled into the unit
sphere, as ModelNet40's are. With labels="part" every point is labelled with the part of its class that it lies on: wall 0 and lids 1 of a
prism, mantle 0 and base 1 of a pyramid, all of any other; the labels go on from class to class, 16 in all. The clouds are the same.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from tbn_bench.data._base import Split
from tbn_bench.data._points import PointDataModule
from tbn_bench.data._segmentation import with_category


def _polygon(corners: int) -> Callable[[Tensor], Tensor]:
    """Its outline around the origin. t: (...) in 0 to 1 -> (..., 2)."""

    def outline(t: Tensor) -> Tensor:
        side = (t * corners).floor()
        a, b = (_circle((side + i) / corners) for i in (0, 1))
        return torch.lerp(a, b, (t * corners - side).unsqueeze(-1))

    return outline


def _circle(t: Tensor) -> Tensor:
    return torch.stack([(2 * math.pi * t).cos(), (2 * math.pi * t).sin()], -1)


def _sphere(u: Tensor) -> Tensor:
    z = 2 * u[..., 0] - 1
    return torch.cat([_circle(u[..., 1]) * (1 - z * z).sqrt().unsqueeze(-1), z.unsqueeze(-1)], -1)


def _plane(u: Tensor) -> Tensor:
    return torch.stack([2 * u[..., 0] - 1, 2 * u[..., 1] - 1, torch.zeros_like(u[..., 0])], -1)


def _torus(u: Tensor) -> Tensor:
    ring, tube = _circle(u[..., 0]), 0.35 * _circle(u[..., 1])
    return torch.cat([ring * (1 + tube[..., :1]), tube[..., 1:]], -1)


def _helix(u: Tensor) -> Tensor:
    """Two turns of a thin wire."""
    return torch.cat([_circle(2 * u[..., 0]), 2 * u[..., :1] - 1], -1)


def second_part(u: Tensor) -> Tensor:
    """Whether a point lies on the lids or the base, where its surface has any. u: (..., 3) uniform numbers -> (..., 1)."""
    return u[..., :1] < 1 / 3


def _prism(outline: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A wall of height 2 (two thirds of the points) and two lids."""

    def surface(u: Tensor) -> Tensor:
        lid, rest = second_part(u), u[..., 2:3]
        up = torch.where(lid, (u[..., :1] < 1 / 6) * 2.0 - 1, 2 * rest - 1)
        return torch.cat([outline(u[..., 1]) * torch.where(lid, rest.sqrt(), 1.0), up], -1)

    return surface


def _pyramid(outline: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A mantle of height 2 (two thirds of the points) and a base."""

    def surface(u: Tensor) -> Tensor:
        base, reach = second_part(u), u[..., 2:3].sqrt()
        return torch.cat([outline(u[..., 1]) * reach, torch.where(base, -1.0, 1 - 2 * reach)], -1)

    return surface


# Class -> surface: (..., 3) uniform numbers -> (..., 3) points. A label is its place here.
SURFACES: dict[str, Callable[[Tensor], Tensor]] = {
    "sphere": _sphere, "plane": _plane, "torus": _torus, "helix": _helix,
    "cylinder": _prism(_circle), "cube": _prism(_polygon(4)), "prism": _prism(_polygon(3)),
    "cone": _pyramid(_circle), "pyramid": _pyramid(_polygon(4)), "tetrahedron": _pyramid(_polygon(3)),
}  # fmt: skip
_SINGLE = ("sphere", "plane", "torus", "helix")
PARTS = tuple(
    (i,) if name in _SINGLE else (2 * i - 4, 2 * i - 3) for i, name in enumerate(SURFACES)
)  # class -> its part labels


def clouds(n: int, points: int, noise: float, generator: Generator, labels: str = "class") -> Split:
    """n clouds, the classes in turn: (n, 3, points), (n,); of parts: (n, 4, points), the fourth channel the class, and (n, points)."""
    y = torch.arange(n) % len(SURFACES)
    u = torch.rand(n, points, 3, generator=generator)
    x = torch.empty(n, points, 3)
    for label, surface in enumerate(SURFACES.values()):
        x[y == label] = surface(u[y == label])
    x = x * (0.7 + 0.6 * torch.rand(n, 1, 3, generator=generator))
    cos, sin = _circle(torch.rand(n, generator=generator)).unbind(-1)
    zero, one = torch.zeros(n), torch.ones(n)
    turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], -1).reshape(n, 3, 3)
    x = x @ turn + noise * torch.randn(x.shape, generator=generator)
    x = x - x.mean(1, keepdim=True)
    x = x / x.norm(dim=2).amax(1).reshape(n, 1, 1)
    x = x.transpose(1, 2).contiguous()
    if labels == "class":
        return x, y
    first, two = (
        torch.tensor(v)[y, None] for v in ([p[0] for p in PARTS], [len(p) == 2 for p in PARTS])
    )
    return torch.cat([x, y[:, None, None].expand(-1, 1, points)], 1), first + (
        second_part(u)[..., 0] & two
    )


class Primitives(PointDataModule):
    """n training clouds (n // 5 held out unless val_size is given) and n // 2 test clouds.

    With labels="part": x as read (N, 4, points), prepared (B, 3 + 10, points), scaled and shifted when training; y (N, points), 0 to 15.
    """

    num_classes = len(SURFACES)

    def __init__(
        self,
        n: int = 1000,
        points: int = 256,
        noise: float = 0.02,
        train_points: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        split_seed: int = 0,
        augment: bool = True,
        val_size: int | None = None,
        labels: str = "class",
    ):
        super().__init__(
            points, train_points, batch_size=batch_size, seed=seed, split_seed=split_seed, augment=augment,
            val_size=n // 5 if val_size is None else val_size,
        )  # fmt: skip
        self.n, self.noise, self.labels = n, noise, labels
        if labels not in ("class", "part"):
            raise ValueError(f"labels must be 'class' or 'part', got {labels!r}")
        if labels == "part":
            if train_points is not None:
                raise ValueError(
                    f"train_points is for labels='class', got {train_points} with labels='part'; leave it out"
                )
            self.tasks, self.parts, self.num_classes = (
                ("part_segmentation",),
                PARTS,
                PARTS[-1][-1] + 1,
            )
            self.in_shape = (3 + len(SURFACES), points)

    def read(self) -> tuple[Split, Split]:
        generator = torch.Generator().manual_seed(0)
        return tuple(
            clouds(n, self.in_shape[1], self.noise, generator, self.labels)
            for n in (self.n, self.n // 2)
        )

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """x: (B, 3, points) as the base class says; of parts (B, 4, points) -> (B, 3 + 10, points)."""
        if self.labels == "class":
            return super().prepare(x, training)
        return with_category(x, len(SURFACES), training and self.augment)
