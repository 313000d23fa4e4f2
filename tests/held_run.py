"""Runs that hold made-up activations in memory, probed when they are made."""

import numpy as np
import xarray as xr

import probekit as pk


class HeldRun(pk.Run):
    """A run of activations (example, layer, token, feature), of which no file is written.

    `options` are for `probe_grid`; `columns` are coordinates of the answers.
    """

    def __init__(self, name, X, wrong, layers=None, model="made up", options=(), **columns):
        super().__init__(f"/nowhere/{name}")
        n = len(X)
        texts = {"question": [f"{name} {i}?" for i in range(n)], "answer": ["yes"] * n} | columns
        texts |= {"id": [f"{name}-{i}" for i in range(n)], "exact_answer": texts["answer"]}
        coords = {key: ("example", np.array(values, object)) for key, values in texts.items()}
        coords |= {"correct": ("example", ~np.asarray(wrong))}
        coords |= {"layer": layers or range(X.shape[1]), "token": pk.FIGURE_TOKENS[: X.shape[2]]}
        coords["token"] = list(coords["token"])
        about = {"model": model, "revision": "0", "site": "mlp_out"}
        self.held = xr.Dataset({"activation": (("example", *_CELL), X)}, coords, about)
        settings = {"n_permutations": 0, "progress": False, "n_jobs": 1} | dict(options)
        self.probed = pk.probe_grid(self.held, **settings)

    def activations(self, site=None):
        return self.held

    def grid(self, split="random"):
        return self.probed

    def controls(self, split="random"):
        raise FileNotFoundError("no controls")

    def detector(self, split=None):
        return pk.detector(self.probed)


_CELL = ("layer", "token", "feature")
