"""Shards of questions, answered by the workers of a Dask cluster."""

import shutil
import socket
import threading
import uuid
from contextlib import contextmanager
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from probekit.cluster import Stop, completed, this_worker, unwatched
from probekit.extraction.generation import examined
from probekit.extraction.models import LanguageModel, load_model
from probekit.extraction.shards import Tally, answer_shard, fitting_batch, say_again
from probekit.extraction.store import ActivationStore


class Workers:
    """A cluster's workers, each with the model loaded."""

    def __init__(self, client, lm, judge=None):
        self.client = client
        models = [lm, judge] if isinstance(judge, LanguageModel) else [lm]
        if not all(model.request for model in models):
            raise ValueError(
                "Workers load the model themselves, and this one was not loaded by load_model. "
                "Save it with save_pretrained() into a folder that they see, and load that."
            )
        self.models = [(model.request, model.revision) for model in models]
        self.judge = None if isinstance(judge, LanguageModel) else judge
        loaded = self._on_each(describe_model)
        dtypes, devices = (sorted(set(found)) for found in zip(*loaded, strict=True))
        if len(dtypes) > 1:
            raise ValueError(
                f"The workers hold the model in different precisions: {', '.join(dtypes)}. Give "
                "one to load_model(..., dtype=...)."
            )
        self.dtypes, self.device = dtypes[0], ", ".join(devices)
        self.dtype = self.dtypes.partition(" ")[0]

    def _on_each(self, function, *given):
        """What a function gives on each worker, so that one that can't is noticed now."""
        tasks = [(worker, (self.models, *given)) for worker in self.client.nthreads()]
        done = completed(self.client, function, tasks, pinned=True, at_once=1)
        return [result for _, result in done]

    def fitting_batch(self, *sizes):
        """The batch size that fits every worker's memory; sizes as for `shards.fitting_batch`."""
        return min(self._on_each(largest_batch, *sizes))

    def check(self, sites):
        """Refuse a model that the workers can't answer with or read right."""
        for refusal in self._on_each(check_models, sites):
            if refusal:
                raise ValueError(refusal)

    def say_again(self, *given):
        """What `shards.say_again` gives, on one of the workers."""
        [(_, found)] = completed(self.client, repeat, [("again", (self.models, *given))])
        return found

    def answers(self, shards, stores, batch_size, tally, folder):
        """Answer shards and put their activations into the stores."""
        counted = {None: (tally.n, tally.correct)}  # None: what was there before

        def count(number, *state):
            # A shard that is done again counts anew when it has got further than before.
            counted[number] = max(counted.get(number, (0, 0)), state)
            tally.set(*map(sum, zip(*counted.values(), strict=True)))
            tally.bar.refresh()

        # Of this driver only: what a task of one that was killed still writes is never looked at.
        folder = folder / f"by-workers-{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        first = next(iter(stores.values()))
        frame = (first.n_examples, first.shard_size)
        topic, smallest = f"probekit-{folder.name}", batch_size

        def tasks():
            for number, shard in shards.items():
                where = (str(folder), frame, topic, number)
                yield number, (self.models, self.dtypes, self.judge, shard, smallest, *where)

        try:
            for number, (rows, batch_size, written) in completed(
                self.client, answer, tasks(), tally.bar, at_once=1, topic=topic, on_event=count
            ):
                smallest = min(smallest, batch_size)
                count(number, len(rows), int(rows["correct"].sum()))
                for site, store in stores.items():
                    store.adopt(shards[number].members, ActivationStore(written / site, *frame, {}))
                yield number, rows, smallest
        finally:
            shutil.rmtree(folder, ignore_errors=True)


_one_at_a_time = threading.Lock()  # a model's hooks are for one batch
_loaded = {}  # LanguageModel by (request, revision), as text


def _models(wanted):
    """The models of this process, loaded when they are first asked for."""
    keys = [repr(each) for each in wanted]
    # Those of another run go first: two large ones may not fit.
    for other in _loaded.keys() - {*keys}:
        del _loaded[other]
    for key, (request, revision) in zip(keys, wanted, strict=True):
        if key in _loaded:
            continue
        try:
            lm = load_model(**request)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"Worker {socket.gethostname()}: {error}") from error
        if lm.revision != revision:
            raise ValueError(
                f"Worker {socket.gethostname()} has another {lm.name}: revision {lm.revision}, "
                f"the driver's is {revision}."
            )
        _loaded[key] = lm
    return [_loaded[key] for key in keys]


@contextmanager
def _alone():
    """One at a time in this process, with all of its threads and no more."""
    with _one_at_a_time, unwatched():
        threads, before = this_worker().state.nthreads, torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with threadpool_limits(threads):
                yield
        finally:
            torch.set_num_threads(before)  # a worker may be a thread of somebody's session


def describe_model(models):
    """Precisions of some models, which are loaded, and the device of the first."""
    with _alone():
        loaded = _models(models)
        return _precisions(loaded), str(loaded[0].device)


def _precisions(models):
    return " and ".join(str(lm.model.dtype) for lm in models)


def largest_batch(models, *sizes):
    """The batch size that fits this worker's memory."""
    with _alone():
        return fitting_batch(_models(models)[0], *sizes)


def check_models(models, sites):
    """Why these models can't be answered or read right on this worker, or None."""
    with _alone():
        lm, *referee = _models(models)
        try:
            examined(lm).refuse(sites)
            for other in referee:
                examined(other).refuse()
        except ValueError as error:
            return str(error)
    return None


def repeat(models, *given):
    """Known responses, read at other exact answers on this worker."""
    with _alone():
        return say_again(_models(models)[0], *given)


def answer(models, dtypes, judge, shard, batch_size, folder, frame, topic, number):
    """Answer one shard and write its activations; return its rows and where they are."""
    folder = _seen(folder)
    with _alone():
        lm, *referee = loaded = _models(models)
        if _precisions(loaded) != dtypes:  # a worker that came later
            raise ValueError(
                f"Worker {this_worker().address} on {socket.gethostname()} holds the model in "
                f"{_precisions(loaded)}, the others in {dtypes}. Give one to load_model(..., "
                "dtype=...)."
            )
        tally = _RemoteTally(topic, number)
        rows, activations, batch_size = answer_shard(
            lm, shard, batch_size, *(referee or [judge]), tally
        )
    # A folder of this attempt: nobody else writes there, whatever the scheduler believes.
    written = _seen(folder) / uuid.uuid4().hex
    for site, values in activations.items():
        written.mkdir(exist_ok=True)
        ActivationStore(written / site, *frame, {}).write(shard.members, values)
    return rows, batch_size, written


def _seen(folder):
    """The driver's folder, which goes away with the driver."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Worker {socket.gethostname()} does not see {folder.parent}. Workers write "
            "activations into the run directory: put it on a file system that all of them share."
        )
    return folder


class _RemoteTally(Tally):
    """Tells the driver now and then how far a shard is, and stops when it is not wanted."""

    def __init__(self, topic, number):
        super().__init__()
        self.topic, self.number, self.stop = topic, number, Stop()

    def add(self, correct):
        self.stop.check()
        super().add(correct)
        if self.n % 8 == 0:
            self.stop.worker.log_event(self.topic, [self.number, self.n, int(self.correct)])
