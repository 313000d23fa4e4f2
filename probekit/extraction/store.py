"""The activation store: one file a shard of examples, in which every cell has its own checksum.

A shard is written whole by the one that extracts it; a reader takes one (layer, token) cell out of
each shard. float16, unless a value overflows it.

A store may come from somebody else, and "not found" is the only error that zarr takes for absent
data: so whatever is opened here is looked through before, and every shard has to be there.
"""

import re
import shutil
from contextlib import contextmanager
from datetime import date

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec

from probekit import arguments
from probekit.run.activations import (
    _DIMENSIONS,
    _FILES,
    SCHEMA_VERSION,
    _chunks,
    _described,
    _is_whole,
    _not_ours,
    _shard_file,
    check_shards,
    read_store,
)
from probekit.run.files import (
    DamagedError,
    explained,
    files_below,
    no_links,
    parse_json,
    reading,
    replacing,
    sync,
    write_json,
)
from probekit.run.manifest import same_file, sealed, unsealed
from probekit.tokens import TOKENS

#: Questions a shard: enough to keep a batch full most of the time, and little to lose.
SHARD = 256

#: What of the answers stands beside the activations, besides whether they are correct.
LABELS = ("id", "question", "exact_answer", "answer", "accepted", "group")

_ELSEWHERE = "Give another run directory, or delete this one."


def half_precision(values):
    """As float16, unless that overflows: some residual streams pass its largest value, 65504."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.isfinite(half).all() else values


def coordinates(answers, n_layers, text, names=LABELS):
    """Labels of activations, of whose answers `correct` may be unknown; `text` is texts' dtype."""
    found = {name: ("example", answers[name].to_numpy(text)) for name in names}
    if "correct" in answers:
        found["correct"] = "example", answers["correct"].to_numpy(bool)
    return found | {"layer": np.arange(n_layers), "token": np.array(TOKENS, dtype=text)}


def attributes(about, dtype):
    """What is said of activations of a dtype, besides what they are about."""
    reason = f"float16 {'overflows' if dtype == np.float32 else 'suffices'}"
    return {**about, "schema_version": SCHEMA_VERSION, "dtype_reason": reason}


class ActivationStore:
    """One site's activations of a run, while they are being written."""

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
            return True
        except ValueError:
            return False

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
                f"this run has {self.n_examples} in shards of {self.shard_size}. {_ELSEWHERE}"
            )
        return metadata

    def _open(self):
        """The store's array, or None as of its metadata."""
        if self._metadata() is None:
            return None
        with reading(self.path):
            return zarr.open_group(self.path, mode="r+", zarr_format=3)["activation"]

    def write(self, members, values):
        """Write one shard, (example, layer, token, feature), so that it outlasts a power cut."""
        file = self._shard(members)
        with explained(file):
            array = self._array(values.shape[1:], values.dtype)
            # The last shard is not full, so zarr would read what is there, which may be damaged.
            file.unlink(missing_ok=True)
            array[members.start : members.stop] = values
            self._sync(file)

    def read(self, members):
        """One shard, (example, layer, token, feature)."""
        with reading(self._shard(members)):
            return self._open()[members.start : members.stop]

    def adopt(self, members, other):
        """Take over one shard that another process has written into a store of its own."""
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
        sync(file, *(self.path / folder for folder in file.relative_to(self.path).parents))

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

    def name_coordinates(self, answers, names=LABELS):
        """Put labels beside the activations, once all are there."""
        with explained(self.path), self._explained_loss():
            n_layers = check_shards(self.path)["activation"]["shape"][1]
            # What a killed run left: files half written, and some of the labels.
            for stray in files_below(self.path):
                if stray.name.endswith(".partial"):
                    stray.unlink()
            for label in self.path.iterdir():
                if label.is_dir() and label.name != "activation":
                    shutil.rmtree(label)
            group = zarr.open_group(self.path, mode="r", zarr_format=3)
            labels = xr.Dataset(
                coords=coordinates(answers, n_layers, np.dtypes.StringDType(), names),
                # xarray writes these over those that are there.
                attrs={k: v for k, v in group.attrs.items() if k != "coordinates"},
            )
            coded = {name: {"compressors": (Crc32cCodec(),)} for name in labels.coords}
            labels.to_zarr(self.path, mode="a", consolidated=False, encoding=coded, zarr_format=3)
            sync(*_all_below(self.path))

    def check(self, answers):
        """Refuse a store that lacks anything of some answers, as a reader will."""
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

    def _array(self, shape, dtype):
        """The store's array that values of this type fit in, made or widened if need be."""
        array = self._open()
        if array is not None and array.shape[1:] != tuple(shape):
            raise ValueError(
                f"{self.path} holds activations of shape {array.shape[1:]} (layer, token, "
                f"feature), and this run's are {tuple(shape)}. {_ELSEWHERE}"
            )
        if array is not None and np.can_cast(dtype, array.dtype):
            return array
        # Made beside its place, and named when it is complete. What is in its place goes then, and
        # `settle` does the rest, whenever a run is killed.
        new_path = self._beside("new")
        _remove(new_path)
        group = zarr.create_group(
            new_path,
            zarr_format=3,
            attributes=attributes(self.attributes, dtype),
        )
        new = group.create_array(
            "activation",
            shape=(self.n_examples, *shape),
            dtype=dtype,
            chunks=(self.shard_size, 1, 1, shape[-1]),
            shards=(self.shard_size, *shape),
            compressors=[Crc32cCodec()],
            fill_value=np.nan,
            dimension_names=_DIMENSIONS,
        )
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


