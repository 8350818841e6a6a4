"""Images that rows name, for training as well as for chat and the server.

decode.py      the content of a file -> an RGB image
"""
