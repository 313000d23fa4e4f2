"""Grids and controls as netCDF: a group a split, compressed, a checksum in every block."""

import io

import xarray as xr

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


def read_grid(path, split):
    """Read a dataset of a file that `netcdf` made.

    Parameters
    ----------
    path : Path
    split : str

    Returns
    -------
    Dataset

    Raises
    ------
    OSError, KeyError, ValueError
        If the file is damaged or has no such split.
    """
    grid = xr.load_dataset(path, group=split, engine="h5netcdf")
    texts = {n: v.astype(str) for n, v in grid.variables.items() if v.dtype.kind == "O"}
    return grid.assign(texts)
