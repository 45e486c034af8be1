"""What the artifacts of the fine-tuned vision Transformer share: its runs by place and share."""

from analysis.numbers.mislabel import Observation
from experiments.laboratory.runs import Run

Place = tuple[str, float]  # where wrong labels are, "test" or "train", and the share asked for

TIER_NOTES = {
    "smoke": (
        "Smoke tier: the 1,797 digits of 8 x 8 pixels that scikit-learn ships and a ViT of 7,000"
        " parameters: that every step works, and no number that compares with the paper's."
    ),
    "small": (
        "Small tier: JPEG-recompressed CIFAR-10, not the original pixels; a ViT of 6 blocks of"
        " width 64 on patches of 8 pixels, 308,000 parameters, trained by SAM on 40,000 images,"
        " then fine-tuned by SAM on 4,000 others; 2,000 test images. It can show whether Arnoldi,"
        " RandProj and the controls are ordered as in the paper and whether the lower layers help."
        " It cannot show what happens at an accuracy of 98.6%, where nearly every wrong label"
        " contradicts a confident prediction: of a model that errs on a third of the images or"
        " more, right labels have large gradients too, so every AUC is lower."
    ),
    "paper": (
        "ViT-L/32 from google/vit-large-patch32-224-in21k, whose pretraining was without SAM;"
        " images are resampled to 224 pixels; 20 eigenvectors of 200 products with 512 images."
    ),
}
DEVIATIONS = (
    "The paper takes a checkpoint trained by SAM on ImageNet. Here pretraining is by SAM on images"
    " of CIFAR-10 that fine-tuning never sees, with the same ten classes and a new head (small and"
    " smoke tiers), or the published checkpoint without SAM (paper tier). Fine-tuning is by SAM.",
    "The paper's number of eigenvectors here, its Table 6 and its recipe of fine-tuning are in an"
    " appendix outside the text at hand.",
)


def observe(found: list[Run]) -> dict[Place, list[Observation]]:
    """The runs by where wrong labels are and by the share of the parameters."""
    seen: dict[Place, list[Observation]] = {}
    for run in found:
        config = run.config
        place = str(config["model"]["data"]["where"]), float(config["share"])
        seed, method = int(config["model"]["seed"]), str(run.metrics["method"])
        seen.setdefault(place, []).append(Observation(seed, method, run))
    return seen
