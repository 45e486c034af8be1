"""The classifiers of 004 (Doubov et al., 2022, App. A) by tier: what its experiments share.

CIFAR as the paper has it. DTD and Flowers from the start for 400 epochs along a cosine; learning
rate and weight decay of the grid of Kornblith et al. (2019) for training from the start, 7 by 8,
chosen on the official validation split. The paper does not say whether Inception v3 had its
auxiliary loss: ours has none. Its batches of 256 were accumulated where need be: ours are whole.
"""

from experiments.classifiers import Data, Recipe, Sweep
from experiments.models.digits_mlp import DigitsMLP
from experiments.models.inception import SmallInception
from experiments.models.inception_v3 import InceptionV3
from experiments.models.resnet18 import ResNet18, SmallImageResNet18
from experiments.models.strided_cnn import StridedCNN
from experiments.training import Cosine, Fit, Stepped
from experiments.views import Photographed, Shifted


def _powers(first: int, last: int) -> tuple[float, ...]:
    """Powers of ten by halves of an exponent, both ends included."""
    return tuple(float(f"{10 ** (half / 2):.6g}") for half in range(2 * first, 2 * last + 1))


DIGITS = Data("digits", 500, 400, n_validation=200)
LITTLE = Shifted(pad=1, mirror=False)
SMOKE_MLP = Recipe(
    DigitsMLP((16,), (1, 8, 8)), DIGITS, Sweep(Cosine(10, 50), (0.01, 0.1), (0.0, 1e-3)), LITTLE
)
SMOKE_CNN = Recipe(StridedCNN((4, 8), (1, 8, 8)), DIGITS, Fit(10, 50, 0.05), LITTLE)

MNIST, UPRIGHT = Data("mnist", 3_000, 5_000), Shifted(pad=2, mirror=False)
JPEG, MIRRORED = Data("jpeg", 10_000, 5_000), Shifted()
MNIST_MLP = Recipe(DigitsMLP((128,)), MNIST, Cosine(20, 50, 0.05), UPRIGHT)
MNIST_CNN = Recipe(StridedCNN((8, 16)), MNIST, Cosine(20, 50, 0.05), UPRIGHT)
JPEG_MLP = Recipe(DigitsMLP((128,), (3, 32, 32)), JPEG, Cosine(12, 50, 0.02), MIRRORED)
# Not 0.05: there the training loss of two networks of twenty never leaves that of chance.
JPEG_CNN = Recipe(StridedCNN((16, 32), (3, 32, 32)), JPEG, Cosine(20, 50, 0.02), MIRRORED)

CIFAR_10, CIFAR_100 = Data("original", 50_000, 10_000), Data("cifar100", 50_000, 10_000)
STEPS = Stepped(200, 128, 0.1, 0.9, 5e-4, drops=(0.3, 0.6, 0.8))
CIFAR_10_INCEPTION = Recipe(SmallInception(10), CIFAR_10, STEPS, Shifted())
CIFAR_10_RESNET = Recipe(SmallImageResNet18(10), CIFAR_10, STEPS, Shifted())
CIFAR_100_INCEPTION = Recipe(SmallInception(100), CIFAR_100, STEPS, Shifted())
CIFAR_100_RESNET = Recipe(SmallImageResNet18(100), CIFAR_100, STEPS, Shifted())

DTD, FLOWERS = Data("dtd", 1_880, 1_880, 1_880), Data("flowers", 1_020, 6_149, 1_020)
GRID = Sweep(Cosine(400, 256), _powers(-3, 0), (0.0, *_powers(-5, -2)))
FOR_INCEPTION, FOR_RESNET = Photographed(299, 342), Photographed(224, 256)
DTD_INCEPTION = Recipe(InceptionV3(47), DTD, GRID, FOR_INCEPTION)
DTD_RESNET = Recipe(ResNet18(47), DTD, GRID, FOR_RESNET)
FLOWERS_INCEPTION = Recipe(InceptionV3(102), FLOWERS, GRID, FOR_INCEPTION)
FLOWERS_RESNET = Recipe(ResNet18(102), FLOWERS, GRID, FOR_RESNET)
