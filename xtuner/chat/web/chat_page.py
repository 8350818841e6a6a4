"""The chat page: history, settings, an answer that streams and can be stopped."""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

from xtuner.chat.web.client import Client, ServerError
from xtuner.chat.web.words import say
from xtuner.utils import PROMPT_TEMPLATE

SHOW_EVERY_S = 0.05  # a browser need not draw more often


def show(url: str | None, api_key: str | None, language: str) -> None:
    """Draw the page; an answer is written while it is drawn."""
    if not url:
        st.info(say(language, "no_server"))
        return
    client = Client(url, api_key)
    try:
        models = client.models()
    except ServerError as error:
        st.error(str(error))
        return
    messages: list[dict[str, Any]] = st.session_state.setdefault("messages", [])
    # An answer that was being written when this run of the script began was stopped, by whatever was clicked.
    if messages and messages[-1].pop("unfinished", False):
        messages[-1]["note"] = say(language, "stopped")
    settings = _settings(models, language)
    if not messages:
        st.markdown(f"### {say(language, 'hello')}")
    for message in messages:
        with st.chat_message(message["role"]):
            _draw(message)
    question = st.chat_input(say(language, "ask"))
    again = bool(messages) and st.session_state.pop("again", False)
    if again:
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
    if question:
        messages.append({"role": "user", "content": question})
        with st.chat_message("user"):
            _draw(messages[-1])
    if question or (again and messages):
        _answer(client, messages, settings, language)
        st.rerun()


def _settings(models: list[str], language: str) -> dict[str, Any]:
    """What the sidebar says, as fields of a request; `system` is the system text."""
    with st.sidebar:
        left, right = st.columns(2)
        left.button(say(language, "new"), key="new", on_click=_forget, width="stretch")
        right.button(say(language, "again"), key="redo", on_click=_ask_again, width="stretch")
        st.subheader(say(language, "settings"))
        # Whoever names an adapter wants to hear it.
        model = st.selectbox(say(language, "model"), models, index=min(1, len(models) - 1), key="model")
        template = st.selectbox(
            say(language, "template"),
            ["", *sorted(PROMPT_TEMPLATE)],
            format_func=lambda name: name or say(language, "as_trained"),
            key="template",
        )
        system = st.text_area(say(language, "system"), key="system", height=100)
        temperature = st.slider(
            say(language, "temperature"),
            0.0,
            2.0,
            0.7,
            0.05,
            key="temperature",
            help=say(language, "temperature_help"),
        )
        top_p = st.slider(
            say(language, "top_p"), 0.05, 1.0, 0.8, 0.05, key="top_p", help=say(language, "top_p_help")
        )
        max_tokens = st.number_input(
            say(language, "max_tokens"), 1, 1_000_000, 1024, step=64, key="max_tokens"
        )
    more = {"prompt_template": template} if template else {}
    return {
        "system": system,
        "model": model,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        **more,
    }


def _forget() -> None:
    st.session_state["messages"] = []


def _ask_again() -> None:
    st.session_state["again"] = True


def _answer(client: Client, messages: list[dict[str, Any]], settings: dict[str, Any], language: str) -> None:
    """Write the answer to the last message into `messages`, piece by piece, so that a stop loses nothing."""
    request = {key: value for key, value in settings.items() if key != "system"}
    asked = [{"role": m["role"], "content": m["content"]} for m in messages if m["content"]]
    if settings["system"].strip():
        asked.insert(0, {"role": "system", "content": settings["system"]})
    answer: dict[str, Any] = {"role": "assistant", "content": "", "unfinished": True}
    messages.append(answer)
    start = time.perf_counter()
    first, drawn = 0.0, 0.0
    with st.chat_message("assistant"):
        place = st.empty()
        place.markdown("▌")
        st.button(say(language, "stop"), key="stop", icon=":material/stop:")
        try:
            for piece in client.stream(asked, **request):
                first = first or time.perf_counter() - start
                answer["content"] += piece
                if time.perf_counter() - drawn > SHOW_EVERY_S:
                    place.markdown(answer["content"] + "▌")
                    drawn = time.perf_counter()
        except ServerError as error:
            answer["error"] = str(error)
    seconds = time.perf_counter() - start
    if count := client.num_tokens:
        speed = (count - 1) / max(seconds - first, 1e-9) if count > 1 else 1 / seconds
        answer["note"] = say(language, "speed", speed=speed, first=first)
    answer["notices"] = list(client.notices)
    del answer["unfinished"]


def _draw(message: dict[str, Any]) -> None:
    if message["content"]:
        st.markdown(message["content"])
    for notice in message.get("notices", []):
        st.caption(f":material/warning: {notice}")
    if "error" in message:
        st.error(message["error"])
    if "note" in message:
        st.caption(message["note"])
