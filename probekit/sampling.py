"""Draw tokens so that a response depends on its seed, its question and nothing else."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Sampler:
    """Nucleus sampling (Holtzman et al. 2020) with one random number per question and token.

    The numbers come from a counter-based generator, so a response is the same in a batch of any
    size and in a run that was interrupted.
    """

    temperature: float
    top_p: float
    seed: int
    first: int = 0
    """Number of the example that the prompts begin with."""

    def __call__(self, logits, indices, steps):
        """Draw the next token of each row.

        Parameters
        ----------
        logits : torch.Tensor, (rows, vocabulary)
        indices, steps : list of int
            Which prompt a row answers, and how many tokens it has.

        Returns
        -------
        torch.Tensor of int, (rows,)
        """
        shares, tokens = (logits / self.temperature).softmax(-1).sort(descending=True)
        reached = shares.cumsum(-1)
        # The likeliest tokens that together have `top_p`: at least one.
        shares = shares.masked_fill(reached - shares >= self.top_p, 0)
        reached = shares.cumsum(-1)
        drawn = torch.tensor(
            [self._uniform(i, step) for i, step in zip(indices, steps, strict=True)],
            dtype=reached.dtype,
            device=reached.device,
        )
        place = torch.searchsorted(reached, (drawn * reached[:, -1])[:, None], right=True)
        return tokens.gather(-1, place.clamp_max(reached.shape[1] - 1))[:, 0]

    def _uniform(self, index, step):
        key = np.array([self.seed, self.first + index], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(counter=step, key=key)).random()
