"""Learning rate and weight decay chosen on validation examples: a run a trial."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.ensembles.classifiers import Recipe, Sweep, asked, built, everything, learn, load
from experiments.laboratory import runs
from experiments.laboratory.errors import Diverged, UserError
from experiments.laboratory.runs import Run
from experiments.training.plans import Fit

SEED = 0  # of the one network of a trial


@dataclass(frozen=True)
class Trial:
    """One network with one learning rate and weight decay, judged on the validation examples."""

    recipe: Recipe


def trials(recipe: Recipe) -> list[Trial]:
    """The grid of a recipe's sweep, none if its plan is fixed."""
    if not isinstance(recipe.fit, Sweep):
        return []
    if not recipe.data.n_validation:
        raise UserError("data.n_validation is 0: a sweep needs examples to choose by, give some")
    plan = recipe.fit.plan
    return [
        Trial(replace(recipe, fit=replace(plan, lr=lr, weight_decay=decay)))
        for lr in recipe.fit.lrs
        for decay in recipe.fit.decays
    ]


def tried(trial: Trial) -> Run:
    """The run of a trial: `accuracy_validation`, 0 where training diverged."""
    return runs.once("classifier_trial", trial, lambda scratch: _try(trial, scratch))


def planned(recipe: Recipe) -> Fit:
    """The recipe's plan, of a sweep the best on the validation examples, the first of equals."""
    if not isinstance(recipe.fit, Sweep):
        return recipe.fit
    best = max(trials(recipe), key=lambda one: tried(one).metrics["accuracy_validation"])
    assert isinstance(best.recipe.fit, Fit)
    return best.recipe.fit


def _try(trial: Trial, scratch: Path) -> dict[str, Any]:
    recipe, plan = trial.recipe, trial.recipe.fit
    assert isinstance(plan, Fit)
    stack, validation = built(recipe, [SEED]), load(recipe.data).validation
    about = {"lr": plan.lr, "weight_decay": plan.weight_decay}
    try:
        learn(stack, recipe, plan, [SEED], everything(recipe, 1), scratch)
    except Diverged:
        return {"accuracy_validation": 0.0, "diverged": True, **about}
    plain = asked(stack, recipe, validation)
    right = float((plain == validation.label).mean())
    return {"accuracy_validation": right, "diverged": False, **about}
