"""Runs that hold made-up activations in memory, probed when they are made."""

import numpy as np
import xarray as xr

import probekit as pk


class HeldRun(pk.Run):
    """A run of activations (example, layer, token, feature), of which no file is written."""

    def __init__(self, name, X, wrong, controls=False, split="random", probe=None, **columns):
        super().__init__(f"/nowhere/{name}")
        n, layers, tokens, _ = X.shape
        texts = {"question": [f"{name} {i}?" for i in range(n)], "answer": ["yes"] * n} | columns
        texts |= {"id": [f"{name}-{i}" for i in range(n)], "exact_answer": texts["answer"]}
        coords = {key: ("example", np.array(values, object)) for key, values in texts.items()}
        coords |= {"correct": ("example", ~np.asarray(wrong)), "layer": range(layers)}
        coords |= {"token": list(pk.FIGURE_TOKENS[:tokens])}
        about = {"model": "made up", "revision": "0", "site": "mlp_out"}
        dims = ("example", "layer", "token", "feature")
        self.held = xr.Dataset({"activation": (dims, X)}, coords, about)
        settings = {"n_permutations": 0, "progress": False, "n_jobs": 1} | (probe or {})
        self.probed = pk.probe_grid(self.held, split=split, **settings)
        self.known = None
        if controls:
            answers = self.held.coords.to_dataset().drop_vars(["layer", "token"]).to_dataframe()
            self.known = pk.controls(controls(answers.reset_index(drop=True)), self.probed)

    def activations(self, site=None):
        return self.held

    def grid(self, split="random"):
        return self.probed

    def controls(self, split="random"):
        if self.known is None:
            raise FileNotFoundError("no controls")
        return self.known

    def detector(self, split=None):
        return pk.detector(self.probed, self.known)
