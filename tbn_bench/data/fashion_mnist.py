"""Fashion-MNIST (Xiao et al., arXiv 1708.07747).

60,000 training images (5,000 of them held out) and 10,000 test images, 28 x 28.
"""

from tbn_bench.data._idx import IdxImages


class FashionMNIST(IdxImages):
    mean = (0.2860,)
    std = (0.3530,)
    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    folder = "fashion_mnist"
    torchvision_name = "FashionMNIST"
