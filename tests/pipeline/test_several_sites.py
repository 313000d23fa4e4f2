"""Several sites are read in one run of the command, and one of them is probed."""

import numpy as np
import pytest
from tiny import write_questions

import probekit as pk
from probekit.__main__ import main
from probekit.pipeline.parameters import check_parameters, read_parameters

SEVERAL = "mlp_out, resid_post"


def read(tmp_path, *pairs, file=None):
    path = tmp_path / "parameters.yaml"
    path.write_text(file or "seed: 0\n")
    return check_parameters(**read_parameters(pairs, path))["site"]


def test_they_are_given_with_commas_or_as_a_list_or_by_repeating_the_name(tmp_path):
    assert read(tmp_path, ("site", "mlp_out,resid_post")) == SEVERAL
    assert read(tmp_path, ("site", " mlp_out , resid_post ")) == SEVERAL
    assert read(tmp_path, ("site", "mlp_out"), ("site", "resid_post")) == SEVERAL
    assert read(tmp_path, file="site: [mlp_out, resid_post]\n") == SEVERAL
    assert read(tmp_path, file="site: mlp_out,resid_post\n") == SEVERAL
    assert read(tmp_path, file="site:\n- mlp_out\n- resid_post\n") == SEVERAL
    assert read(tmp_path, ("site", "attn_out"), file="site: [mlp_out, resid_post]\n") == "attn_out"
    assert check_parameters(site=["mlp_out", "resid_post"])["site"] == SEVERAL  # by hand


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["site", "mlp_out,resid"], "site must be one of mlp_out, attn_out, resid_post, mlp_act, "),
        (["site", "mlp_out,mlp_out"], "site names one twice: 'mlp_out,mlp_out'. Leave one of them"),
        (["probe_site", "mlp_out,attn_out"], "probe_site must be one of mlp_out, attn_out, "),
        (
            ["probe_site", "resid_post"],
            "probe_site='resid_post' is not read in this run: it has mlp_out. To read it too, give "
            '-p site "mlp_out,resid_post".',
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(given, expected, tmp_path, capsys):
    assert main(["run", "--run-dir", str(tmp_path / "run"), "-p", *given]) == 1
    assert f"probekit: {expected}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# A run of the tiny model


@pytest.fixture(scope="module")
def go(stopping_model_dir, tmp_path_factory, forked_kernels):
    """Runs the command on a run of two sites, which is made at first."""
    path = tmp_path_factory.mktemp("runs")
    small = {"model": stopping_model_dir, "questions": write_questions(path, 40), "device": "cpu"}
    small |= {"max_new_tokens": 12, "folds": 2, "n_permutations": 1, "site": SEVERAL}
    given = [part for name, value in small.items() for part in ("-p", name, str(value))]
    given += ["--notebook", "extract", "--notebook", "probe", "--run-dir", str(path / "run")]

    def go(*others):
        assert main(["run", *given, *others]) == 0
        return pk.Run(path / "run")

    go()
    return go


def attributes(run):
    return {split: run.grid(split).attrs["site"] for split in ("random", "published")}


def test_the_first_is_probed_and_then_another(go, stopping_model_dir, capsys):
    run = go()
    assert "probe: nothing has changed" in capsys.readouterr().out
    assert run.manifest("extract")["results"]["sites"] == ["mlp_out", "resid_post"]
    assert run.manifest("probe")["parameters"]["probe_site"] == "mlp_out"
    assert set(attributes(run).values()) == {"mlp_out"}
    first = run.grid("random")
    go("-p", "probe_site", "mlp_out")
    assert "probe: nothing has changed" in capsys.readouterr().out, "it was the first already"

    go("-p", "probe_site", "resid_post", "--dry-run")
    said = capsys.readouterr().out
    assert "extract: nothing has changed" in said
    assert "probe: probe_site was 'mlp_out', now 'resid_post', would be run again" in said
    assert "this would replace the grid of probe_site='mlp_out'." in said
    assert set(attributes(run).values()) == {"mlp_out"}

    go("-p", "probe_site", "resid_post")
    said = capsys.readouterr().out
    assert "extract: nothing has changed" in said
    assert "probe: this replaces the grid of probe_site='mlp_out'." in said
    assert run.manifest("probe")["parameters"]["probe_site"] == "resid_post"
    assert set(attributes(run).values()) == {"resid_post"}
    # The same as by hand from what is stored, and not as of the first.
    options = {"split": "random", "folds": 2, "n_permutations": 0, "n_jobs": 1, "progress": False}
    by_hand = pk.probe_grid(run.activations("resid_post"), **options)
    np.testing.assert_allclose(run.grid("random")["auroc"], by_hand["auroc"], atol=1e-6)
    assert np.nanmax(abs(by_hand["auroc"] - first["auroc"])) > 0.05
    # All that is shown says which it is.
    figure = pk.heatmap(run.grid("random")).to_dict()
    assert "resid_post" in figure["title"]["subtitle"][0]
    assert pk.headline(run).startswith("At resid_post, ")
    # The detector reads new answers where its probes were trained.
    detector, stored = run.detector("random"), run.activations("resid_post")
    expected = detector(stored).sel(id=run.answers()["id"].to_numpy()).to_numpy()
    lm = pk.load_model(stopping_model_dir, device="cpu")
    questions = pk.read_questions(run.path.parent / "questions.csv")
    predicted = detector.predict(lm, questions, max_new_tokens=12)
    np.testing.assert_allclose(predicted["p_error"], expected, atol=1e-4)
    assert np.isfinite(expected).any()
    with pytest.raises(ValueError, match="The activations are of site 'mlp_out', and the detector"):
        detector(run.activations())
    with pytest.raises(ValueError, match=r"is not read in this run: it has mlp_out, resid_post\. "):
        pk.run_pipeline(run.path, stages=["probe"], probe_site="attn_out", progress=False)
