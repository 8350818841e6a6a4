"""Servers with the interface of OpenAI, in a thread of the test's process, whose replies a test decides."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def replying(get, post):
    """The address of a server.

    `get` is its reply to a GET: status, headers, body; `post` makes that to a POST from its path, headers and
    body.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._send(*get)

        def do_POST(self):
            sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._send(*post(self.path, {name.lower(): value for name, value in self.headers.items()}, sent))

        def _send(self, status, headers, body):
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": len(content)}.items():
                self.send_header(name, str(value))
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield "http://{}:{}/v1".format(*server.server_address)
        finally:
            server.shutdown()
            thread.join(10)


@contextmanager
def judging(reply, name="judge"):
    """The address of a judge, and the requests that it got.

    `reply` makes the text of a reply from the messages, or an HTTP status other than 200.
    """
    seen = []

    def post(path, headers, sent):
        seen.append({**sent, "key": headers.get("authorization")})
        text = reply(sent["messages"])
        if isinstance(text, int):
            return text, {}, {"error": {"message": "no"}}
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        made = {"id": "1", "object": "chat.completion", "created": 0, "model": name, "choices": [choice]}
        return 200, {}, made

    models = {"object": "list", "data": [{"id": name, "object": "model"}]}
    with replying((200, {}, models), post) as address:
        yield address, seen
