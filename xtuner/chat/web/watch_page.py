"""The page that watches a work dir: curves, sampled answers and checkpoints, redrawn every few seconds."""

from __future__ import annotations

import math
from pathlib import Path

import altair as alt
import streamlit as st

from xtuner.chat.web.words import say
from xtuner.svg_curves import thinned
from xtuner.work_dir import Checkpoint, Curve, Run, checkpoints, find_work_dirs, read_run, run_names

EVERY_S = 3
# Curves in the order in which they are drawn: colour, how Python writes a value, how d3 does.
CURVES = {
    "loss": ("#d62728", "{:.4g}", ".4~g"),
    "lr": ("#1f77b4", "{:.3g}", ".2~e"),
    "tokens_per_sec": ("#2ca02c", "{:,.0f}", ",.0f"),
    "time": ("#8c564b", "{:.3g}", ".3~g"),
    "memory": ("#9467bd", "{:,.0f}", ",.0f"),
    "val/loss": ("#ff7f0e", "{:.4g}", ".4~g"),
    "grad_norm": ("#7f7f7f", "{:.3g}", ".3~g"),
}


def show(work_dir: str | None, language: str) -> None:
    """Draw the page."""
    found = find_work_dirs(Path("work_dirs")) if work_dir is None else []
    first = work_dir or (str(found[0]) if found else "")
    path = Path(st.text_input(say(language, "work_dir"), first, key="work_dir") or ".").expanduser()
    if not run_names(path):
        st.info(say(language, "no_work_dir", path=path) if str(path) != "." else say(language, "no_runs"))
        return
    _watched(path, language)


@st.fragment(run_every=EVERY_S)
def _watched(path: Path, language: str) -> None:
    names = run_names(path)
    name = st.selectbox(say(language, "run"), names, key="run") if len(names) > 1 else names[0]
    run = read_run(path, str(name))
    _draw_head(run, language)
    _draw_curves(run, language)
    st.subheader(say(language, "samples"))
    _draw_samples(run, language)
    st.subheader(say(language, "checkpoints"))
    _draw_checkpoints(checkpoints(path), language)


def _draw_head(run: Run, language: str) -> None:
    if run.progress is not None:
        done, total, eta = run.progress
        rest = say(language, "finished") if done >= total else say(language, "left", eta=eta)
        text = f"{say(language, 'iter')} {done} / {total}"
        st.progress(min(1.0, done / max(total, 1)), f"{text} · {rest}")
    shown = ["loss", "lr", _speed(run), "memory"]
    for column, key in zip(st.columns(len(shown)), shown, strict=True):
        curve = run.curves.get(key)
        column.metric(say(language, key), CURVES[key][1].format(curve[-1][1]) if curve else "–")


def _speed(run: Run) -> str:
    """The name of the speed that `run` logs: tokens per second or seconds per iteration."""
    return "tokens_per_sec" if "tokens_per_sec" in run.curves else "time"


def _draw_curves(run: Run, language: str) -> None:
    others = {"tokens_per_sec", "time"} - {_speed(run)}
    curves = {key: [p for p in curve if math.isfinite(p[1])] for key, curve in run.curves.items()}
    drawn = [key for key in CURVES if len(curves.get(key, [])) > 1 and key not in others]
    columns = st.columns(2)
    for i, key in enumerate(drawn):
        with columns[i % 2]:
            st.caption(say(language, key))
            st.altair_chart(_chart(curves[key], key, language))


def _chart(curve: Curve, key: str, language: str) -> alt.Chart:
    """The curve on axes that begin at its minimum: most of a loss is far from 0."""
    rows = [{"x": step, "y": value} for step, value in thinned(curve)]
    colour, _, form = CURVES[key]
    axis = alt.Axis(format=form, tickMinStep=1 if form == ",.0f" else alt.Undefined)
    tooltips = [alt.Tooltip("x:Q", title=say(language, "iter"))]
    tooltips += [alt.Tooltip("y:Q", title=say(language, key), format=",.4~g")]
    return (
        alt.Chart(alt.Data(values=rows), height=180)
        .mark_line(color=colour)
        .encode(
            x=alt.X("x:Q", title=None, axis=alt.Axis(tickMinStep=1), scale=alt.Scale(nice=False, zero=False)),
            y=alt.Y("y:Q", title=None, axis=axis, scale=alt.Scale(zero=False)),
            tooltip=tooltips,
        )
    )


def _draw_samples(run: Run, language: str) -> None:
    count = max((len(answers) for _, answers in run.samples), default=0)
    if not count:
        st.caption(say(language, "no_samples"))
        return
    i = st.segmented_control(
        say(language, "sample"), range(count), default=0, format_func=lambda i: str(i + 1), key="sample"
    )
    for n, (at, answers) in enumerate(reversed(run.samples)):
        if (i or 0) < len(answers):
            with st.expander(say(language, "at_iter", iter=at), expanded=n == 0):
                st.text(answers[i or 0])


def _draw_checkpoints(found: list[Checkpoint], language: str) -> None:
    if not found:
        st.caption(say(language, "no_checkpoints"))
        return
    rows = [
        {
            say(language, "name"): each.name,
            say(language, "size"): f"{each.num_bytes / 1e6:,.1f} MB",
            say(language, "saved"): each.saved.strftime("%Y-%m-%d %H:%M:%S"),
            say(language, "last"): "✓" if each.is_last else "",
        }
        for each in found
    ]
    st.dataframe(rows, hide_index=True)
