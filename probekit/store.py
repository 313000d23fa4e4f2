"""The activation store: one file a shard of examples, in which every cell has its own checksum.

A shard is written whole by the one that extracts it; a reader takes one (layer, token) cell out of
each shard. float16, unless a value overflows it.
"""

import shutil

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec

from probekit.manifests import explained
from probekit.tokens import TOKENS

SCHEMA_VERSION = 1


def half_precision(values):
    """As float16, unless that overflows: some residual streams pass its largest value, 65504.

    Parameters
    ----------
    values : array of float32

    Returns
    -------
    array of float16 or float32
    """
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.isfinite(half).all() else values


class ActivationStore:
    """One site's activations of a run, while they are being written.

    Parameters
    ----------
    path : Path
        The store's folder, ``activations.zarr``.
    n_examples, shard_size : int
    attributes : dict
        Model, revision and site.
    """

    def __init__(self, path, n_examples, shard_size, attributes):
        self.path = path
        self.n_examples = n_examples
        self.shard_size = shard_size
        self.attributes = attributes

    def has(self, shard):
        """Whether a shard's file is there."""
        return (self.path / self._file(shard)).exists()

    def is_intact(self, shard):
        """Whether a shard's file can be read and all of its checksums are right."""
        array = self._open()
        if array is None:
            return False
        start = shard * self.shard_size
        try:
            for layer in range(array.shape[1]):
                array[start : start + self.shard_size, layer]
        except (ValueError, OSError):
            return False
        return True

    def _open(self):
        """The store's array, or None if there is none that can be read."""
        try:
            return zarr.open_group(self.path, mode="r+")["activation"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _file(self, shard):
        return f"activation/c/{shard}/0/0/0"

    def write(self, members, values):
        """Write one shard.

        Parameters
        ----------
        members : range
            Its examples.
        values : array of float16 or float32, (example, layer, token, feature)
        """
        file = self.path / self._file(members.start // self.shard_size)
        with explained(file):
            array = self._array(values.shape[1:], values.dtype)
            # The last shard is not full, so zarr would read what is there, which may be damaged.
            file.unlink(missing_ok=True)
            array[members.start : members.stop] = values

    def adopt(self, members, other):
        """Take over one shard that another process has written into a store of its own.

        Parameters
        ----------
        members : range
            Its examples.
        other : ActivationStore
            With the same examples and shards, on the same file system.
        """
        theirs = zarr.open_group(other.path, mode="r")["activation"]
        file = self._file(members.start // self.shard_size)
        with explained(self.path / file):
            array = self._array(theirs.shape[1:], theirs.dtype)
            if array.dtype == theirs.dtype:
                # The file knows nothing of its place, so it is moved, not read.
                (self.path / file).parent.mkdir(parents=True, exist_ok=True)
                (other.path / file).replace(self.path / file)
            else:
                array[members.start : members.stop] = theirs[members.start : members.stop]

    def name_coordinates(self, answers, names):
        """Put labels beside the activations, once all are there.

        Parameters
        ----------
        answers : DataFrame
        names : sequence of str
            Its text columns that become coordinates on example, besides `correct`.
        """
        with explained(self.path):
            self._name_coordinates(answers, names)

    def _name_coordinates(self, answers, names):
        # What a killed run left: files half written, and some of the labels.
        for stray in self.path.rglob("*.partial"):
            stray.unlink()
        for label in self.path.iterdir():
            if label.is_dir() and label.name != "activation":
                shutil.rmtree(label)
        text = np.dtypes.StringDType()
        group = zarr.open_group(self.path, mode="r")
        layers = group["activation"].shape[1]
        attributes = {k: v for k, v in group.attrs.items() if k != "coordinates"}
        labels = xr.Dataset(
            coords={
                "layer": np.arange(layers),
                "token": np.array(TOKENS, dtype=text),
                "correct": ("example", answers["correct"].to_numpy(bool)),
                **{name: ("example", answers[name].to_numpy(text)) for name in names},
            },
            attrs=attributes,  # xarray writes these over those that are there
        )
        encoding = {name: {"compressors": (Crc32cCodec(),)} for name in labels.coords}
        labels.to_zarr(self.path, mode="a", consolidated=False, encoding=encoding)

    def _array(self, shape, dtype):
        """The store's array that values of this type fit in, made or widened if need be."""
        array = self._open()
        if array is not None and np.can_cast(dtype, array.dtype):
            return array
        # Made beside its place and moved there, so that a run that is killed leaves no half of it.
        new_path = self.path.with_name(f".{self.path.name}.new")
        new = self._create(new_path, shape, dtype)
        if array is not None:
            for start in range(0, self.n_examples, self.shard_size):
                if self.has(start // self.shard_size):
                    part = slice(start, start + self.shard_size)
                    new[part] = array[part].astype(dtype)
        shutil.rmtree(self.path, ignore_errors=True)
        new_path.rename(self.path)
        return zarr.open_group(self.path, mode="r+")["activation"]

    def _create(self, path, shape, dtype):
        layers, tokens, features = shape
        overflows = dtype == np.float32
        group = zarr.create_group(
            path,
            overwrite=True,
            attributes={
                **self.attributes,
                "schema_version": SCHEMA_VERSION,
                "dtype_reason": "float16 overflows" if overflows else "float16 suffices",
            },
        )
        return group.create_array(
            "activation",
            shape=(self.n_examples, layers, tokens, features),
            dtype=dtype,
            chunks=(self.shard_size, 1, 1, features),
            shards=(self.shard_size, layers, tokens, features),
            compressors=[Crc32cCodec()],
            fill_value=np.nan,
            dimension_names=("example", "layer", "token", "feature"),
        )
