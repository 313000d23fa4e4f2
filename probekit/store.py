"""The activation store: one file a shard of examples, in which every cell has its own checksum.

A shard is written whole by the one that extracts it; a reader takes one (layer, token) cell out of
each shard. float16, unless a value overflows it.

A store may come from somebody else, and "not found" is the only error that zarr takes for absent
data: so whatever is opened here is looked through before, and every shard has to be there.
"""

import re
import shutil
from contextlib import contextmanager

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec

from probekit.manifests import DamagedError, explained, files_below, no_links, sync
from probekit.resources import parse_json, reading
from probekit.tokens import TOKENS

SCHEMA_VERSION = 1

_DIMENSIONS = ("example", "layer", "token", "feature")
# What is written here; what a killed write leaves, and what systems put into any folder. Not
# .zgroup and the like: that would be another format, whose codecs may be pickles.
_FILES = re.compile(r"(\w+/)?(zarr\.json|c(/\d+)*)|(.+/)?(\.(?!z)[^/]*|[^/]+\.partial)")
# zarr finds codecs and types by their names, among whatever is installed.
_CODECS = {"sharding_indexed", "bytes", "crc32c", "vlen-utf8"}
_TYPES = {"float16": 2, "float32": 4, "int64": 8, "bool": 1, "string": 0}


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


# What a store may be


