"""The best of several answers at a real server, with the official client."""

import signal

import pytest

openai = pytest.importorskip("openai", reason="the openai client is not installed")

from tests.chat.server.test_serve import HELLO, Server
from xtuner import cli
from xtuner.scoring.scorer import load_scorer

ASK = {"model": "tiny", "max_tokens": 6, "temperature": 5.0, "seed": 3}


@pytest.fixture(scope="module")
def server(llama_dir, reward_dir):
    words = [
        "--reward",
        reward_dir,
        "--name",
        "tiny",
        "--torch-dtype",
        "fp32",
        "--prompt-template",
        "default",
    ]
    started = Server(llama_dir, *words)
    yield started
    if started.process.poll() is None:
        started.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def scorer(reward_dir):
    return load_scorer(reward_dir)


def test_the_best_answers_of_a_chat_come_first(client, scorer):
    """Two of five, with their scores; all five were generated, which the usage says."""
    plain = client.chat.completions.create(messages=HELLO, n=5, **ASK)
    texts = [choice.message.content for choice in plain.choices]
    assert len(set(texts)) == 5
    scores = scorer.scores([{"messages": [*HELLO, {"role": "assistant", "content": text}]} for text in texts])
    wanted = sorted(zip(scores, texts, strict=True), reverse=True)
    reply = client.chat.completions.create(messages=HELLO, n=2, **ASK, extra_body={"best_of": 5})
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert [choice.message.content for choice in reply.choices] == [text for _, text in wanted[:2]]
    found = [choice.score for choice in reply.choices]
    assert found == pytest.approx([score for score, _ in wanted[:2]], abs=1e-5)
    assert reply.usage.total_tokens == plain.usage.total_tokens
    assert not hasattr(plain.choices[0], "score")


def test_the_best_completion_of_each_prompt(client, scorer):
    """The prompt with its answer is scored as one text; prompts are not compared with each other."""
    prompts = ["who are you", "no"]
    plain = client.completions.create(prompt=prompts, n=3, **ASK)
    texts = [choice.text for choice in plain.choices]
    whole = [prompts[number // 3] + text for number, text in enumerate(texts)]
    scores = scorer.scores(whole)
    wanted = [max(range(start, start + 3), key=scores.__getitem__) for start in (0, 3)]
    reply = client.completions.create(prompt=prompts, best_of=3, **ASK)
    assert [choice.text for choice in reply.choices] == [texts[number] for number in wanted]
    assert [choice.score for choice in reply.choices] == pytest.approx([scores[n] for n in wanted], abs=1e-5)
    echoed = client.completions.create(prompt=prompts, best_of=3, echo=True, **ASK)
    assert [choice.text for choice in echoed.choices] == [whole[number] for number in wanted]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"stream": True}, "best_of scores whole answers to texts: leave stream out"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "leave tools out"),
        ({"n": 5}, "best_of is 4, but must be at least n, which is 5"),
        ({"temperature": 0}, "best_of = 4 with temperature = 0: all answers are the same; raise it"),
        ({"extra_body": {"best_of": 17}}, "less than or equal to 16"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(client, asked, message):
    with pytest.raises(openai.BadRequestError, match=message):
        client.chat.completions.create(**{"messages": HELLO, **ASK, "extra_body": {"best_of": 4}, **asked})


def test_a_model_that_gives_no_scores_is_refused_before_any_is_loaded(llama_dir, capsys):
    assert cli.main(["serve", str(llama_dir), "--reward", str(llama_dir), "--port", "0"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"{llama_dir} is a LlamaForCausalLM, which gives no scores" in message
