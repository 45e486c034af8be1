"""What trained classifiers are called: their data and their network."""

SOURCES = {
    "digits": "digits",
    "mnist": "MNIST",
    "jpeg": "CIFAR-10 (JPEG)",
    "original": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "dtd": "DTD",
    "flowers": "Flowers",
}
NETWORKS = {
    "DigitsMLP": "MLP",
    "StridedCNN": "CNN",
    "SmallInception": "Inception",
    "InceptionV3": "Inception",
    "SmallImageResNet18": "ResNet-18",
    "ResNet18": "ResNet-18",
}


def named(source: str, network: str) -> str:
    """`data, network` as the papers call them."""
    return f"{SOURCES.get(source, source)}, {NETWORKS.get(network, network)}"
