"""Procedural point clouds of ten labelled solids and surfaces, for PointNet without a download.

The clouds are the same on every machine. A cloud's points are on the surface. The cloud is
stretched along each axis, turned about the vertical one, roughened, centred and scaled into the
unit sphere, as ModelNet40's clouds are.

With labels="part" the clouds are the same, and every point is labelled with its part of its class:
wall 0 and lids 1 of a prism, mantle 0 and base 1 of a pyramid, the whole of any other. The labels
go on from class to class, 16 in all.
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
        along = t * corners
        side = along.floor()
        start = _circle(side / corners)
        end = _circle((side + 1) / corners)
        return torch.lerp(start, end, (along - side).unsqueeze(-1))

    return outline


def _circle(t: Tensor) -> Tensor:
    """t: (...) in turns -> (..., 2)."""
    angle = 2 * math.pi * t
    x = angle.cos()
    y = angle.sin()
    return torch.stack([x, y], -1)


def _sphere(u: Tensor) -> Tensor:
    z = 2 * u[..., :1] - 1
    squared = 1 - z * z
    radius = squared.sqrt()
    circle = _circle(u[..., 1])
    ring = circle * radius
    return torch.cat([ring, z], -1)


def _plane(u: Tensor) -> Tensor:
    x = 2 * u[..., 0] - 1
    y = 2 * u[..., 1] - 1
    zero = torch.zeros_like(x)
    return torch.stack([x, y, zero], -1)


def _torus(u: Tensor) -> Tensor:
    ring = _circle(u[..., 0])
    tube = 0.35 * _circle(u[..., 1])
    outward = 1 + tube[..., :1]
    up = tube[..., 1:]
    return torch.cat([ring * outward, up], -1)


def _helix(u: Tensor) -> Tensor:
    """Two turns of a thin wire."""
    ring = _circle(2 * u[..., 0])
    up = 2 * u[..., :1] - 1
    return torch.cat([ring, up], -1)


def second_part(u: Tensor) -> Tensor:
    """Whether a point is on the lids or the base, where its surface has any.

    u: (..., 3) uniform numbers -> (..., 1).
    """
    choice = u[..., :1]
    return choice < 1 / 3


def _prism(outline: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A wall of height 2 (two thirds of the points) and two lids."""

    def surface(u: Tensor) -> Tensor:
        lid = second_part(u)
        top = u[..., :1] < 1 / 6
        around = outline(u[..., 1])
        rest = u[..., 2:3]
        up_of_lid = top * 2.0 - 1
        up_of_wall = 2 * rest - 1
        up = torch.where(lid, up_of_lid, up_of_wall)
        reach = torch.where(lid, rest.sqrt(), 1.0)
        return torch.cat([around * reach, up], -1)

    return surface


