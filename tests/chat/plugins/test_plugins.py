"""What the plugins answer, and what they refuse."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from xtuner.chat.plugins.calculate import calculate
from xtuner.chat.plugins.formula import FormulaError
from xtuner.chat.plugins.search import Search, SearchError, search_from_environment
from xtuner.chat.plugins.solve import solutions, solve
from xtuner.errors import ConfigError


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("(3 + 4) * 2", "14"),
        ("2^10", "1024"),
        ("7 / 2; 7 // 2；7 % 2", "3.5; 3; 1"),
        ("0.1 + 0.2", "0.3"),
        ("2 * -3 + +1", "-5"),
        ("2(3+4)(2)", "28"),
        ("2pi", "6.283185307"),
        ("1e3 + 2.5E-1", "1000.25"),
        ("3 × 4 ÷ 2 − 1", "5"),
        ("sqrt(2)", "1.414213562"),
        ("max(1, 2, round(2.6))", "3"),
        ("factorial(20)", "2432902008176640000"),
        ("2**100", str(2**100)),
        ("pow(2, -1)", "0.5"),
    ],
)
def test_calculate(expression, answer):
    """Whole numbers are exact, others have ten digits."""
    assert calculate(expression) == answer


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "no expression"),
        ("1 +", "is not a formula"),
        ("1 / 0", "division by zero"),
        ("9**9**9", "too large"),
        ("(-9)**9999999999", "too large"),
        ("2**2000 * 2**2000 * 2**2000", "too large"),
        ("1e308 * 10", "not a real number"),
        ("exp(99999)", "too large"),
        ("factorial(99999)", "too large"),
        ("pow(9, 9**9)", "too large"),
        ("(-1) ** 0.5", "not a real number"),
        ("sqrt(-1)", "sqrt: "),
        ("sqrt(1, 2)", "sqrt: "),
        ("x + 1", "'x' is not a number"),
        ("__import__('os').system('x')", "not part of a formula"),
        ("open(1)", "no function 'open'"),
        ("(1).__class__", "not part of a formula|no formula"),
        ("[1][0]", "not part of a formula"),
        ("'a' * 3", "not part of a formula"),
        ("True + 1", "not part of a formula"),
        ("1 if 1 else 2", "not a formula"),
        ("1 << 99", "LShift is not arithmetic"),
        ("(" * 400 + "1" + ")" * 400, "too many nested|nested too deeply"),
        ("-" * 999 + "1", "nested too deeply|no formula"),
        ("1+" * 600 + "1", "1201 characters"),
    ],
)
def test_calculate_refuses(expression, message):
    """Anything but arithmetic of a reasonable size is answered with a reason."""
    start = time.perf_counter()
    with pytest.raises(FormulaError, match=message):
        calculate(expression)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("equations", "answer"),
    [
        ("x**2 = 4", "x = -2 or x = 2"),
        ("2x + 3 = 7", "x = 2"),
        ("x + y = 3, x - y = 1", "x = 2, y = 1"),
        ("x^2 - 2", "x = -sqrt(2) or x = sqrt(2)"),
        ("0.5 * x == 1/4", "x = 1/2"),
        ("x = x + 1", "there is no solution"),
        ("2x = x + x", "every number is a solution"),
        ("ln(x) = 2", "x = exp(2)"),
    ],
)
def test_solve(equations, answer):
    """Equations with one or several unknowns, exactly."""
    assert solutions(equations) == answer


@pytest.mark.parametrize(
    ("equations", "message"),
    [
        ("", "no unknown"),
        ("1 = 2", "no unknown"),
        ("x = 1 = 2", "more than one equals sign"),
        ("__import__('os') = x", "not part of a formula|no function"),
        ("x.real = 1", "not part of a formula"),
        ("x % 2 = 1", "Mod cannot be solved"),
        ("x = cos(x)", "cannot be solved"),
    ],
)
def test_solve_refuses(equations, message):
    """What is no equation is answered with a reason."""
    with pytest.raises(FormulaError, match=message):
        solutions(equations)


def test_solve_runs_in_a_process_with_limits():
    """The process answers, refuses, and is ended when it takes too long."""
    assert solve("x**2 = 4") == "x = -2 or x = 2"
    with pytest.raises(FormulaError, match="no unknown"):
        solve("1")
    start = time.perf_counter()
    with pytest.raises(FormulaError, match="no solution was found within 2 s"):
        solve("x = factor + 9**9**9**9", seconds=2)
    assert time.perf_counter() - start < 5


class Web(BaseHTTPRequestHandler):
    """serper.dev's answers to a few queries."""

    asked: ClassVar[list] = []

    def do_POST(self):
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers["X-API-KEY"], query))
        if query["q"] == "slow":
            time.sleep(1)
        page = {"title": "Peaks", "snippet": "Everest is high.", "link": "http://peaks"}
        found = {"answerBox": {"answer": "Everest"}, "organic": [page] * 20}
        bodies = {"nothing": b"{}", "broken": b"<html>", "list": b"[]"}
        body = bodies.get(query["q"], json.dumps(found).encode())
        self.send_response({"forbidden": 403, "many": 429}.get(query["q"], 200))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # a client that no longer waits
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def web():
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        Web.asked = []
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_search(web):
    """The answer box comes first, then pages; the key and the query go where they belong."""
    found = Search("my key", web)("tallest mountain" + "!" * 1000)
    assert found[:2] == ["Everest", "Peaks: Everest is high. (http://peaks)"]
    assert len(found) == 10
    ((path, key, query),) = Web.asked
    assert (path, key, query["num"], len(query["q"])) == ("/search", "my key", 10, 500)
    assert Search("k", web)("nothing") == Search("k", web)("list") == ["nothing was found"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("forbidden", "SERPER_API_KEY is not accepted"),
        ("many", "HTTP 429"),
        ("broken", "the search failed: Expecting value"),
        ("slow", "no answer within 0.2 s"),
    ],
)
def test_a_search_that_fails(web, query, message):
    """Each way to fail has its own reason."""
    with pytest.raises(SearchError, match=message):
        Search("k", web, seconds=0.2)(query)


def test_no_server_and_no_key(monkeypatch):
    """Without a server the error names the reason; without a key no request is sent."""
    with pytest.raises(SearchError, match=r"the search failed: .*refused"):
        Search("k", "http://127.0.0.1:9")("x")
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="set the environment variable SERPER_API_KEY"):
        search_from_environment()
    monkeypatch.setenv("SERPER_API_KEY", "k")
    monkeypatch.setenv("SERPER_BASE_URL", "http://x")
    assert search_from_environment() == Search("k", "http://x")
