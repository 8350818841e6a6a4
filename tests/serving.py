"""A server of a model, in a thread of the test's process."""

import threading
from contextlib import contextmanager

from xtuner.chat.server import http
from xtuner.chat.server.app import make_app
from xtuner.chat.server.prompts import PromptWriter
from xtuner.chat.server.scheduler import Scheduler
from xtuner.chat.server.serve import listen
from xtuner.chat.server.service import Served, Service
from xtuner.generation.limits import context_length
from xtuner.utils import PROMPT_TEMPLATE


@contextmanager
def running(model, tokenizer, shutdown_s=5.0, **more):
    """The address of a server in a thread of this process, and the server."""
    scheduler = Scheduler(model, tokenizer).start()
    models = [Served("tiny", "path/to/tiny", None, PROMPT_TEMPLATE.internlm2_chat)]
    prompts = PromptWriter(tokenizer, context_length(model))
    service = Service(scheduler, models, prompts, num_tokens=len(tokenizer), **more)
    listener = listen("127.0.0.1", 0)
    server = http.Server(make_app(service), scheduler, shutdown_s)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield listener.getsockname(), server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
        scheduler.close()
