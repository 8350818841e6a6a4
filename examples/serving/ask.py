"""Serve the model, ask it with OpenAI's client, and stop the server."""

import subprocess
import sys
import time

from openai import APIConnectionError, OpenAI

PORT = 8123
command = [sys.executable, "-m", "xtuner", "serve", "model", "--port", str(PORT)]
server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
try:
    client = OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none", max_retries=0)
    for _ in range(120):
        try:
            print("models:", [model.id for model in client.models.list()])
            break
        except APIConnectionError:
            time.sleep(1)
    text = client.completions.create(model="model", prompt="The capital of", temperature=0, max_tokens=8)
    print("continues:", text.choices[0].text)
    messages = [{"role": "user", "content": "Who are you?"}]
    sampling = dict(temperature=1.0, seed=3, max_tokens=8)
    answer = client.chat.completions.create(model="model", messages=messages, **sampling)
    print("answers:", answer.choices[0].message.content)
    pieces = client.chat.completions.create(model="model", messages=messages, stream=True, **sampling)
    print(
        "streams:", [p.choices[0].delta.content for p in pieces if p.choices and p.choices[0].delta.content]
    )
finally:
    server.terminate()
    server.wait(30)
