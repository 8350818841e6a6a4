"""Two pages in a browser: chat with a served model, watch a training run.

browser  <-  Streamlit: main -> chat_page, watch_page  <-  client (HTTP)  <-  xtuner serve
                                                       <-  work_dir (files of a run)

launch   starts what is needed and ends it
"""
