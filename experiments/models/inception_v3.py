"""torchvision's Inception v3 (Szegedy et al., 2016), for photographs."""

from dataclasses import dataclass

from torch import nn

from methods.randomness import initial_values


@dataclass(frozen=True)
class InceptionV3:
    """torchvision's network with its initial values, without the auxiliary classifier."""

    num_classes: int = 47

    def build(self, seed: int) -> nn.Module:
        """The network with its initial parameters."""
        from torchvision.models import inception_v3

        with initial_values(seed):
            network = inception_v3(
                weights=None, num_classes=self.num_classes, aux_logits=False, init_weights=True
            )
        return network.eval()