def _pyramid(outline: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A mantle of height 2 (two thirds of the points) and a base."""

    def surface(u: Tensor) -> Tensor:
        base = second_part(u)
        around = outline(u[..., 1])
        reach = u[..., 2:3].sqrt()
        up_of_mantle = 1 - 2 * reach
        up = torch.where(base, -1.0, up_of_mantle)
        return torch.cat([around * reach, up], -1)

    return surface


# Class -> surface: (..., 3) uniform numbers -> (..., 3) points. A label is its place here.
SURFACES: dict[str, Callable[[Tensor], Tensor]] = {
    "sphere": _sphere,
    "plane": _plane,
    "torus": _torus,
    "helix": _helix,
    "cylinder": _prism(_circle),
    "cube": _prism(_polygon(4)),
    "prism": _prism(_polygon(3)),
    "cone": _pyramid(_circle),
    "pyramid": _pyramid(_polygon(4)),
    "tetrahedron": _pyramid(_polygon(3)),
}
_SINGLE = ("sphere", "plane", "torus", "helix")


def _parts() -> tuple[tuple[int, ...], ...]:
    """Class -> its part labels."""
    parts: list[tuple[int, ...]] = []
    label = 0
    for name in SURFACES:
        count = 1 if name in _SINGLE else 2
        end = label + count
        labels = range(label, end)
        parts.append(tuple(labels))
        label = end
    return tuple(parts)


PARTS = _parts()


def clouds(
    n: int,
    points: int,
    noise: float,
    generator: Generator,
    labels: str = "class",
) -> Split:
    """n clouds, the classes in turn: (n, 3, points), (n,).

    With labels="part": (n, 4, points), the fourth channel the class, and (n, points).
    """
    y = torch.arange(n) % len(SURFACES)
    u = torch.rand(n, points, 3, generator=generator)
    x = torch.empty(n, points, 3)
    for label, surface in enumerate(SURFACES.values()):
        own = y == label
        x[own] = surface(u[own])

    x = _varied(x, noise, generator)
    if labels == "class":
        return x, y

    category = y[:, None, None].expand(-1, 1, points)
    return torch.cat([x, category], 1), _part_labels(u, y)


def _varied(x: Tensor, noise: float, generator: Generator) -> Tensor:
    """Stretched, turned and roughened clouds, in the unit sphere.

    x: (n, points, 3) -> (n, 3, points).
    """
    n = len(x)
    stretch = 0.7 + 0.6 * torch.rand(n, 1, 3, generator=generator)
    x = x * stretch
    turn = _turns(torch.rand(n, generator=generator))
    rough = noise * torch.randn(x.shape, generator=generator)
    x = x @ turn + rough

    x = x - x.mean(1, keepdim=True)
    radius = x.norm(dim=2).amax(1)
    x = x / radius.reshape(n, 1, 1)
    return x.transpose(1, 2).contiguous()


def _part_labels(u: Tensor, y: Tensor) -> Tensor:
    """(n, points): the part of every point. u: (n, points, 3) uniform numbers, y: (n,) classes."""
    first_part = torch.tensor([parts[0] for parts in PARTS])
    has_two = torch.tensor([len(parts) == 2 for parts in PARTS])
    second = second_part(u).squeeze(-1) & has_two[y, None]
    return first_part[y, None] + second


def _turns(t: Tensor) -> Tensor:
    """Rotations about the vertical axis. t: (n,) in turns -> (n, 3, 3)."""
    cos, sin = _circle(t).unbind(-1)
    zero = torch.zeros_like(t)
    one = torch.ones_like(t)
    entries = [cos, -sin, zero, sin, cos, zero, zero, zero, one]
    return torch.stack(entries, -1).reshape(-1, 3, 3)


class Primitives(PointDataModule):
    """n training clouds (n // 5 held out unless val_size is given) and n // 2 test clouds.

    With labels="part", x is (N, 4, points) as read and (B, 3 + 10, points) prepared, scaled and
    shifted when training; y is (N, points), 0 to 15.
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
            points,
            train_points,
            batch_size=batch_size,
            seed=seed,
            split_seed=split_seed,
            augment=augment,
            val_size=n // 5 if val_size is None else val_size,
        )
        self.n = n
        self.noise = noise
        self.labels = labels
        if labels not in ("class", "part"):
            raise ValueError(f"labels must be 'class' or 'part', got {labels!r}")
        if labels == "part":
            if train_points is not None:
                raise ValueError(
                    f"train_points is for labels='class', got {train_points} with labels='part'; "
                    "leave it out"
                )
            self.tasks = ("part_segmentation",)
            self.parts = PARTS
            self.num_classes = sum(map(len, PARTS))
            self.in_shape = (3 + len(SURFACES), points)

    def read(self) -> tuple[Split, Split]:
        generator = torch.Generator().manual_seed(0)
        points = self.in_shape[1]
        train = clouds(self.n, points, self.noise, generator, self.labels)
        test = clouds(self.n // 2, points, self.noise, generator, self.labels)
        return train, test

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """x: (B, 3, points) as the base class says; of parts (B, 4, points) -> (B, 13, points)."""
        if self.labels == "class":
            return super().prepare(x, training)
        return with_category(x, len(SURFACES), training and self.augment)
