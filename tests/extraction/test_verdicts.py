import pytest
import torch

from probekit import load_model
from probekit.extraction.asking import first_of_two, judge, p_true


@pytest.fixture(scope="module")
def tiny(tiny_model_dir):
    return load_model(str(tiny_model_dir))


def test_the_two_words_are_compared_as_a_plain_forward_pass_does(tiny):
    texts = ["Is it so?", "Is it really so, after all?", "Yes or no?", "Is it so?"]
    found = first_of_two(tiny, texts, ("Yes", "No"), batch_size=2)
    for text, share in zip(texts, found, strict=True):
        ids = torch.tensor([tiny.tokenize(tiny.prompt(text))])
        with torch.inference_mode():
            shares = tiny.model(ids).logits[0, -1].softmax(-1)
        # In this tokenizer neither word is one token, so its first piece stands for it.
        one, other = (
            tiny.tokenizer(w, add_special_tokens=False).input_ids[0] for w in ("Yes", "No")
        )
        assert share == pytest.approx(float(shares[one] / (shares[one] + shares[other])), rel=1e-4)
    assert found[0] == found[3]
    assert first_of_two(tiny, [], ("Yes", "No")) == []


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_no_verdict(tiny_model_dir, number):
    lm = load_model(tiny_model_dir)
    with torch.no_grad():
        lm.model.lm_head.weight[5] = number  # neither of the words
    for asked in (lambda: p_true(lm, ["q"], ["r"]), lambda: judge(lm, ["q"], ["r"], [["a"]])):
        with pytest.raises(ValueError, match=r"computes NaN or infinity in torch\.float32 at"):
            asked()


def test_two_words_that_are_both_most_unlikely_are_still_compared(tiny_model_dir):
    """Both probabilities are 0 in float32, and their quotient would be NaN: judged wrong."""
    lm = load_model(tiny_model_dir)
    lm.model.lm_head.register_forward_hook(lambda *found: found[-1] * 100)
    (found,) = first_of_two(lm, ["Is it so?"], ("Yes", "No"))
    assert 0 <= found <= 1
