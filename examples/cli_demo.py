"""Talk to a model in the terminal: python cli_demo.py, or python cli_demo.py FOLDER (an empty line ends)."""

import sys

from xtuner.chat.session import make_session
from xtuner.chat.trained_with import trained_template
from xtuner.generation.generate import complete
from xtuner.generation.kept_cache import KeptCache
from xtuner.generation.limits import context_length, end_ids
from xtuner.model.loading import load_for_chat

model_name_or_path = "./merged"  # the folder of your model, or its name on the hub

folder = sys.argv[1] if len(sys.argv) > 1 else model_name_or_path
model, tokenizer = load_for_chat(folder)
session = make_session(tokenizer, trained_template([folder]), context=context_length(model))
stop_words, cache = session.template.get("STOP_WORDS") or [], KeptCache()

while question := input("User >>> ").strip():
    print("Model >>> ", end="")
    ids = session.ask(question, max_new_tokens=512)
    show = lambda piece: print(piece, end="", flush=True)  # noqa: E731
    answer = complete(model, tokenizer, ids, stop_words=stop_words, cache=cache, on_text=show, seed=0)
    session.answered(question, answer, end_ids(model, tokenizer))
    print()