def _described(path):
    """Metadata of a store's arrays by name, if nothing is in it but what is written here.

    DamagedError is what can be made again; anything else that is wrong is a ValueError, as it may be
    somebody else's.
    """
    found = {}
    for file in files_below(path):
        name = file.relative_to(path).as_posix()
        if not _FILES.fullmatch(name):
            raise ValueError(_not_ours(file))
        if file.name == "zarr.json":
            try:
                with reading(file):
                    metadata = parse_json(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DamagedError(f"{file} is damaged: {error}.") from error
            if not _is_ours(name.removesuffix("zarr.json").rstrip("/"), metadata):
                raise ValueError(_not_ours(file))
            found[name.removesuffix("zarr.json").rstrip("/")] = metadata
    for name in ("", "activation"):
        if name not in found:
            raise DamagedError(f"{path / name / 'zarr.json'} is not there.")
    del found[""]
    return found


def _not_ours(file):
    return (
        f"{file} is nothing that probekit writes, so the store that it is in is not opened: it "
        "may be of another format, such as Zarr 2, or have codecs that run code. If the run is "
        f"yours, delete {file}, then run the extract stage again."
    )


def _is_ours(name, metadata):
    """Whether the metadata of an array, or of the group, whose name is empty, are such as ours."""
    try:
        if metadata["zarr_format"] != 3:
            return False
        if not name:
            return metadata["node_type"] == "group" and not metadata.get("consolidated_metadata")
        shape, chunks = metadata["shape"], _chunks(metadata)
        key, grid = metadata["chunk_key_encoding"], metadata["chunk_grid"]["name"]
        separator = key.get("configuration", {}).get("separator", "/")
        return (
            metadata["node_type"] == "array"
            and (grid, key["name"], separator) == ("regular", "default", "/")
            and not metadata.get("storage_transformers")
            and metadata["data_type"] in _TYPES
            and _CODECS.issuperset(_codecs(metadata["codecs"]))
            and len(shape) == len(chunks) == len(metadata["dimension_names"])
            and all(type(size) is int and size > 0 for size in (*shape, *chunks))
            and (name != "activation" or _is_sharded(metadata))
        )
    except (KeyError, TypeError, AttributeError, IndexError):
        return False


def _is_sharded(metadata):
    """Whether an array's shards are of examples, and their parts are cells."""
    shard, *others = _chunks(metadata)
    (codec,) = metadata["codecs"]
    return (
        tuple(metadata["dimension_names"]) == _DIMENSIONS
        and metadata["data_type"] in ("float16", "float32")
        and others == metadata["shape"][1:]
        and codec["configuration"]["chunk_shape"] == [shard, 1, 1, others[-1]]
        and list(_codecs([codec])) == ["sharding_indexed", *2 * ["bytes", "crc32c"]]
    )


def _chunks(metadata):
    return metadata["chunk_grid"]["configuration"]["chunk_shape"]


def _codecs(codecs):
    """Names of codecs, and of those inside them."""
    for codec in codecs:
        yield codec["name"]
        for inner in ("codecs", "index_codecs"):
            yield from _codecs(codec.get("configuration", {}).get(inner, []))


def _shard_file(shard):
    return f"activation/c/{shard}/0/0/0"


def _is_whole(path, metadata, shard):
    """Whether a shard's file is there and of a size that it can have: one that isn't reads as NaN.

    Also of no other: a size in the metadata that the files deny would take all memory there is.
    """
    found = no_links(path / _shard_file(shard), path)
    examples, layers, tokens, features = _chunks(metadata)
    cell = examples * features * _TYPES[metadata["data_type"]] + 4  # with its checksum
    index = layers * tokens * 16 + 4
    # Cells without any activation are not stored, but every question has its last token.
    return found is not None and index + cell <= found.st_size <= index + layers * tokens * cell


def check_shards(path):
    """Refuse a store that lacks a shard.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of {str: dict}
        Metadata of its arrays.

    Raises
    ------
    ValueError
        `DamagedError`, if what is wrong can be made again.
    OSError
        If that could not be seen.
    """
    if not no_links(path, path.parent):
        raise DamagedError(f"{path} is not there.")
    arrays = _described(path)
    metadata = arrays["activation"]
    for shard in range(-(-metadata["shape"][0] // _chunks(metadata)[0])):
        if not _is_whole(path, metadata, shard):
            raise DamagedError(f"{path / _shard_file(shard)} is missing or not whole.")
    return arrays


def read_store(path, ids):
    """Activations of the named tokens, read from disk only where they are used.

    Parameters
    ----------
    path : Path
    ids : sequence of str
        Of the answers whose activations these have to be.

    Returns
    -------
    Dataset
        ``activation(example, layer, token, feature)``.

    Raises
    ------
    ValueError, OSError
        As of `check_shards`.
    """
    arrays = check_shards(path)
    shape = arrays.pop("activation")["shape"]
    if shape[0] != len(ids):
        raise DamagedError(f"It holds activations of {shape[0]} answers, but there are {len(ids)}.")
    sizes = dict(zip(_DIMENSIONS, shape, strict=True))
    for name, label in arrays.items():
        if label["shape"] != [sizes.get(d) for d in label["dimension_names"]]:
            raise DamagedError(f"Its {name!r} does not fit its activations.")
    try:
        with reading(path):
            dataset = xr.open_zarr(path, chunks=None, consolidated=False, zarr_format=3)
            # numpy's variable-length strings can't be turned into its fixed ones, Python's can.
            # In the order of their names, as the file system's differs from folder to folder.
            labels = {
                name: variable.astype(object) if variable.dtype.kind == "T" else variable.load()
                for name, variable in sorted(dataset.coords.variables.items())
            }
        same = labels["id"].to_numpy().tolist() == list(ids)
    except (FileNotFoundError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise DamagedError(f"Its labels can't be read: {error}.") from error
    if not same:
        raise DamagedError("Its activations are of other answers, or in another order.")
    dataset = dataset.drop_vars(labels).assign_coords(labels)
    dataset.encoding["shards"] = True  # for `explained_damage`: all are there, and have to stay
    return dataset


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
        """Whether a shard's file is there, of a size that it can have."""
        metadata = self._metadata()
        return metadata is not None and _is_whole(self.path, metadata, shard)

    def is_intact(self, shard):
        """Whether a shard's file is there and all of its checksums are right.

        An OSError says nothing of the file, so it is passed on.
        """
        if not self.has(shard):
            return False
        start, array = shard * self.shard_size, self._open()
        try:
            with reading(self.path / _shard_file(shard)):
                for layer in range(array.shape[1]):
                    array[start : start + self.shard_size, layer]
        except ValueError:
            return False
        return True

    def _metadata(self):
        """The array's metadata, or None if it isn't there or they are damaged."""
        if not no_links(self.path, self.path.parent):
            return None
        try:
            metadata = _described(self.path)["activation"]
        except DamagedError:
            return None
        there = metadata["shape"][0], _chunks(metadata)[0]
        if there != (self.n_examples, self.shard_size):
            raise ValueError(
                f"{self.path} holds activations of {there[0]} answers in shards of {there[1]}; "
                f"this run has {self.n_examples} in shards of {self.shard_size}. Give another run "
                "directory, or delete this one."
            )
        return metadata

    def _open(self):
        """The store's array, or None as of its metadata."""
        if self._metadata() is None:
            return None
        with reading(self.path):
            return zarr.open_group(self.path, mode="r+", zarr_format=3)["activation"]

    def write(self, members, values):
        """Write one shard, so that it outlasts a power cut.

        Parameters
        ----------
        members : range
            Its examples.
        values : array of float16 or float32, (example, layer, token, feature)
        """
        file = self._shard(members)
        with explained(file):
            array = self._array(values.shape[1:], values.dtype)
            # The last shard is not full, so zarr would read what is there, which may be damaged.
            file.unlink(missing_ok=True)
            array[members.start : members.stop] = values
            self._sync(file)

    def adopt(self, members, other):
        """Take over one shard that another process has written into a store of its own.

        Parameters
        ----------
        members : range
            Its examples.
        other : ActivationStore
            With the same examples and shards, on the same file system.
        """
        file, written = self._shard(members), other._shard(members)
        theirs = other._open()
        if theirs is None or not no_links(written, other.path):
            raise ValueError(
                f"{written} is not there, though a worker has written it. See to it that the "
                "workers see the run directory, and that nobody else writes there."
            )
        with explained(file):
            array = self._array(theirs.shape[1:], theirs.dtype)
            if array.dtype == theirs.dtype:
                # The file knows nothing of its place, so it is moved, not read.
                file.parent.mkdir(parents=True, exist_ok=True)
                written.replace(file)
            else:
                array[members.start : members.stop] = theirs[members.start : members.stop]
            self._sync(file)

    def _shard(self, members):
        return self.path / _shard_file(members.start // self.shard_size)

    def _sync(self, file):
        folders = file.relative_to(self.path).parents
        sync(file, *(self.path / folder for folder in folders))

    def settle(self):
        """Finish what a killed run had begun: a complete store that is not yet in its place."""
        whole, new = self._beside("whole"), self._beside("new")
        with explained(self.path):
            if no_links(whole, self.path.parent):
                try:
                    _described(whole)
                except DamagedError:
                    _remove(whole)
                else:
                    _remove(self.path)
                    whole.rename(self.path)
                    sync(self.path.parent)
            _remove(new)

    def _beside(self, kind):
        return self.path.with_name(f".{self.path.name}.{kind}")

    def name_coordinates(self, answers, names):
        """Put labels beside the activations, once all are there.

        Parameters
        ----------
        answers : DataFrame
        names : sequence of str
            Its text columns that become coordinates on example, besides `correct`.

        Raises
        ------
        ValueError
            If a shard is not there.
        """
        with explained(self.path), self._explained_loss():
            shape = check_shards(self.path)["activation"]["shape"]
            self._name_coordinates(answers, names, n_layers=shape[1])
            sync(*_all_below(self.path))

    def check(self, answers):
        """Refuse a store that lacks anything of some answers, as a reader will.

        Parameters
        ----------
        answers : DataFrame

        Raises
        ------
        ValueError
        """
        with self._explained_loss():
            labels = read_store(self.path, answers["id"]).coords
            for name in {*labels} & {*answers}:
                if labels[name].to_numpy().tolist() != answers[name].tolist():
                    raise DamagedError(f"Its {name!r} are not those of the answers.")

    @contextmanager
    def _explained_loss(self):
        try:
            yield
        except DamagedError as error:
            raise ValueError(
                f"{self.path} is not as this run left it: {error} Something else wrote or deleted "
                "there meanwhile. Run the same again, which makes only what is missing."
            ) from error

    def _name_coordinates(self, answers, names, n_layers):
        # What a killed run left: files half written, and some of the labels.
        for stray in files_below(self.path):
            if stray.name.endswith(".partial"):
                stray.unlink()
        for label in self.path.iterdir():
            if label.is_dir() and label.name != "activation":
                shutil.rmtree(label)
        text = np.dtypes.StringDType()
        group = zarr.open_group(self.path, mode="r", zarr_format=3)
        attributes = {k: v for k, v in group.attrs.items() if k != "coordinates"}
        labels = xr.Dataset(
            coords={
                "layer": np.arange(n_layers),
                "token": np.array(TOKENS, dtype=text),
                "correct": ("example", answers["correct"].to_numpy(bool)),
                **{name: ("example", answers[name].to_numpy(text)) for name in names},
            },
            attrs=attributes,  # xarray writes these over those that are there
        )
        encoding = {name: {"compressors": (Crc32cCodec(),)} for name in labels.coords}
        labels.to_zarr(self.path, mode="a", consolidated=False, encoding=encoding, zarr_format=3)

    def _array(self, shape, dtype):
        """The store's array that values of this type fit in, made or widened if need be."""
        array = self._open()
        if array is not None and array.shape[1:] != tuple(shape):
            raise ValueError(
                f"{self.path} holds activations of shape {array.shape[1:]} (layer, token, "
                f"feature), and this run's are {tuple(shape)}. Give another run directory, or "
                "delete this one."
            )
        if array is not None and np.can_cast(dtype, array.dtype):
            return array
        # Made beside its place, and named when it is complete. What is in its place goes then, and
        # `settle` does the rest, whenever a run is killed.
        new_path = self._beside("new")
        _remove(new_path)
        new = self._create(new_path, shape, dtype)
        if array is not None:
            for start in range(0, self.n_examples, self.shard_size):
                # One that is damaged is made again, or missed when the store is checked.
                if self.is_intact(start // self.shard_size):
                    part = slice(start, start + self.shard_size)
                    new[part] = array[part].astype(dtype)
        sync(*_all_below(new_path))
        new_path.rename(self._beside("whole"))
        sync(self.path.parent)
        self.settle()
        return self._open()

    def _create(self, path, shape, dtype):
        layers, tokens, features = shape
        overflows = dtype == np.float32
        group = zarr.create_group(
            path,
            zarr_format=3,
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
            dimension_names=_DIMENSIONS,
        )


def _all_below(folder):
    """A folder's files and folders, and itself."""
    files = files_below(folder)
    return sorted(
        {folder, *files, *(p for file in files for p in file.parents if folder in p.parents)}
    )


def _remove(path):
    """Delete a store that is damaged or out of date, if all that is in it is ours."""
    if not no_links(path, path.parent):
        return
    for file in files_below(path):
        if not _FILES.fullmatch(file.relative_to(path).as_posix()):
            raise ValueError(_not_ours(file))
    shutil.rmtree(path)
