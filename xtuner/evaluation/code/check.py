"""Answers that are programs: their code, how it ends, and pass@k.

{"index": "humaneval/1.2", "prediction": "Here it is:\n```python\n..."}
{..., "code": "def f(x): ...", "outcome": "failed", "stderr": "...AssertionError"}
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from xtuner import dist
from xtuner.evaluation.code.layouts import Code
from xtuner.evaluation.code.sandbox import PASSED, Sandbox
from xtuner.evaluation.run_folder import Line

LINES = 12
"""The last lines of standard error that a result keeps."""


def pass_at_k(num: int, correct: int, k: int) -> float:
    """The probability that one of `k` answers passes, drawn from `num` of which `correct` do.

    The unbiased estimator of the HumanEval paper: 1 - C(num - correct, k) / C(num, k).
    """
    return 1 - math.comb(num - correct, k) / math.comb(num, k)


def ks(num: int) -> list[int]:
    """The numbers k for which pass@k of `num` answers is shown."""
    return sorted({1, *(k for k in (10, 100) if k < num), num})


def tested(sandbox: Sandbox, code: Code, line: Line, is_continuation: bool) -> Line:
    """The line of an answer, with its code and how the program of its tests ended."""
    found = code.code_of(line["prediction"], is_continuation)
    outcome = sandbox.run(code.program(found))
    line = {**line, "code": found, "outcome": outcome.kind}
    if outcome.kind != PASSED:
        line["stderr"] = "\n".join(outcome.stderr.splitlines()[-LINES:])
    return line


class Tests:
    """Tests answers beside the model, which goes on with others; at the end of `with` all are tested."""

    def __init__(self, sandbox: Sandbox, is_continuation: bool) -> None:
        self._sandbox, self._is_continuation = sandbox, is_continuation
        per_process = (os.cpu_count() or 1) // max(dist.local_world_size(), 1)
        self._pool = ThreadPoolExecutor(max(1, per_process))
        self._waiting: list[Future[None]] = []

    def add(self, code: Code, line: Line, write: Callable[[Line], None]) -> None:
        """Test the answer of `line`; `write` gets the line with the outcome, in another thread."""
        for future in [future for future in self._waiting if future.done()]:
            future.result()  # a sandbox that could not be made ends the run
            self._waiting.remove(future)

        def test() -> None:
            write(tested(self._sandbox, code, line, self._is_continuation))

        self._waiting.append(self._pool.submit(test))

    def __enter__(self) -> Tests:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._waiting:
                future.result()


def passes(outcomes: Sequence[bool]) -> dict[str, float]:
    """pass@k of the answers to one question."""
    return {f"pass@{k}": pass_at_k(len(outcomes), sum(outcomes), k) for k in ks(len(outcomes))}