def _all_below(folder):
    """A folder's files, the folders that they are in, and itself."""
    files = files_below(folder)
    folders = {p for file in files for p in file.parents if folder in p.parents}
    return sorted({folder, *folders, *files})


def _remove(path):
    """Delete a store that is damaged or out of date, if all that is in it is ours."""
    if not no_links(path, path.parent):
        return
    for file in files_below(path):
        if not _FILES.fullmatch(file.relative_to(path).as_posix()):
            raise ValueError(_not_ours(file))
    shutil.rmtree(path)


# Nothing else is taken away, whatever a manifest lists: a run may come from somebody else, with
# links in it that lead out of it.
_MENDED = re.compile(r"answers\.parquet|activations\w*\.zarr/(\w+/)?(zarr\.json|c(/\d+)*)")


def claim(run, parameters):
    """Refuse a directory that holds another run; else what `record` wrote of this one, or None."""
    claimed = _claimed(run, run.path / "run.json")
    theirs = claimed["parameters"] if claimed else parameters
    changes = [
        f"{name} was {arguments.shown(theirs.get(name))}, now {arguments.shown(value)}"
        for name, value in parameters.items()
        if value != theirs.get(name)
    ]
    if changes:
        raise ValueError(
            f"{run.path} holds a run with other parameters: {'; '.join(changes)}. {_ELSEWHERE}"
        )
    return claimed


def first_day(run):
    """The day that a run's prompts write, if they write one: that of its first call.

    None if the run recorded none, as one from before days were recorded: then the clock goes on.
    """
    claimed = _claimed(run, run.path / "run.json")
    return claimed["parameters"].get("day") if claimed else date.today().isoformat()


def record(run, parameters, batch_size, deaths=None):
    """Write down a run's parameters and batch size, for the process that continues it."""
    content = {"parameters": parameters, "batch_size": batch_size}
    write_json(run.path / "run.json", sealed(content | ({"deaths": deaths} if deaths else {})))


def _claimed(run, path):
    """What is recorded of the run that is in a directory, or None if there is none."""
    no_links(path, run.path)
    try:
        with reading(path):
            claimed = unsealed(parse_json(path.read_text(encoding="utf-8")))
        return _as_recorded(claimed["parameters"], claimed["batch_size"], claimed.get("deaths", {}))
    except FileNotFoundError:
        problem = "is not there"
    except (ValueError, KeyError, TypeError) as error:
        problem = f"is damaged: {error}"
    try:
        manifest = run.manifest("extract")
        return _as_recorded(manifest["parameters"], manifest["results"]["batch_size"], {})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        if problem == "is not there" and not no_links(run.path / "shards", run.path):
            return None
    raise ValueError(
        f"{path} {problem}, so the settings of the unfinished run in this directory are not known. "
        f"{_ELSEWHERE}"
    )


def _as_recorded(parameters, batch_size, deaths):
    """What `record` writes, if these are of its kinds: a run may come from somebody else."""
    numbers = [batch_size, *(deaths.values() if isinstance(deaths, dict) else [None])]
    if not isinstance(parameters, dict) or not all(type(n) is int for n in numbers):
        raise ValueError("it does not hold parameters and numbers")
    if "day" in parameters:
        date.fromisoformat(parameters["day"])
    return {"parameters": parameters, "batch_size": max(1, batch_size), "deaths": deaths}


def mend(run):
    """Delete damaged outputs of a finished extract stage, so that they are made again.

    Small files that describe a store are written again at once, as the manifest has their text.
    """
    try:
        outputs = run.manifest("extract")["outputs"]
    except (FileNotFoundError, DamagedError):
        return None
    for name in outputs:
        no_links(run.path / name, run.path)
    damaged = [name for name, record in outputs.items() if not same_file(run.path / name, record)]
    for name in filter(_MENDED.fullmatch, damaged):
        path = run.path / name
        arguments.say(f"{path} is missing or damaged: it is made again.")
        if path.name == "zarr.json" and "text" in outputs[name]:
            with replacing(path) as temporary:
                temporary.write_bytes(outputs[name]["text"].encode())
        else:
            with explained(path):
                path.unlink(missing_ok=True)
    return damaged
