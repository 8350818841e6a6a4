"""Print what vLLM answers: greedy ids and their log-probabilities, as one line of JSON.

python vllm_answers.py FOLDER DTYPE "[5, 6, 7]"
"""

import json
import os
import sys

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}

from vllm import LLM, SamplingParams


def answers(folder: str, dtype: str, prompt: list[int]) -> dict[str, list[float]]:
    model = LLM(model=folder, skip_tokenizer_init=True, dtype=dtype, enforce_eager=True, max_model_len=128)
    how = SamplingParams(temperature=0, max_tokens=24, detokenize=False, logprobs=1, ignore_eos=True)
    (found,) = model.generate([{"prompt_token_ids": prompt}], how)
    answer = found.outputs[0]
    ids = [int(token) for token in answer.token_ids]
    return {
        "ids": ids,
        "logprobs": [at[token].logprob for at, token in zip(answer.logprobs, ids, strict=True)],
    }


if __name__ == "__main__":
    folder, dtype, prompt = sys.argv[1:]
    print(json.dumps(answers(folder, dtype, json.loads(prompt))))
