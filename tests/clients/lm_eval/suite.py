"""lm-evaluation-harness: its three kinds of requests over /v1/completions, with token ids and `echo`, and over chat."""

import json
from pathlib import Path

import lm_eval
import pytest
import requests
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

DEMO = Path(__file__).parents[3] / "demo" / "avibe"  # whose tokenizer makes the ids
QUESTIONS = [
    {"question": "Напиши объявление о продаже велосипеда.", "answers": ["Продаю велосипед.", "и и и", "?"], "best": 0},
    {"question": "Привет!", "answers": ["Здравствуйте!", "57 57 57", "кот велосипед"], "best": 0},
]
TASK = """
task: {kind}
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {data}}}}}
validation_split: validation
output_type: {kind}
doc_to_text: {text}
doc_to_target: {target}
"""
CHOICES = 'doc_to_choice: "{{answers}}"\nmetric_list: [{metric: acc}]\n'
UNTIL = 'generation_kwargs: {until: ["."], max_gen_toks: 12}\nmetric_list: [{metric: exact_match}]\n'
ROLLING = "metric_list: [{metric: byte_perplexity}]\n"


@pytest.fixture
def evaluate(tmp_path, base_url, monkeypatch):
    """Run one task; return the harness's result."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")  # the client insists on one, the service does not
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in QUESTIONS))

    def run(kind, more, text='"{{question}}"', target='"{{best}}"', model="local-completions", route="completions"):
        task = TASK.format(kind=kind, data=data, text=text, target=target)
        (tmp_path / f"{kind}.yaml").write_text(task + more)
        found = lm_eval.simple_evaluate(
            model=model,
            model_args={
                "model": "avibe",
                "base_url": f"{base_url}/{route}",
                "tokenizer": str(DEMO),
                "max_length": 2048,
            },
            tasks=[kind],
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            apply_chat_template="chat" in route,
            bootstrap_iters=0,
        )
        return found["results"][kind], found["samples"][kind]

    return run


@pytest.fixture
def likelihood(base_url):
    """Return the log-probability of a text behind another one, as one request of our own tells it."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO)

    def ask(before, text):
        first = tokenizer.encode(before) or [tokenizer.bos_token_id or tokenizer.eos_token_id]
        ids = [*first, *tokenizer.encode(text)]
        asked = {"model": "avibe", "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 0}
        answer = requests.post(f"{base_url}/completions", json=asked, timeout=60).json()
        return sum(answer["choices"][0]["logprobs"]["token_logprobs"][len(first) :])

    return ask


def test_the_likelihood_of_answers(evaluate, likelihood):
    """Every choice has the log-probability that the service tells of it; the likeliest ones make the accuracy."""
    results, samples = evaluate("multiple_choice", CHOICES)
    right = 0
    for sample, question in zip(samples, QUESTIONS, strict=True):
        told = [likelihood(question["question"], f" {answer}") for answer in question["answers"]]
        assert [found for found, _ in sample["filtered_resps"]] == pytest.approx(told, abs=1e-3)
        right += told.index(max(told)) == question["best"]
    assert results["acc,none"] == pytest.approx(right / len(QUESTIONS))


def test_the_likelihood_of_a_text(evaluate, likelihood):
    """Likewise of a whole text, its first token included."""
    _, samples = evaluate("loglikelihood_rolling", ROLLING, text='""', target='"{{question}}"')
    for sample, question in zip(samples, QUESTIONS, strict=True):
        assert sample["filtered_resps"][0] == pytest.approx(likelihood("", question["question"]), abs=1e-3)


@pytest.mark.parametrize(
    ("model", "route"), [("local-completions", "completions"), ("local-chat-completions", "chat/completions")]
)
def test_an_answer(evaluate, model, route):
    """Until a stop sequence, or as many tokens as are asked for."""
    _, samples = evaluate("generate_until", UNTIL, target='"x"', model=model, route=route)
    answers = [sample["resps"][0][0] for sample in samples]
    assert all(answers)
    assert not any("." in answer for answer in answers)
