"""Runs and notes that the artifacts of the fine-tuned vision Transformer share."""

from analysis.numbers import mislabel
from analysis.numbers.frame import Observation, grouped
from experiments.laboratory.runs import Run

PERCENT = {*mislabel.RETRIEVAL.values(), "negative_share", "accuracy_test"}
TIER_NOTES = {
    "smoke": (
        "Smoke tier: the 1,797 digits of 8 x 8 pixels that scikit-learn ships and a ViT of 7,000"
        " parameters. It only shows that every step works; no number compares with the paper's."
    ),
    "small": (
        "Small tier: JPEG-recompressed CIFAR-10, not the original pixels; a ViT of 6 blocks of"
        " width 64 on patches of 8 pixels, 308,000 parameters, trained by SAM on 40,000 images,"
        " then fine-tuned by SAM on 4,000 others; 2,000 test images. It can show whether Arnoldi,"
        " RandProj and the controls are ordered as in the paper and whether the lower layers help."
        " It cannot show what happens at an accuracy of 98.6%, where nearly every wrong label"
        " contradicts a confident prediction. In a model that errs on a third of the images or"
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
    " appendix that was not available.",
)


def observe(runs: list[Run]) -> dict[str, list[Observation]]:
    """The runs by where wrong labels are; `share` is the part of the parameters asked for."""
    groups = grouped(runs, lambda run: str(run.config["model"]["data"]["where"]))
    return {
        where: [mislabel.observation(run, float(run.config["share"]), PERCENT) for run in group]
        for where, group in groups.items()
    }
