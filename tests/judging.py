"""A server with the interface of OpenAI, in a thread of the test's process, whose replies a test decides."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def judging(reply, name="judge"):
    """The address of a judge, and the requests that it got.

    `reply` makes the text of a reply from the messages, or an HTTP status other than 200.
    """
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._send(200, {"object": "list", "data": [{"id": name, "object": "model"}]})

        def do_POST(self):
            sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append({**sent, "key": self.headers["authorization"]})
            text = reply(sent["messages"])
            if isinstance(text, int):
                self._send(text, {"error": {"message": "no"}})
                return
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            made = {"id": "1", "object": "chat.completion", "created": 0, "model": name, "choices": [choice]}
            self._send(200, made)

        def _send(self, status, body):
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield "http://{}:{}/v1".format(*server.server_address), seen
        finally:
            server.shutdown()
            thread.join(10)
