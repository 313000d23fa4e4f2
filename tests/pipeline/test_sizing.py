import numpy as np
import pytest
from benchmarks.sizing_table import sizing_table

from probekit import estimate
from probekit.extraction.store import ActivationStore
from probekit.pipeline import sizing
from probekit.tokens import TOKENS

SMALL = {
    "parameters": 1e6,
    "layers": 3,
    "hidden_size": 32,
    "prompt_tokens": 10,
    "response_tokens": 20,
}


def test_the_site_has_the_table_that_the_function_gives(repository):
    page = repository / "docs" / "tutorials" / "own-model.md"
    assert sizing_table() in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("questions", [100, 700])
def test_the_store_is_as_large_as_one_that_is_written(questions, tmp_path):
    store = ActivationStore(tmp_path / "a.zarr", questions, min(256, questions), {})
    for start in range(0, questions, 256):
        members = range(start, min(start + 256, questions))
        store.write(members, np.zeros((len(members), 3, len(TOKENS), 32), np.float16))
    written = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    assert estimate(questions=questions, **SMALL)["store_gb"] * 1e9 == pytest.approx(written, 0.05)


def test_what_grows_with_what():
    one = estimate(questions=1000, **SMALL)
    twice = estimate(questions=1000, **SMALL | {"parameters": 2e6})
    assert twice["answer_hours"] == pytest.approx(2 * one["answer_hours"])
    assert twice["fit_hours"] == one["fit_hours"]
    copied = estimate(questions=1000, **SMALL, copied=True)
    assert copied["answer_hours"] == pytest.approx(2 * one["answer_hours"])
    many = estimate(questions=1000, **SMALL, runs=12, devices=4, cores=8, sites=2)
    assert many["answer_hours"] == pytest.approx(3 * one["answer_hours"])
    assert many["fit_hours"] == pytest.approx(3 * one["fit_hours"])
    assert many["store_gb"] == pytest.approx(24 * one["store_gb"])
    assert many["device_gb"] == one["device_gb"]
    assert estimate(questions=1000, **SMALL, n_permutations=0)["fit_hours"] < one["fit_hours"] / 2
    for found in (one, many):
        assert found["hours"] > found["answer_hours"] + found["fit_hours"]


def test_the_default_run_takes_what_the_benchmarks_say():
    found = estimate(**sizing.DEFAULT)
    assert found["answer_hours"] * 3600 == pytest.approx(1196 * 0.077)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"questions": 0}, "questions must be a number from 1 to 1e\\+15, got 0"),
        ({"layers": -1}, "layers must be a number from 1"),
        ({"response_tokens": float("nan")}, "response_tokens must be .*, got nan"),
        ({"devices": "8"}, "devices must be a number .*, got '8'"),
        ({"device": "abacus"}, "device must be one of CPU, A100; got 'abacus'"),
    ],
)
def test_what_can_not_be(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        estimate(**{"questions": 100, **SMALL, **wrong})
