"""MNIST (LeCun et al., 1998).

60,000 training digits (5,000 of them held out) and 10,000 test digits, 28 x 28.
"""

from tbn_bench.data._idx import IdxImages


class MNIST(IdxImages):
    mean = (0.1307,)
    std = (0.3081,)
    class_names = tuple("0123456789")
    folder = "mnist"
    torchvision_name = "MNIST"
