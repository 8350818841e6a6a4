"""A small ModelScope: the HTTP by which its client makes repositories, uploads and downloads, kept in memory.

POST /api/v1/models                                      a repository; Visibility 1 is private, 5 public
GET  /api/v1/models/REPO/revisions                       branches
POST /api/v1/repos/models/REPO/info/lfs/objects/batch    where large files go; those that are there go nowhere
PUT  /objects/OID                                        a large file
POST /api/v1/repos/models/REPO/commit/BRANCH             the files of a commit
GET  /api/v1/models/REPO/repo/files                      names, sizes and hashes
GET  /api/v1/models/REPO/repo?FilePath=                  a file
"""

from __future__ import annotations

import base64
import hashlib
import json
from urllib.parse import parse_qs, urlsplit

from tests.hub.hub_server import Handler


class ModelScopeHandler(Handler):
    """Answers are `{"Code": 200, "Data": ...}`."""

    def data(self, data, status=200, code=200, message="success"):
        body = {"Code": code, "Success": status == 200, "Data": data, "Message": message, "RequestId": "1"}
        self.answer(body, status)

    def query(self):
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def make(self, content):
        asked = json.loads(content)
        repo = f"{asked['Path']}/{asked['Name']}"
        if repo in self.hub.private:
            return self.data(None, 400, 10020101001, f"the model {repo} already exists")
        self.hub.private[repo] = asked["Visibility"] == 1
        self.hub.licenses[repo] = asked["License"]
        self.hub.files[repo, "master"] = {}
        return self.data({"Id": 1})

    def about(self, content, repo):
        owner, name = repo.split("/")
        self.data({"Path": owner, "Name": name, "Id": 1, "Visibility": 1})

    def revisions(self, content, repo):
        names = [branch for owner, branch in self.hub.files if owner == repo]
        branches = [{"Revision": name, "CreatedAt": 1} for name in names]
        self.data({"RevisionMap": {"Branches": branches, "Tags": []}})

    def place(self, content, repo):
        objects = [
            {**asked, "actions": {"upload": {"href": f"{self.hub.address}/objects/{asked['oid']}"}}}
            for asked in json.loads(content)["objects"]
            if asked["oid"] not in self.hub.objects
        ]
        self.data({"objects": objects})

    def take(self, content, repo, branch):
        files = self.hub.files[repo, branch]
        for action in json.loads(content)["actions"]:
            is_large = action["type"] == "lfs"
            data = self.hub.objects[action["sha256"]] if is_large else base64.b64decode(action["content"])
            files[action["path"]] = data
        self.data({"oid": hashlib.sha1(content).hexdigest()})

    def names(self, content, repo):
        files = self.hub.files[repo, self.query().get("Revision", "master")]
        entries = [
            {
                "Path": path,
                "Name": path.rpartition("/")[2],
                "Type": "blob",
                "Size": len(data),
                "Sha256": hashlib.sha256(data).hexdigest(),
                "Revision": hashlib.sha1(data).hexdigest(),
                "CommittedDate": 1,
            }
            for path, data in files.items()
        ]
        self.data({"Files": entries})

    def file(self, content, repo):
        asked = self.query()
        self.answer(self.hub.files[repo, asked.get("Revision", "master")][asked["FilePath"]])


_REPO = r"([\w.-]+/[\w.-]+)"
ModelScopeHandler.routes = (
    (r"POST /api/v1/models", ModelScopeHandler.make),
    (rf"GET /api/v1/models/{_REPO}", ModelScopeHandler.about),
    (rf"GET /api/v1/models/{_REPO}/revisions", ModelScopeHandler.revisions),
    (rf"POST /api/v1/repos/models/{_REPO}/info/lfs/objects/batch", ModelScopeHandler.place),
    (r"PUT /objects/(\w+)", ModelScopeHandler.put),
    (rf"POST /api/v1/repos/models/{_REPO}/commit/(.+)", ModelScopeHandler.take),
    (rf"GET /api/v1/models/{_REPO}/repo/files", ModelScopeHandler.names),
    (rf"(?:GET|HEAD) /api/v1/models/{_REPO}/repo", ModelScopeHandler.file),
)
