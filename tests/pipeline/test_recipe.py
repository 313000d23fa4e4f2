"""The recipe of the published figure, on a Mistral of one layer and ten questions of its own."""

import csv
import re

import pytest
import torch
import yaml
from tiny import tiny_sizes

from probekit import Run, load_model
from probekit.__main__ import main
from probekit.extraction.generation import generate

CITIES = ["Palermo", "Lyon", "Osaka", "Quito", "Nairobi", "Perth", "Lima", "Oslo", "Cork", "Bergen"]


@pytest.fixture(scope="module")
def tiny_mistral(tiny_model_dir, tmp_path_factory):
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    config = MistralConfig(num_hidden_layers=1, sliding_window=None, **tiny_sizes(tokenizer))
    with torch.random.fork_rng():
        torch.manual_seed(7)  # of which the responses are ten different words, almost
        model = MistralForCausalLM(config)
    folder = tmp_path_factory.mktemp("mistral") / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ten_questions(tiny_mistral, tmp_path_factory):
    """Ten questions that the tiny model answers, five of them right by construction."""
    lm = load_model(str(tiny_mistral))
    questions = [f"In which country is the city of {city}?" for city in CITIES]
    prompts = [lm.tokenize(lm.prompt(question)) for question in questions]
    made = generate(lm, prompts, (), max_new_tokens=100, batch_size=10)
    ids = {response.index: response.token_ids for response in made}
    texts = [lm.tokenizer.decode(ids[i], skip_special_tokens=True) for i in range(len(questions))]
    # A response answers with its first word that the question does not have.
    words = [
        next(w for w in re.findall(r"(?<![^\W_])[A-Za-z]{4,}(?![^\W_])", text) if w not in question)
        for text, question in zip(texts, questions, strict=True)
    ]
    assert len(set(words)) >= 5
    folder = tmp_path_factory.mktemp("questions")
    (folder / "candidates").mkdir()
    with open(folder / "candidates" / "words.csv", "w", newline="") as file:
        rows = [["name", "aliases", "decoys"], *([word, "", ""] for word in dict.fromkeys(words))]
        csv.writer(file).writerows(rows)
    with open(folder / "ten.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", "candidates"])
        for i, (question, word) in enumerate(zip(questions, words, strict=True)):
            # Of the two that the published protocol tests on, one is right.
            writer.writerow([question, word if i >= 5 else "Atlantis", "words"])
    return folder / "ten.csv"


def test_the_recipe_runs_with_two_parameters_overridden(
    repository, tiny_mistral, ten_questions, tmp_path, forked_kernels
):
    recipe = repository / "data" / "recipes" / "paper.yaml"
    overridden = ["-p", "model", str(tiny_mistral), "-p", "questions", str(ten_questions)]
    folder = tmp_path / "run"
    assert main(["run", "-f", str(recipe), "--run-dir", str(folder), *overridden]) == 0
    run = Run(folder)
    assert len(run.answers()) == 10
    assert run.manifest("extract")["parameters"]["max_new_tokens"] == 100
    assert run.manifest("probe")["results"]["splits"][0] == "published"
    assert run.grid("published").attrs["protocol"] == "published"
    assert run.grid("random").sizes["layer"] == 1
    assert (run.figures / "heatmap.png").stat().st_size > 1000
    assert "for 1 layer and " in (run.path / "description.md").read_text()


def test_the_recipe_says_what_the_paper_did(repository):
    recipe = yaml.safe_load((repository / "data" / "recipes" / "paper.yaml").read_text())
    assert recipe["model"] == "mistralai/Mistral-7B-Instruct-v0.2"
    assert recipe["limit"] == 1000
    assert recipe["site"] == "mlp_out"
    assert recipe["split"] == "published"
