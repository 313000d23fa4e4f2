"""Blocks of cells, fitted by the workers of a Dask cluster."""

import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from tqdm import tqdm

from probekit.cluster import Stop, completed, unwatched
from probekit.probing.cells import fit_cell, read_cell

_LARGEST_BLOCK = 16  # cells that are lost at most when a worker dies


def fit_cells(client, activations, cells, kept, plan, fitter, null, progress):
    """Fit the probes of many cells; `kept` are the numbers of the examples that count."""
    threads = sum(client.nthreads().values())
    size = int(np.clip(len(cells) // (4 * threads), 1, _LARGEST_BLOCK))
    blocks = {i: cells[i : i + size] for i in range(0, len(cells), size)}
    stored = StoredActivations.of(activations, kept)
    fitted = {}

    def tasks():
        for start, block in blocks.items():
            # Read when its turn comes: not all are in memory at once.
            sent = stored or [read_cell(activations, *cell, kept) for cell in block]
            yield start, (sent, block, plan, fitter)

    with tqdm(total=len(cells), desc="Probing", unit="cell", disable=not progress) as bar:
        for start, results in completed(client, fit, tasks(), bar=bar):
            fitted[start] = [null.take(*each) for each in zip(blocks[start], results, strict=True)]
            bar.update(len(results))
    return [result for start in blocks for result in fitted[start]]


def fit(cells, block, plan, fitter):
    """Fit the cells of a block, given their activations or where those are."""
    stop, results = Stop(), []
    if isinstance(cells, StoredActivations):
        cells = cells.read(block)
    with unwatched():
        for X in cells:
            stop.check()
            results.append(fit_cell(X, plan, fitter))
    return results


@dataclass(frozen=True)
class StoredActivations:
    """Activations on disk, to be read by another process that sees the same file system."""

    activations: xr.Dataset
    source: str
    files: dict
    kept: np.ndarray

    @classmethod
    def of(cls, activations, kept):
        """None if the activations are in memory, or their file is unknown."""
        source = activations.encoding.get("source")
        array = activations["activation"].variable
        if array._in_memory or array.chunks or not source or not Path(source).exists():
            return None
        lazy = activations[["activation"]].reset_coords(drop=True)
        lazy = lazy.drop_vars([n for n, c in lazy.coords.items() if "example" in c.dims])
        return cls(lazy, str(source), _sizes(source), kept)

    def read(self, block):
        """Activations of some cells, one after the other, of the files that the driver sees."""
        # A shard that is not there would read as missing tokens.
        if _sizes(self.source) != self.files:
            raise FileNotFoundError(
                f"Worker {socket.gethostname()} does not see {self.source} as the driver does. "
                "Workers need the driver's file system; or read the activations into memory "
                "first, to have them sent: activations.load()."
            )
        for layer, token in block:
            yield read_cell(self.activations, layer, token, self.kept)


def _sizes(source):
    source = Path(source)
    files = source.rglob("activation/**/*") if source.is_dir() else [source]
    return {str(path.relative_to(source)): path.stat().st_size for path in files if path.is_file()}
