"""A small hub: the HTTP by which huggingface_hub makes repositories, uploads and downloads, kept in memory.

POST /api/repos/create                           a repository, private or not
POST /api/validate-yaml                          whether the front matter of a card is valid
POST /api/models/REPO/branch/REVISION           a branch
POST /api/models/REPO/preupload/REVISION         which files are large: *.safetensors
POST /REPO.git/info/lfs/objects/batch            where large files go; those that are there go nowhere
PUT  /objects/OID                                a large file
POST /api/models/REPO/commit/REVISION            the files of a commit, a JSON line each
GET  /api/models/REPO/revision/REVISION          its files
GET  /api/models/REPO/tree/REVISION              the same, with sizes
HEAD, GET /REPO/resolve/REVISION/FILE            a file
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_tokenofthetests0123456789"


class Hub:
    """The state of the hub: files by (repository, revision), large objects, and the requests so far."""

    def __init__(self) -> None:
        self.files = defaultdict(dict)
        self.private: dict[str, bool] = {}
        self.licenses: dict[str, str] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.puts_until_broken: int | None = None
        self.address = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    routes: tuple = ()

    def log_message(self, *_):
        pass

    def answer(self, body, status=200, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_request(self):
        path, content = unquote(urlsplit(self.path).path), self.body()
        self.hub.requests.append((self.command, path))
        if not path.startswith("/objects/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid credentials"}, 401)
        for pattern, action in self.routes:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                return action(self, content, *match.groups())
        return self.answer({"error": f"no {self.command} {path}"}, 404)

    do_GET = do_POST = do_PUT = do_HEAD = handle_request  # noqa: N815 (names of http.server)

    def create(self, content):
        asked = json.loads(content)
        owner = asked.get("organization") or "me"
        repo = f"{owner}/{asked['name']}"
        if repo in self.hub.private:
            return self.answer({"url": f"{self.hub.address}/{repo}", "error": "exists"}, 409)
        self.hub.private[repo] = asked.get("private") or asked.get("visibility") == "private"
        self.hub.files[repo, "main"] = {}
        return self.answer({"url": f"{self.hub.address}/{repo}", "name": repo, "id": repo})

    def validate(self, content):
        front = json.loads(content)["content"].removeprefix("---\n").partition("\n---")[0]
        errors = [] if {"library_name", "tags"} <= yaml.safe_load(front).keys() else [{"message": "no tags"}]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def branch(self, content, repo, revision):
        self.hub.files[repo, revision] = dict(self.hub.files[repo, "main"])
        self.answer({})

    def preupload(self, content, repo, revision):
        names = [file["path"] for file in json.loads(content)["files"]]
        mode = {True: "lfs", False: "regular"}
        files = [
            {"path": n, "uploadMode": mode[n.endswith(".safetensors")], "shouldIgnore": False} for n in names
        ]
        self.answer({"files": files})

    def batch(self, content, repo):
        objects = []
        for asked in json.loads(content)["objects"]:
            upload = {"upload": {"href": f"{self.hub.address}/objects/{asked['oid']}"}}
            is_there = asked["oid"] in self.hub.objects
            objects.append({**asked, "authenticated": True, **({} if is_there else {"actions": upload})})
        self.answer({"transfer": "basic", "objects": objects})

    def put(self, content, oid):
        if self.hub.puts_until_broken is not None:
            if self.hub.puts_until_broken == 0:
                return self.answer({"error": "the disk is full"}, 400)
            self.hub.puts_until_broken -= 1
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.objects[oid] = content
        return self.answer({})

    def commit(self, content, repo, revision):
        files = self.hub.files[repo, revision]
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        oid = hashlib.sha1(content).hexdigest()
        self.answer({"commitUrl": f"{self.hub.address}/{repo}/commit/{oid}", "commitOid": oid})

    def info(self, content, repo, revision):
        if (repo, revision) not in self.hub.files:
            return self.answer({"error": "no revision"}, 404, X_Error_Code="RevisionNotFound")
        siblings = [{"rfilename": name} for name in self.hub.files[repo, revision]]
        return self.answer({"id": repo, "sha": self.sha(repo, revision), "siblings": siblings})

    def tree(self, content, repo, revision):
        files = self.found(repo, revision)
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in files.items()
        ]
        self.answer(entries)

    def found(self, repo, revision):
        """The files of a branch, or of a commit."""
        names = [branch for owner, branch in self.hub.files if owner == repo]
        (branch,) = [name for name in names if revision in (name, self.sha(repo, name))]
        return self.hub.files[repo, branch]

    def resolve(self, content, repo, revision, name):
        files = self.found(repo, revision)
        if name not in files:
            return self.answer({"error": "no file"}, 404, X_Error_Code="EntryNotFound")
        etag = hashlib.sha256(files[name]).hexdigest()
        return self.answer(files[name], ETag=f'"{etag}"', X_Repo_Commit=self.sha(repo, "main"))

    def sha(self, repo, revision):
        return hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()


_REPO = r"([\w.-]+/[\w.-]+)"
Handler.routes = (
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"POST /api/models/{_REPO}/branch/(.+)", Handler.branch),
    (rf"POST /api/models/{_REPO}/preupload/(.+)", Handler.preupload),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /objects/(\w+)", Handler.put),
    (rf"POST /api/models/{_REPO}/commit/(.+)", Handler.commit),
    (rf"GET /api/models/{_REPO}/revision/(.+)", Handler.info),
    (rf"GET /api/models/{_REPO}/tree/(.+)", Handler.tree),
    (rf"(?:GET|HEAD) /{_REPO}/resolve/([^/]+)/(.+)", Handler.resolve),
)


def runner(env):
    """A function that runs Python in the environment `env`, and returns the exit code, stdout and stderr.

    Keyword arguments are further variables, without those that are None. No output has the token.
    """

    def run(*words, **changes):
        own = {k: v for k, v in {**env, **changes}.items() if v is not None}
        done = subprocess.run([sys.executable, *words], env=own, capture_output=True, text=True, timeout=100)
        assert TOKEN not in done.stdout + done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


def model_of_two_files(source, folder):
    """A copy of the model `source`, with a second large file in a folder."""
    shutil.copytree(source, folder)
    (folder / "more").mkdir()
    (folder / "more" / "model.safetensors").write_bytes(b"second" * 1000)
    return folder


@contextlib.contextmanager
def hub_server(handler=Handler):
    """A running hub."""
    hub = Hub()
    handler = type("HandlerOfOne", (handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
