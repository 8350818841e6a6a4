"""`xtuner eval MODEL --tasks FILE ...`: a language model on questions with choices, on answers, on texts."""

from __future__ import annotations

import argparse

from xtuner.log import start_console
from xtuner.model_folder import check_model_path
from xtuner.paths import check_adapter_path
from xtuner.tools.arguments.parser import Parser, bits
from xtuner.tools.arguments.processes import add_launcher, join_launched, run_in


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner eval`."""
    parser = Parser(
        "xtuner eval",
        description="Measure a language model: choices by likelihood (MMLU, C-Eval, CMMLU, ARC, HellaSwag, "
        "your own), answers against references, perplexity of texts.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="the model: a folder or a name on the hub")
    add(
        "--tasks",
        nargs="+",
        required=True,
        metavar="[KIND=]PATH",
        help="files or folders of questions; kinds: cmmlu, ceval, hellaswag, arc, mmlu, choices, answers, "
        "perplexity (found by the fields of the rows)",
    )
    add("--adapter", help="the LoRA adapter to put on the model")
    add(
        "--shots",
        type=int,
        metavar="N",
        help="examples before each question (5 for MMLU, C-Eval, CMMLU; else 0)",
    )
    add(
        "--metrics",
        nargs="+",
        default=[],
        metavar="NAME",
        help="of answers: exact, contains, numeric, boxed, letter, bleu, rouge1, rouge2, rougeL, or your own "
        "FILE.py:FUNCTION (those that fit the references)",
    )
    add("--limit", type=int, metavar="N", help="only the first N questions of each task")
    add("--work-dir", help="folder of the results (./work_dirs/eval_<name of the model>)")
    add("--prompt-template", help="form of questions that are answered (the one the model was trained with)")
    add("--system", metavar="TEXT", help="system text of questions that are answered")
    add("--stop-words", nargs="+", default=[], help="texts that end an answer, besides the template's own")
    add("--max-new-tokens", type=int, default=512, help="the longest answer, in tokens (512)")
    add("--batch-size", type=int, default=8, help="answers that are generated at a time (8)")
    add("--batch-tokens", type=int, default=4096, help="tokens of choices and texts at a time (4096)")
    add("--torch-dtype", choices=["fp16", "bf16", "fp32", "auto"], default="fp16", help="precision (fp16)")
    add("--bits", type=bits, metavar="{4,8,None}", help="load the model quantised to so many bits (None)")
    add("--offload-folder", help="where layers go that fit neither GPU nor memory")
    add("--trust-remote-code", action="store_true", help="run Python files that the model brings along")
    add_launcher(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure; returns 0 when the results are written."""
    args = parse_args(argv)
    processes = join_launched(args)
    check_model_path(args.model)
    if args.adapter is not None:
        check_adapter_path(args.adapter)
    if processes is not None:
        return run_in(processes, "eval", argv)
    start_console()
    from xtuner.evaluation.text.measure import Settings, measure
    from xtuner.evaluation.text.results import print_results
    from xtuner.parallel.world import make_world

    options = {name: value for name, value in vars(args).items() if name in Settings.__dataclass_fields__}
    world = make_world()
    outcome = measure(Settings(**options), world)
    if outcome is not None:
        print_results(outcome.results)
        print("\n".join(outcome.notes))
    world.close()
    return 0
