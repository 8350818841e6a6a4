"""`xtuner mmbench MODEL --data-path X.tsv`: a vision-language model on MMBench, MME, POPE, ..."""

from __future__ import annotations

import argparse

from xtuner.tools.arguments.vision import make_parser, run

BENCHMARKS = ("auto", "mmbench", "mme", "hallusionbench", "pope", "textvqa")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner mmbench`."""
    parser = make_parser(
        "mmbench", "Measure a vision-language model on questions: MMBench, CCBench, MME, POPE, TextVQA, ..."
    )
    add = parser.add_argument
    add(
        "--benchmark",
        choices=BENCHMARKS,
        default="auto",
        metavar="NAME",
        help="auto (found by the data), mmbench, mme, hallusionbench, pope or textvqa",
    )
    add("--instruction", metavar="TEXT", help="the line below each question (that of the benchmark)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure; returns 0 when the results are written."""
    return run("mmbench", parse_args(argv), argv)
