"""Grids and controls as netCDF: a group a split, compressed, a checksum in every block."""

import io

import h5py
import xarray as xr

from probekit import checks

# A grid is always read whole, so each array is one block: nothing is gained by smaller ones, and
# compression loses by them. Level 1 takes a third off and no time that is noticed; higher levels
# take hardly more off.
_STORAGE = {"zlib": True, "complevel": 1, "fletcher32": True}


def netcdf(grids, shuffle=True):
    """Datasets as one netCDF file, a group each.

    In memory, since HDF5 can take the process down with it when the disk is full.

    Parameters
    ----------
    grids : dict of {str: Dataset}
        Per split.
    shuffle : bool
        Compress the bytes of equal rank in all numbers together: better for measurements, worse
        for numbers of which few are different.

    Returns
    -------
    bytes
    """
    file = io.BytesIO()
    for split, grid in grids.items():
        texts = {n: v.astype(object) for n, v in grid.variables.items() if v.dtype.kind in "TUO"}
        encoding = {
            n: {**_STORAGE, "shuffle": shuffle, "chunksizes": v.shape}
            for n, v in grid.variables.items()
            if v.dtype.kind in "fiub" and v.size and v.ndim and n not in grid.dims
        }
        # As arrays of bytes: netCDF's own strings are neither compressed nor checked.
        encoding |= {n: {**_STORAGE, "dtype": "S1"} for n, v in texts.items() if v.ndim and v.size}
        grid.assign(texts).to_netcdf(
            file, mode="a", group=split, engine="h5netcdf", encoding=encoding
        )
    return file.getvalue()


# What the variables of a grid and of its controls are over, and what they hold: numpy's kinds.
_CELL = ("layer", "token")
_GRID = {"auroc": (_CELL, "f"), "score": (("example", *_CELL), "f")}
_GRID |= {"coef": ((*_CELL, "feature"), "f"), "intercept": (_CELL, "f")}
_GRID |= {"layer": (("layer",), "iu"), "token": (("token",), "TUO")}
_CONTROLS = {"auroc": (("control",), "f"), "score": (("control", "example"), "f")}
_CONTROLS |= {"control": (("control",), "TUO")}
_BOTH = {"n_examples": "iu", "auroc_low": "f", "auroc_high": "f", "p_value": "f"}
_NEEDED = {"auroc", "layer", "token", "control"}

# Deflate, shuffle and fletcher32, which HDF5 has built in; others are code that a file may name.
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_LARGEST_RATIO = 1100  # deflate's own is 1032


def read_grid(content, split):
    """Read a dataset of a file that `netcdf` made.

    Parameters
    ----------
    content : bytes
        Of the file.
    split : str

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        If it is not such a file, or has no such split. The file may come from somebody else: HDF5
        lets it name other files to be read, and claim any size.
    """
    try:
        with h5py.File(io.BytesIO(content)) as file:
            _check_contained(file, len(content))
        grid = xr.load_dataset(io.BytesIO(content), group=split, engine="h5netcdf")
    except (OSError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"it is not as it was written: {error}.") from error
    texts = {n: v.astype(str) for n, v in grid.variables.items() if v.dtype.kind == "O"}
    grid = grid.assign(texts)
    _check_form(grid)
    return grid


def _check_contained(file, size):
    """Refuse what makes HDF5 read another file, run a plugin, or fill the memory."""
    claimed = 0
    for split in file:
        members = _member(file, split)
        if not isinstance(members, h5py.Group):
            raise ValueError(f"{split!r} is in it, which is no split.")
        for name in members:
            array = _member(members, name)
            if not isinstance(array, h5py.Dataset):
                raise ValueError(f"{name!r} of {split!r} is no array.")
            made = array.id.get_create_plist()
            filters = {made.get_filter(i)[0] for i in range(made.get_nfilters())}
            if array.external or array.is_virtual or not filters <= _FILTERS:
                raise ValueError(
                    f"{name!r} of {split!r} is kept in another file or in a form that probekit "
                    "does not write, so it is not read."
                )
            claimed += array.size * array.dtype.itemsize
    if claimed > _LARGEST_RATIO * size:
        raise ValueError(
            f"its {size:,} bytes claim to hold {claimed:,}, which they can't, so it is not read."
        )


def _member(group, name):
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name!r} is a link to another place or file, so it is not read.")
    return group[name]


def _check_form(grid):
    """Refuse a dataset that the functions on grids could not use."""
    form = _CONTROLS if "control" in grid.dims else _GRID
    over = form["auroc"][0]
    for name, (dims, kinds) in (form | {n: (over, kinds) for n, kinds in _BOTH.items()}).items():
        if name not in grid.variables:
            if name in _NEEDED:
                raise ValueError(f"it has no {name!r}.")
            continue
        array = grid[name]
        if array.dims != dims or array.dtype.kind not in kinds:
            raise ValueError(
                f"its {name!r} holds {checks.held(array.dtype)} over ({', '.join(array.dims)}), "
                f"and should be over ({', '.join(dims)})."
            )
    for name in over:
        if not grid.indexes[name].is_unique:
            raise ValueError(f"it has a {name} twice.")
