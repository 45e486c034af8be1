"""BLEU by sacreBLEU, with the signature that says how it was computed (Post, 2018)."""

from collections.abc import Sequence
from typing import Any

from experiments.problems import UserError


def scorer() -> Any:
    """sacreBLEU's own scorer at its defaults; asked for before hours of training that need it."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise UserError(
            "BLEU needs sacrebleu, which is not installed: `pip install -e '.[translation]'`"
        ) from error
    return BLEU()


def bleu(translations: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Corpus BLEU, 0 to 100, and its signature."""
    metric = scorer()
    found = metric.corpus_score(list(translations), [list(references)])
    return float(found.score), str(metric.get_signature())
