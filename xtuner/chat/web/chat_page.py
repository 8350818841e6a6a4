"""The chat page: history, settings, images, an answer that streams and can be stopped."""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

from xtuner.chat.web.client import Client, Model, ServerError
from xtuner.chat.web.uploads import make_upload
from xtuner.chat.web.words import say
from xtuner.errors import DataError
from xtuner.utils import PROMPT_TEMPLATE

SHOW_EVERY_S = 0.05  # a browser need not draw more often
SHOWN_SIDE = 320  # the longer side of an image on the page, in pixels
IMAGE_FILES = ["png", "jpg", "jpeg", "webp", "gif", "bmp"]


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
    # If an answer was being written when this run of the script began, a click has stopped it.
    if messages and messages[-1].pop("unfinished", False):
        messages[-1]["note"] = say(language, "stopped")
    settings = _settings(models, language)
    if not messages:
        st.markdown(f"### {say(language, 'hello')}")
    for message in messages:
        with st.chat_message(message["role"]):
            _draw(message)
    chosen = next(model for model in models if model.name == settings["model"])
    question = _question(chosen.takes_images is not False, language)
    again = bool(messages) and st.session_state.pop("again", False)
    if again:
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
    if question:
        messages.append(question)
        with st.chat_message("user"):
            _draw(messages[-1])
    if question or (again and messages):
        _answer(client, messages, settings, language)
        st.rerun()


def _question(with_images: bool, language: str) -> dict[str, Any] | None:
    """The typed text and attached images as a message; None if there is nothing or an image is invalid."""
    if not with_images:
        text = st.chat_input(say(language, "ask"))
        return {"role": "user", "content": text} if text else None
    given = st.chat_input(say(language, "ask_about"), accept_file="multiple", file_type=IMAGE_FILES)
    if not given:
        return None
    images, notes = [], []
    for file in given.files:
        try:
            upload = make_upload(file.getvalue(), file.type, file.name)
        except DataError as error:
            st.error(say(language, "no_image", reason=error))
            return None
        images.append(upload)
        if upload.is_smaller:
            width, height = upload.size
            notes.append(say(language, "smaller", name=file.name, width=width, height=height))
    note = {"note": "  \n".join(notes)} if notes else {}
    return {"role": "user", "content": given.text, "images": images, **note}


def _settings(models: list[Model], language: str) -> dict[str, Any]:
    """The settings of the sidebar as fields of a request; `system` is the system text."""
    with st.sidebar:
        left, right = st.columns(2)
        left.button(say(language, "new"), key="new", on_click=_forget, width="stretch")
        right.button(say(language, "again"), key="redo", on_click=_ask_again, width="stretch")
        st.subheader(say(language, "settings"))
        # The adapter is the default because the user named one.
        names = [model.name for model in models]
        model = st.selectbox(say(language, "model"), names, index=min(1, len(names) - 1), key="model")
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
    """Append the answer to `messages` piece by piece, so that a stop loses nothing."""
    request = {key: value for key, value in settings.items() if key != "system"}
    asked = _as_sent(messages)
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


def _as_sent(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages of a request; a refused question is not sent again with the next one."""
    answers = [*messages[1:], {}]
    found = []
    for message, answer in zip(messages, answers, strict=True):
        refused = message["role"] == "user" and "error" in answer and not answer["content"]
        content: Any = message["content"]
        if message.get("images"):
            text = [{"type": "text", "text": content}] if content else []
            content = [*(image.part() for image in message["images"]), *text]
        if content and not refused:
            found.append({"role": message["role"], "content": content})
    return found


def _draw(message: dict[str, Any]) -> None:
    if images := message.get("images"):
        with st.container(horizontal=True):
            for image in images:
                width, height = image.size
                st.image(image.data, width=max(1, SHOWN_SIDE * width // max(width, height)))
    if message["content"]:
        st.markdown(message["content"])
    for notice in message.get("notices", []):
        st.caption(f":material/warning: {notice}")
    if "error" in message:
        st.error(message["error"])
    if "note" in message:
        st.caption(message["note"])
