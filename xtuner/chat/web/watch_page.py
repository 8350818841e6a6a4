"""The page that watches a work dir: curves, sampled answers, checkpoints, drawn anew every few seconds."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from xtuner.chat.web.words import say
from xtuner.chat.web.work_dir import Checkpoint, Curve, Run, checkpoints, find_work_dirs, read_run, run_names

EVERY_S = 3
MAX_POINTS = 1000  # of a curve that are drawn
CURVES = ("loss", "lr", "tokens_per_sec", "memory", "val/loss", "grad_norm")
COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#7f7f7f")


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
        text = f"{say(language, 'iter')} {done} / {total}"
        st.progress(
            min(1.0, done / max(total, 1)), f"{text} · {say(language, 'left', eta=eta)}" if eta else text
        )
    columns = st.columns(4)
    for column, key, form in zip(
        columns, CURVES[:4], ("{:.4g}", "{:.3g}", "{:,.0f}", "{:,.0f}"), strict=True
    ):
        curve = run.curves.get(key)
        column.metric(say(language, key), form.format(curve[-1][1]) if curve else "–")


def _draw_curves(run: Run, language: str) -> None:
    drawn = [key for key in CURVES if len(run.curves.get(key, [])) > 1]
    columns = st.columns(2)
    for i, key in enumerate(drawn):
        with columns[i % 2]:
            st.caption(say(language, key))
            points = _thinned(run.curves[key])
            data = {say(language, "iter"): [p[0] for p in points], say(language, key): [p[1] for p in points]}
            st.line_chart(
                data,
                x=say(language, "iter"),
                y=say(language, key),
                x_label="",
                y_label="",
                height=180,
                color=COLOURS[CURVES.index(key)],
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


def _thinned(curve: Curve) -> Curve:
    """At most about MAX_POINTS of `curve`, evenly taken, the last one always."""
    step = max(1, len(curve) // MAX_POINTS)
    return curve[::-step][::-1]
