"""bitsandbytes is imported without the compiler of torch."""

import subprocess
import sys

import pytest
import torch

from xtuner.model.late_compile import MODULE, _late_compile, compile_bitsandbytes_late


def test_peft_is_imported_without_the_compiler():
    pytest.importorskip("bitsandbytes")
    code = f"import sys, xtuner.model, peft; sys.exit(not ('{MODULE}' in sys.modules"
    code += " and 'torch._inductor.compile_fx' not in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_function_is_compiled_once_at_its_first_call():
    """Functions of other modules at once, as torch does."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    def double(x):
        return 2 * x

    real = torch.compile
    with _late_compile():
        assert torch.compile(test_peft_is_imported_without_the_compiler, disable=True) is not None
        double.__module__ = MODULE
        late = torch.compile(double, backend=backend)
    assert torch.compile is real
    assert compiled == []
    assert [late(torch.ones(2)).tolist() for _ in range(2)] == [[2, 2]] * 2
    assert len(compiled) == 1


def test_it_is_arranged_once():
    before = list(sys.meta_path)
    compile_bitsandbytes_late()
    assert sys.meta_path == before
