"""The server conforms to its OpenAPI description for any request, by schemathesis."""

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from xtuner.chat.server.app import make_app
from xtuner.chat.server.prompts import PromptWriter
from xtuner.chat.server.scheduler import Scheduler
from xtuner.chat.server.service import Served, Service
from xtuner.generation.limits import context_length
from xtuner.utils import PROMPT_TEMPLATE


@pytest.fixture(scope="module")
def api(llama_dir, tokenizer):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama_dir).eval()
    # Long answers would only cost time.
    model.config.max_position_embeddings = 64
    scheduler = Scheduler(model, tokenizer).start()
    models = [Served("tiny", "tiny", None, PROMPT_TEMPLATE.internlm2_chat)]
    service = Service(
        scheduler,
        models,
        PromptWriter(tokenizer, context_length(model)),
        num_tokens=len(tokenizer),
        max_new_tokens=4,
    )
    yield schemathesis.openapi.from_asgi("/openapi.json", make_app(service))
    scheduler.close()


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_answer_is_described(api, mode):
    """No request fails the server, and each answer has a status and a format in the schema."""
    count = 0
    for operation in (result.ok() for result in api.get_all_operations()):
        generated = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

        @given(case=generated)
        @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def check(case):
            # That the last message must be a user's, and the like, cannot be said in a schema.
            case.call_and_validate(excluded_checks=[schemathesis.checks.positive_data_acceptance])

        if mode == "positive" or operation.body:
            check()
            count += 1
    assert count == {"positive": 10, "negative": 6}[mode]
