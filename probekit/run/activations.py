"""Activation stores, checked and read: nothing is opened that probekit does not write."""

import re
from contextlib import contextmanager
from pathlib import Path

import xarray as xr

from probekit.run.files import DamagedError, files_below, no_links, parse_json, reading
from probekit.run.variables import described

SCHEMA_VERSION = 1
_DIMENSIONS = ("example", "layer", "token", "feature")

# What is written here; what a killed write leaves, and what systems put into any folder. Not
# .zgroup and the like: that would be another format, whose codecs may be pickles.
_FILES = re.compile(r"(\w+/)?(zarr\.json|c(/\d+)*)|(.+/)?(\.(?!z)[^/]*|[^/]+\.partial)")

# zarr finds codecs and types by their names, among whatever is installed.
_CODECS = {"sharding_indexed", "bytes", "crc32c", "vlen-utf8"}
_TYPES = {"float16": 2, "float32": 4, "int64": 8, "bool": 1, "string": 0}


def _described(path):
    """Metadata of a store's arrays by name, if nothing is in it but what is written here.

    DamagedError is what can be made again; anything else that is wrong is a ValueError, as it may
    be somebody else's.
    """
    found = {}
    for file in files_below(path):
        name = file.relative_to(path).as_posix()
        if not _FILES.fullmatch(name):
            raise ValueError(_not_ours(file))
        if file.name == "zarr.json":
            array = name.removesuffix("zarr.json").rstrip("/")
            try:
                with reading(file):
                    found[array] = parse_json(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DamagedError(f"{file} is damaged: {error}.") from error
            if not _is_ours(array, found[array]):
                raise ValueError(_not_ours(file))
    for name in ("", "activation"):
        if name not in found:
            raise DamagedError(f"{path / name / 'zarr.json'} is not there.")
    del found[""]
    return found


def _not_ours(file):
    return (
        f"{file} is not a file that probekit writes, so its store is not opened: it may be of "
        "another format, such as Zarr 2, or have codecs that run code. If the run is yours, "
        f"delete {file}, then run the extract stage again."
    )


def _is_ours(name, metadata):
    """Whether metadata of an array, or of the group (its name is empty), are as probekit's."""
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
    """Whether a shard's file is there and of a size that fits the metadata.

    A missing one reads as NaN, and too large a size in the metadata would take all memory there is.
    """
    found = no_links(path / _shard_file(shard), path)
    examples, layers, tokens, features = _chunks(metadata)
    cell = examples * features * _TYPES[metadata["data_type"]] + 4  # with its checksum
    index = layers * tokens * 16 + 4
    # Cells without any activation are not stored, but every question has its last token.
    return found is not None and index + cell <= found.st_size <= index + layers * tokens * cell


def check_shards(path):
    """Refuse a store that lacks a shard."""
    if not no_links(path, path.parent):
        raise DamagedError(f"{path} is not there.")
    arrays = _described(path)
    metadata = arrays["activation"]
    for shard in range(-(-metadata["shape"][0] // _chunks(metadata)[0])):
        if not _is_whole(path, metadata, shard):
            raise DamagedError(f"{path / _shard_file(shard)} is missing or not whole.")
    return arrays


def read_store(path, ids):
    """Activations of the named tokens, read from disk only where they are used."""
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
    dataset = described(dataset.drop_vars(labels).assign_coords(labels))
    dataset.encoding["shards"] = True  # for `explained_damage`: all are there, and have to stay
    return dataset


@contextmanager
def explained_damage(activations):
    """Say what to do where a store finds a checksum of its own that is not right, or no file."""
    source = activations.encoding.get("source")
    if source is None or activations["activation"].variable._in_memory:
        yield
        return
    try:
        with reading(source):
            yield
        if activations.encoding.get("shards"):
            # What is not there was read as tokens that the responses lack.
            check_shards(Path(source))
    except ValueError as error:
        raise ValueError(
            f"{source} is damaged: {error} Run the extract stage again, which makes only what is "
            "damaged: probekit run, or its notebook."
        ) from error
