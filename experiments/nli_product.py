"""What a Hessian product of the trained layers costs, beside a pass over the same batch."""

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from experiments.nli_models import Model, trained
from experiments.nli_runtime import Works, one_pass, rounds
from experiments.nli_scores import check_counts
from methods.operators import Hessian
from methods.randomness import numpy_generator, torch_generator
from methods.settings import at_least
from methods.task import take


@dataclass(frozen=True)
class Product:
    """Seconds of both on random batches of training pairs, in turns and with one thread.

    takes is the number of rounds a batch, of which the median counts: others share the machine.
    """

    batch: int = 32
    batches: int = 10
    takes: int = 5

    def run(self, model: Model, scratch: Path) -> dict[str, Any]:
        """Seconds of a product and of a forward and backward pass, (batches,) each."""
        at_least(1, batch=self.batch, batches=self.batches, takes=self.takes)
        there = trained(model)
        check_counts(len(there.pairs), batch=(self.batch,))
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        draw = numpy_generator(model.seed, "batches of products that are timed")
        vector = torch.randn(1, there.task.size, generator=torch_generator(model.seed, "direction"))
        module = deepcopy(there.module).requires_grad_(True)
        unit = partial(one_pass, module, list(module.parameters()))
        found: dict[str, list[float]] = {}
        try:
            for i in range(self.batches):
                chosen = draw.permutation(len(there.pairs))[: self.batch]
                batch = take(there.train, torch.from_numpy(np.sort(chosen)))
                works: Works = {
                    "product": (partial(Hessian(there.task, batch).apply, vector), 1),
                    "product_pass": (partial(unit, batch), 1),
                }
                taken = rounds(works, self.takes + (i == 0))[-self.takes :]  # one to warm up
                for name in works:
                    found.setdefault(name, []).append(median(one[name] for one in taken))
        finally:
            torch.set_num_threads(before)
        product, one = (np.array(found[name]) for name in ("product", "product_pass"))
        return {
            "work": "product",
            "result": f"{np.median(product / one):.3g} passes a Hessian product",
            "product": product,
            "product_pass": one,
            "num_params": there.task.size,
        }
