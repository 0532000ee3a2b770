"""Procedural point clouds of ten labelled solids and surfaces, for PointNet without a download; the same clouds on every machine.

A cloud lies on the surface, is stretched along each axis, turned about the vertical one, roughened, centred and scaled into the unit
sphere, as ModelNet40's are.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from tbn_bench.data._base import Split
from tbn_bench.data._points import PointDataModule


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


def _prism(outline: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A wall of height 2 (two thirds of the points) and two lids."""

    def surface(u: Tensor) -> Tensor:
        lid, rest = u[..., :1] < 1 / 3, u[..., 2:3]
        up = torch.where(lid, (u[..., :1] < 1 / 6) * 2.0 - 1, 2 * rest - 1)
        return torch.cat([outline(u[..., 1]) * torch.where(lid, rest.sqrt(), 1.0), up], -1)

    return surface


def _pyramid(outline: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A mantle of height 2 (two thirds of the points) and a base."""

    def surface(u: Tensor) -> Tensor:
        base, reach = u[..., :1] < 1 / 3, u[..., 2:3].sqrt()
        return torch.cat([outline(u[..., 1]) * reach, torch.where(base, -1.0, 1 - 2 * reach)], -1)

    return surface


# Class -> surface: (..., 3) uniform numbers -> (..., 3) points. A label is its place here.
SURFACES: dict[str, Callable[[Tensor], Tensor]] = {
    "sphere": _sphere, "plane": _plane, "torus": _torus, "helix": _helix,
    "cylinder": _prism(_circle), "cube": _prism(_polygon(4)), "prism": _prism(_polygon(3)),
    "cone": _pyramid(_circle), "pyramid": _pyramid(_polygon(4)), "tetrahedron": _pyramid(_polygon(3)),
}  # fmt: skip


def clouds(n: int, points: int, noise: float, generator: Generator) -> Split:
    """n clouds, the classes in turn: (n, 3, points), (n,)."""
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
    return x.transpose(1, 2).contiguous(), y


class Primitives(PointDataModule):
    """n training clouds (n // 5 held out unless val_size is given) and n // 2 test clouds."""

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
    ):
        super().__init__(
            points, train_points, batch_size=batch_size, seed=seed, split_seed=split_seed, augment=augment,
            val_size=n // 5 if val_size is None else val_size,
        )  # fmt: skip
        self.n, self.noise = n, noise

    def read(self) -> tuple[Split, Split]:
        generator = torch.Generator().manual_seed(0)
        return tuple(clouds(n, self.in_shape[1], self.noise, generator) for n in (self.n, self.n // 2))
