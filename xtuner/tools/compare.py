"""`xtuner compare A B DATA`: the answers of two models to the same rows, side by side, and votes on them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from xtuner import dist
from xtuner.data_files import check_there, named_files
from xtuner.errors import ConfigError
from xtuner.language import language, translate
from xtuner.tools.arguments.answering import add_answering, add_judge, add_sampling
from xtuner.tools.arguments.parser import Parser
from xtuner.tools.arguments.processes import run_measurement


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner compare`."""
    parser = Parser(
        "xtuner compare",
        description="Two models on the same rows: a page with both answers and what differs, scores if the "
        "rows have answers, and votes.",
    )
    add = parser.add_argument
    add("a", metavar="A", help="a model, an adapter, or a file that xtuner predict wrote")
    add("b", metavar="B", help="the one to compare it with")
    add(
        "data",
        metavar="DATA",
        nargs="?",
        help="the rows: a file, a folder or a name on the hub, in any format that training reads",
    )
    add("--base", metavar="MODEL", help="the model of adapters (the one that they name)")
    add("--limit", type=int, metavar="N", help="only the first N rows")
    add("--work-dir", help="folder of the results (./work_dirs/compare_<A>_<B>)")
    add("--vote", action="store_true", help="serve the page, with buttons to vote which answer is better")
    add("--blind", action="store_true", help="with --vote: the page shows neither names nor scores")
    add("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1: this machine only)")
    add("--port", type=int, default=8502, help="the port to listen at, 0: any that is free (8502)")
    add_judge(
        parser, "the model at this address says which answer is better, in both orders: http://host:8000/v1"
    )
    add_sampling(parser)
    add_answering(parser, adapter=False)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Compare, and serve the page for votes if asked; returns 0 when the files are written."""
    args = parse_args(argv)
    from xtuner.evaluation.compare.sides import answer_both, folder_of, read_sides, write_comparison

    if args.blind and not args.vote:
        raise ConfigError(translate("--blind is for votes: add --vote"))
    sides = read_sides(args.a, args.b, args.data, args.base)
    folder = folder_of(sides, args.work_dir)
    names = sides[0].name, sides[1].name

    def check() -> None:
        for side in sides:
            side.check()
        for file in (args.data and named_files(args.data)) or ():
            check_there(file)

    def measure(world: Any) -> Sequence[str] | None:
        from xtuner.evaluation.compare.pairs import read_pairs
        from xtuner.evaluation.judge.duels import judge_pairs
        from xtuner.evaluation.text.settings import Settings

        judge = _judge(args) if world.is_first else None  # before anything is answered
        given = {name: value for name, value in vars(args).items() if name in Settings.__dataclass_fields__}
        answer_both(sides, Settings(**{**given, "model": args.a}), args.data, folder, world)
        if not world.is_first:
            return None
        if judge is not None:
            pairs, _ = read_pairs((folder / "a.jsonl", folder / "b.jsonl"))
            judge_pairs(judge, pairs, folder)
        return write_comparison(folder, names, args.metrics)[1]

    code = run_measurement("compare", args, argv, check, measure)
    # Of several processes, the one that has started the others serves.
    if code == 0 and args.vote and not dist.is_launched():
        _vote(args, folder, names)
    return code


def _judge(args: argparse.Namespace) -> Any:
    """The judge, if there is to be one."""
    if args.judge is None:
        if args.judge_model or args.judge_prompt:
            raise ConfigError(translate("--judge-model and --judge-prompt are for --judge URL: add it"))
        return None
    from xtuner.evaluation.judge.forms import COMPARE
    from xtuner.evaluation.judge.judge import Judge

    return Judge(args.judge, args.judge_model, COMPARE, args.judge_prompt, args.concurrency)


def _vote(args: argparse.Namespace, folder: Any, names: tuple[str, str]) -> None:
    from xtuner.chat.server.serve import listen
    from xtuner.evaluation.compare.pairs import score
    from xtuner.evaluation.compare.server import Ballot, serve
    from xtuner.evaluation.compare.sides import write_comparison
    from xtuner.evaluation.compare.votes import Votes
    from xtuner.json_lines import repair
    from xtuner.locks import writing

    file = folder / "votes.jsonl"
    with writing(file, translate("the file of votes")):
        repair(file)
        pairs, _ = write_comparison(folder, names, args.metrics)
        votes = Votes(file, pairs)
        seed = args.seed if args.blind else None
        ballot = Ballot(names, pairs, score(pairs), votes, seed, language())
        try:
            serve(ballot, listen(args.host, args.port))
        finally:
            # The page and the numbers with the votes.
            write_comparison(folder, names, args.metrics)
            print("\n".join(votes.summary().lines(names)))
