"""torchvision's ResNet-18 (He et al., 2016), for photographs and as adapted to 32 x 32 pixels."""

from dataclasses import dataclass

from torch import nn

from methods.randomness import initial_values


@dataclass(frozen=True)
class ResNet18:
    """torchvision's network with its initial values."""

    num_classes: int = 47

    def build(self, seed: int) -> nn.Module:
        """The network with its initial parameters."""
        from torchvision.models import resnet18

        with initial_values(seed):
            return resnet18(num_classes=self.num_classes).eval()


@dataclass(frozen=True)
class SmallImageResNet18:
    """ResNet18 with a first convolution of 3 x 3, stride 1, and without the first pooling.

    Doubov et al. (2022), App. A.2, for CIFAR.
    """

    num_classes: int = 10

    def build(self, seed: int) -> nn.Module:
        """The network with its initial parameters."""
        from torchvision.models import resnet18

        with initial_values(seed):
            network = resnet18(num_classes=self.num_classes)
            first = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
            nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
            network.conv1, network.maxpool = first, nn.Identity()
        return network.eval()
