"""Talk to a model in a browser: streamlit run web_demo.py, or streamlit run web_demo.py -- FOLDER."""

import atexit
import subprocess
import sys
import time
import urllib.request

import streamlit as st

from xtuner.chat.web.chat_page import show

model_name_or_path = "./merged"  # the folder of your model, or its name on the hub
port = 8000


@st.cache_resource(show_spinner="The model is being loaded")
def serve(folder: str) -> str:
    server = subprocess.Popen([sys.executable, "-m", "xtuner", "serve", folder, "--port", str(port)])
    atexit.register(server.terminate)
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            return f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"xtuner serve {folder} has ended; the terminal says why")


show(serve(sys.argv[1] if len(sys.argv) > 1 else model_name_or_path), None, "en")
