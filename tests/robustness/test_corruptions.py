"""Guards corrupted images: each kind by hand, and each severity stronger than the last."""

import pytest
import torch

from tbn_bench.robustness import corruptions
from tbn_bench.robustness.corruptions import KINDS, SEVERITIES, corrupted


@pytest.fixture(scope="module")
def images():
    """Smooth ones, in which noise, blur and JPEG show."""
    coarse = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, scale_factor=4)
    return (255 * fine).to(torch.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_severity_changes_more(kind, images):
    """Images stay images of the same shape; the mean change grows with the severity."""
    changes = []
    for severity in SEVERITIES:
        found = corrupted(images, kind, severity)
        assert found.dtype == torch.uint8
        assert found.shape == images.shape
        changes.append((found.float() - images.float()).abs().mean().item())
    assert changes == sorted(changes)
    assert changes[0] > 0


def test_noise_has_its_standard_deviation_and_its_seed():
    grey = torch.full((8, 3, 32, 32), 128, dtype=torch.uint8)
    found = corrupted(grey, "gaussian_noise", 5).float()
    assert found.std().item() == pytest.approx(0.10 * 255, rel=0.02)
    assert torch.equal(found, corrupted(grey, "gaussian_noise", 5).float())
    assert not torch.equal(found, corrupted(grey, "gaussian_noise", 5, seed=1).float())


def test_contrast_by_hand():
    """Two pixels 100 and 200 of one channel: mean 150, so at severity 3 (0.4) 130 and 170."""
    image = torch.tensor([100, 200], dtype=torch.uint8).reshape(1, 1, 1, 2)
    assert corrupted(image, "contrast", 3).flatten().tolist() == [130, 170]


def test_blur_by_hand():
    """Of one bright pixel: its centre is the square of the bell's (sigma 1, cut off at 4)."""
    image = torch.zeros(1, 1, 17, 17, dtype=torch.uint8)
    image[0, 0, 8, 8] = 255
    bell = torch.exp(-0.5 * torch.arange(-4.0, 5.0) ** 2)
    centre = 255 * (1 / bell.sum()) ** 2
    found = corrupted(image, "gaussian_blur", 5)
    assert found[0, 0, 8, 8].item() == round(centre.item())
    assert torch.equal(found, found.flip(2))


def test_grey_images_can_be_jpeg(images):
    assert corrupted(images[:, :1], "jpeg", 5).shape == (4, 1, 32, 32)


def test_what_cannot_be_corrupted_is_named(images):
    with pytest.raises(ValueError, match=r"of uint8, got torch.float32 \(4, 3, 32, 32\)"):
        corrupted(images.float(), "jpeg", 1)
    with pytest.raises(ValueError, match="a severity is 1 to 5, got 6"):
        corrupted(images, "jpeg", 6)
    with pytest.raises(ValueError, match="one of gaussian_noise, .* got 'fog'"):
        corrupted(images, "fog", 1)
    assert corruptions.not_images(images) == ""
