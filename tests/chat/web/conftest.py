"""A server with known answers, and the work dir of a run."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("streamlit", reason="xtuner[web] is not installed")


class _Handler(BaseHTTPRequestHandler):
    """A server like OpenAI's that returns the last message word by word."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        poet = {"id": "poet", "input_modalities": ["text"]}
        self._send(200, {"data": [{"id": "tiny", "input_modalities": ["text", "image"]}, poet]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        text = body["messages"][-1]["content"]
        text = text if isinstance(text, str) else text[-1]["text"]
        if text == "refuse":
            self._send(429, {"error": {"message": "256 requests wait already"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        words = ["You ", "said **", text, "**"]
        for word in words if text != "endless" else iter(lambda: "more ", None):
            try:
                self._event({"choices": [{"index": 0, "delta": {"content": word}}]})
            except OSError:
                self.server.hung_up.set()
                return
            self.server.pause.wait(0.01 if text == "endless" else 0)
        if text == "broken":
            self._event({"error": {"message": "the model failed"}})
            return
        notices = ["2 oldest turns were left out"] if text == "long" else []
        self._event({"choices": [], "usage": {"completion_tokens": 4}, "notices": notices})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, value):
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def _send(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server():
    """A running server; `url`, the requests `asked`, whether a client `hung_up`."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    httpd.asked, httpd.hung_up, httpd.pause = [], threading.Event(), threading.Event()
    httpd.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
    thread.start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def work_dir(tmp_path):
    """Two runs, samples at two iterations, two checkpoints; the last line of scalars is half written."""
    place = tmp_path / "work_dirs" / "my_run"
    run = place / "20261121_092003"
    (run / "vis_data").mkdir(parents=True)
    (place / "20261120_080000" / "vis_data").mkdir(parents=True)
    rows = [
        {
            "lr": 1e-4 * i,
            "loss": 5.0 / i,
            "memory": 500 + i,
            "tokens_per_sec": 900.0 + i,
            "iter": i,
            "step": i,
        }
        for i in range(1, 21)
    ]
    lines = [json.dumps(row) for row in rows] + ['{"lr": 0.1, "lo']
    (run / "vis_data" / "scalars.json").write_text("\n".join(lines))
    (run / "20261121_092003.log").write_text(
        "2026/11/21 09:20:06 - mmengine - INFO - Iter(train) [10/96]  lr: 9.8e-04  eta: 0:00:22  time: 0.2\n"
        "2026/11/21 09:20:08 - mmengine - INFO - Iter(train) [20/96]  lr: 9.2e-04  eta: 0:00:18  time: 0.2\n"
    )
    for at, name in ((9, "nobody"), (19, "XTuner")):
        text = f"Eval output 1:\nWho are you?\nI am {name}.\n\nEval output 2:\n你是谁\n我是 {name}。\n\n"
        (run / "vis_data" / f"eval_outputs_iter_{at}.txt").write_text(text)
    (place / "iter_10.pth").write_bytes(b"x" * 1_500_000)
    (place / "iter_20.pth").mkdir()
    (place / "iter_20.pth" / "mp_rank_00_model_states.pt").write_bytes(b"x" * 2_500_000)
    (place / "last_checkpoint").write_text(str(place / "iter_20.pth"))
    return place
