"""Learning rate and weight decay chosen on validation examples; each trial is a run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.ensembles import classifiers
from experiments.laboratory import runs
from experiments.laboratory.errors import Diverged, UserError
from experiments.laboratory.runs import Run
from experiments.laboratory.work import Work
from experiments.training.plans import Fit

SEED = 0  # of the one network of a trial


@dataclass(frozen=True)
class Trial:
    """One network with one learning rate and weight decay, judged on validation examples."""

    recipe: classifiers.Recipe


def trials(recipe: classifiers.Recipe) -> list[Trial]:
    """The trials of a recipe's sweep; none if its plan is fixed."""
    if not isinstance(recipe.fit, classifiers.Sweep):
        return []
    if not recipe.data.n_validation:
        raise UserError("data.n_validation is 0, but a sweep chooses by them: give a number")
    plan = recipe.fit.plan
    return [
        Trial(replace(recipe, fit=replace(plan, lr=lr, weight_decay=decay)))
        for lr in recipe.fit.lrs
        for decay in recipe.fit.decays
    ]


def result(trial: Trial) -> Run:
    """The run of a trial with `accuracy_validation`, 0 if training diverged."""
    return runs.once("classifier_trial", trial, lambda scratch: _try(trial, scratch))


def works(recipe: classifiers.Recipe) -> tuple[Work, ...]:
    """What the trials of a recipe take; none if its plan is fixed."""
    return tuple(
        classifiers.work("classifier_trial", trial, trial.recipe, 1, kept=False)
        for trial in trials(recipe)
    )


def planned(recipe: classifiers.Recipe) -> Fit:
    """The recipe's plan; for a sweep, the best on validation examples, the first among equals."""
    if not isinstance(recipe.fit, classifiers.Sweep):
        return recipe.fit
    best = max(trials(recipe), key=lambda one: result(one).metrics["accuracy_validation"])
    assert isinstance(best.recipe.fit, Fit)
    return best.recipe.fit


def _try(trial: Trial, scratch: Path) -> dict[str, Any]:
    recipe, plan = trial.recipe, trial.recipe.fit
    assert isinstance(plan, Fit)
    stack, validation = classifiers.built(recipe, [SEED]), classifiers.load(recipe.data).validation
    about = {"lr": plan.lr, "weight_decay": plan.weight_decay}
    try:
        classifiers.learn(stack, recipe, plan, [SEED], classifiers.everything(recipe, 1), scratch)
    except Diverged:
        return {"accuracy_validation": 0.0, "diverged": True, **about}
    right = float((classifiers.classify(stack, recipe, validation) == validation.label).mean())
    return {"accuracy_validation": right, "diverged": False, **about}
