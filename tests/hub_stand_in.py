"""A small Hub on this machine: what huggingface_hub's client asks for when a model repo is made, filled and read."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN, FOREIGN = "hf_may_write", "hf_of_another"


class Hub:
    """Repos: name -> revision -> commit, and commit -> files."""

    def __init__(self):
        self.branches, self.commits, self.private = {}, {}, {}

    def files(self, repo, revision):
        commit = self.branches[repo].get(revision, revision)
        return commit, self.commits.get((repo, commit))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _send(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _user(self):
        return {f"Bearer {TOKEN}": "me", f"Bearer {FOREIGN}": "other"}.get(self.headers.get("authorization"))

    def _body(self):
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def do_POST(self):
        hub, body, user = self.server.hub, self._body(), self._user()
        if self.path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if user is None:
            return self._send(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or user}/{asked['name']}"
            if not repo.startswith(f"{user}/"):
                return self._send(403, {"error": "You don't have the rights to create a model under this namespace"})
            if repo in hub.branches:
                return self._send(
                    409, {"error": "You already created this model repo", "url": f"{self.server.url}/{repo}"}
                )
            hub.branches[repo], hub.private[repo] = (
                {"main": "0" * 40},
                asked.get("private") or asked.get("visibility") == "private",
            )
            hub.commits[repo, "0" * 40] = {}
            return self._send(200, {"url": f"{self.server.url}/{repo}", "id": repo, "name": repo})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/([^/?]+)(\?.*)?", self.path)
        if not found:
            return self._send(404, {"error": self.path})
        repo, what, revision, _ = found.groups()
        if not repo.startswith(f"{user}/"):
            return self._send(403, {"error": "Forbidden"})
        if what == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self._send(200, {"files": files})
        if what == "branch":
            if revision in hub.branches[repo]:
                return self._send(409, {"error": "Reference already exists"})
            hub.branches[repo][revision] = hub.branches[repo]["main"]
            return self._send(200, {})
        files = dict(hub.files(repo, revision)[1])
        for line in map(json.loads, body.decode().splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            if line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        commit = hashlib.sha1(body + str(len(hub.commits)).encode()).hexdigest()
        hub.commits[repo, commit] = files
        hub.branches[repo][revision] = commit
        return self._send(
            200, {"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{repo}/commit/{commit}"}
        )

    def do_GET(self):
        hub = self.server.hub
        if self.path == "/api/whoami-v2":
            return self._send(200, {"name": self._user()}) if self._user() else self._send(401, {})
        if self.path.startswith("/api/models/"):
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/?]+))?(?:\?.*)?", self.path)
            repo, what, revision = found.groups()
            if repo not in hub.branches:
                return self._send(
                    401 if self._user() is None else 404, {"error": "Repository not found"}, x_error_code="RepoNotFound"
                )
            commit, files = hub.files(repo, revision or "main")
            if files is None:
                return self._send(404, {"error": "Invalid rev id"}, x_error_code="RevisionNotFound")
            if what == "tree":
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                    for name, data in files.items()
                ]
                return self._send(200, tree)
            siblings = [{"rfilename": name} for name in files]
            return self._send(200, {"id": repo, "sha": commit, "siblings": siblings, "private": False, "tags": []})
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)", self.path)
        if not found:
            return self._send(404, {"error": self.path})
        repo, revision, name = found.groups()
        commit, files = hub.files(repo, revision)
        if name not in (files or {}):
            return self._send(404, {"error": "Entry not found"}, x_error_code="EntryNotFound")
        return self._send(200, files[name], etag=f'"{_etag(files[name])}"', x_repo_commit=commit)

    do_HEAD = do_GET  # noqa: N815


def _etag(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def a_hub():
    """(address, Hub) while the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url, server.hub = f"http://127.0.0.1:{server.server_port}", Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.url, server.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
