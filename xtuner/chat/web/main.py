"""The script that Streamlit runs: language, then one of the two pages. See `launch`."""

from __future__ import annotations

import argparse
import os

import streamlit as st

from xtuner.chat.web import chat_page, watch_page
from xtuner.chat.web.words import LANGUAGES, say


def main() -> None:
    """Show the selected page."""
    parser = argparse.ArgumentParser("xtuner web")
    parser.add_argument("--url")
    parser.add_argument("--work-dir")
    args = parser.parse_args()
    st.set_page_config(page_title="XTuner", page_icon="💬", layout="centered")
    with st.sidebar:
        chosen = st.segmented_control(
            "Language / 语言",
            list(LANGUAGES),
            default=_first_language(),
            key="language_name",
            label_visibility="collapsed",
        )
    language = LANGUAGES[chosen or _first_language()]

    def chat() -> None:
        chat_page.show(args.url, os.environ.get("XTUNER_API_KEY"), language)

    def watch() -> None:
        watch_page.show(args.work_dir, language)

    pages = [
        st.Page(chat, title=say(language, "chat"), icon=":material/chat:", url_path="chat"),
        st.Page(watch, title=say(language, "watch"), icon=":material/monitoring:", url_path="training"),
    ]
    first = pages[0] if args.url else pages[1]
    # Streamlit gives the default page no separate address.
    home = st.Page(lambda: st.switch_page(first), title="XTuner", url_path="home", default=True)
    with st.sidebar:
        for page in pages:
            st.page_link(page)
    st.navigation([home, *pages], position="hidden").run()


def _first_language() -> str:
    locale = getattr(st.context, "locale", None) or ""
    return "中文" if str(locale).lower().startswith("zh") else "English"


main()
