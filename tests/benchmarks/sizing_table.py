"""The table of estimates on the page of own models: python tests/benchmarks/sizing_table.py."""

from probekit.pipeline.sizing import DEFAULT, estimate

MISTRAL = {"parameters": 7.2e9, "layers": 32, "hidden_size": 4096, "key_value_size": 1024}
TRIVIA = {"questions": 10_000, "prompt_tokens": 25, "response_tokens": 50, "copied": True}
GPU = MISTRAL | TRIVIA | {"device": "A100"}

CASES = {
    "the default run, two cores": DEFAULT | {"key_value_size": 192},
    "TriviaQA, 10,000 questions, a 7B model, one A100 (assumed) and 16 cores": GPU | {"cores": 16},
    "four such models x ten such files, eight A100 (assumed) and 128 cores": GPU
    | {"runs": 40, "devices": 8, "cores": 128},
}


def sizing_table():
    """The table, a row a case."""
    lines = [
        "| | answering | probes | all | store | memory of a device | memory for probes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, case in CASES.items():
        found = estimate(**case)
        hours = [_time(found[n]) for n in ("answer_hours", "fit_hours", "hours")]
        sizes = [f"{_round(found[n])} GB" for n in ("store_gb", "device_gb", "fit_gb")]
        lines.append(f"| {' | '.join([name, *hours, *sizes])} |")
    return "\n".join(lines)


def _time(hours):
    return f"{_round(60 * hours)} min" if hours < 1 else f"{_round(hours)} h"


def _round(value):
    """To two figures, which is more than is known."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


if __name__ == "__main__":
    print(sizing_table())
