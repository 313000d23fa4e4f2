"""A small model, its tokenizer and questions for it, made when they are asked for."""

import csv
import json

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    cities = ["Palermo", "Lyon", "Osaka", "Quito", "Gdańsk", "Nairobi", "Perth", "Lima", "Oslo"]
    countries = ["Italy", "France", "Japan", "Ecuador", "Poland", "Kenya", "Australia", "Peru"]
    sentences = [f"In which country is the city of {city}?" for city in cities]
    sentences += [f"The city of {city} is located in {c}." for city in cities for c in countries]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def tiny_sizes(tokenizer):
    """What the configurations of tiny Llamas and their like have in common."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        # Ten times the default: logits far enough apart that batches of different sizes pick the
        # same tokens, and responses that are not one token over and over.
        "initializer_range": 0.2,
    }


def save_tiny_model(folder, stops=None, layers=3):
    """Save a random-weight Llama and its tokenizer, in the format of the hub.

    Hidden size 32, 4 heads, 2 key-value heads, float32; byte-level BPE of 370 tokens, so that any
    text round-trips; the chat markers of SmolLM2. The same weights every time.

    Parameters
    ----------
    folder : Path
    stops : list of int, optional
        Ids of the tokens that end a response; by default the end of the turn.
    layers : int
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    config = LlamaConfig(num_hidden_layers=layers, **tiny_sizes(tokenizer))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if stops is not None:
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": stops}))


#: Many tokens, so that responses differ in length; not those that `write_questions` looks for.
STOPS = [2, *range(5, 60, 4), *range(100, 250, 5)]

PLACES = [
    "Palermo",
    "Lyon",
    "Osaka",
    "Quito",
    "Gdańsk",
    "Nairobi",
    "Perth",
    "Łódź",
    "Hà Nội",
    "Ulm",
]


def write_questions(folder, n):
    """Write a table whose candidates are words that the random weights happen to say."""
    (folder / "candidates").mkdir(parents=True)
    words = ["Per", "It", "Ecuador", "Poland", "nya", "lo", "is", "th"]
    (folder / "candidates" / "words.csv").write_text("\n".join(["name", *words]) + "\n")
    with open(folder / "questions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "question", "answers", "candidates"])
        for i in range(n):
            asked = " and ".join(PLACES[(i + k) % len(PLACES)] for k in range(1 + i % 4))
            writer.writerow([f"q{n - i}", f"Where is {asked}, number {i}?", "Per|nya|lo", "words"])
    return folder / "questions.csv"
