"""A Hub on this machine: the parts of the Hub's HTTP API that huggingface_hub calls, over the standard library.

`python hub_server.py` prints its port and serves until its standard input closes. State is in memory. Faults are ordered
through `POST /test/faults` with `{"match": part of "METHOD path", "status": 500, "code": "GatedRepo", "times": 1,
"cut_after": bytes, "shrink_to": bytes, "reset": true, "html": true}`; an empty order takes back the faults that are left.
`GET /test/log` lists the requests so far.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKENS = {
    "hf_writer": ("me", "write"),
    "hf_reader": ("you", "read"),
    "hf_my_reader": ("me", "read"),
    "hf_scoped": ("me", "fineGrained"),
    "hf_authors": ("inclusionAI", "write"),
    "hf_base": ("Qwen", "write"),
}
SCOPE = {"scoped": [{"entity": {"type": "model", "name": "me/scoped"}, "permissions": ["repo.write"]}]}
API = re.compile(
    r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<action>preupload|commit|tree|revision|branch|refs)/?(?P<rest>.*)"
)
INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)$")
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
LFS_BATCH = re.compile(r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")


def git_oid(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@dataclass
class Repository:
    private: bool
    branches: dict[str, str]
    commits: dict[str, dict[str, tuple[str, bool]]] = field(default_factory=dict)  # sha: {path: (sha256, is_lfs)}
    history: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class State:
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: list[dict] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class HubError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer may wait 40 ms for the client
    state: State

    def log_message(self, *args):
        pass

    def handle_any(self):
        self.body = self.read_body()
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        try:
            if not url.path.startswith("/test/"):
                with self.state.lock:
                    self.state.log.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
                self.fault = self.take_fault()
                if self.fault and self.fault.get("status"):
                    raise HubError(self.fault["status"], "ordered by the test", self.fault.get("code"))
                if self.fault and self.fault.get("reset"):
                    return self.reset()
                if self.fault and self.fault.get("html"):
                    return self.send(
                        200, b"<html><body>Log in to the network</body></html>", {"Content-Type": "text/html"}
                    )
            self.route(url.path)
        except HubError as error:
            headers = {"X-Error-Code": error.code} if error.code else {}
            if error.status == 429:
                headers["Retry-After"] = "0"
            self.send(error.status, {"error": str(error)}, headers | {"X-Error-Message": str(error)})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reset(self):
        """Cut the connection without an answer, so that the other side reads a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def take_fault(self) -> dict | None:
        with self.state.lock:
            for fault in self.state.faults:
                if fault["match"] in f"{self.command} {self.path}" and fault.get("times", 1) > 0:
                    fault["times"] = fault.get("times", 1) - 1
                    return fault
        return None

    def send(self, status: int, content, headers: dict | None = None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, str(value))
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = (getattr(self, "fault", None) or {}).get("cut_after")
        self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            self.close_connection = True

    def account(self) -> tuple[str, str] | None:
        return TOKENS.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def user(self, need_write: bool = False) -> str | None:
        name, role = self.account() or (None, None)
        if need_write and name is None:
            raise HubError(401, "Invalid username or password.")
        if need_write and role != "write":
            raise HubError(403, "this token cannot write")
        return name

    def repository(self, repo_id: str, need_write: bool = False) -> Repository:
        user = self.user(need_write)
        repository = self.state.repositories.get(repo_id)
        owner = repo_id.split("/")[0]
        if repository is None or (repository.private and user != owner):
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        if need_write and user != owner:
            raise HubError(403, f"{user} does not own {repo_id}")
        return repository

    def commit_of(self, repository: Repository, revision: str) -> str:
        sha = repository.branches.get(revision, revision)
        if sha not in repository.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def route(self, path: str):
        path = path if path.startswith("/api/models") or "/resolve/" in path else unquote(path)
        if path == "/test/faults":
            order = json.loads(self.body)
            self.state.faults = [*self.state.faults, order] if order else []
            return self.send(200, {})
        if path == "/test/log":
            return self.send(200, self.state.log)
        if path == "/test/history":
            return self.send(200, {name: repo.history for name, repo in self.state.repositories.items()})
        if path == "/api/whoami-v2":
            name, role = self.account() or self.refuse_anonymous()
            token = {"displayName": "of the test", "role": role}
            token |= {"fineGrained": SCOPE} if role == "fineGrained" else {}
            orgs = [{"name": "our-org", "roleInOrg": "write"}, {"name": "their-org", "roleInOrg": "read"}]
            answer = {"type": "user", "name": name, "orgs": orgs if name == "me" else []}
            return self.send(200, answer | {"auth": {"accessToken": token}})
        if path == "/api/validate-yaml":
            return self.send(200, {"warnings": [], "errors": []})
        if path == "/api/repos/create":
            return self.create_repository(json.loads(self.body))
        if path.startswith("/lfs/"):
            return self.lfs_object(path.removeprefix("/lfs/"))
        for pattern, handler in (
            (API, self.api),
            (INFO, self.info),
            (RESOLVE, self.resolve),
            (LFS_BATCH, self.lfs_batch),
        ):
            match = pattern.match(path)
            if match:
                return handler(**{name: unquote(value) for name, value in match.groupdict().items()})
        raise HubError(404, f"no such route: {path}")

    def refuse_anonymous(self):
        raise HubError(401, "Invalid username or password.")

    def create_repository(self, request: dict):
        user = self.user(need_write=True)
        repo_id = f"{request.get('organization') or user}/{request['name']}"
        if not repo_id.startswith(f"{user}/"):
            raise HubError(403, f"{user} may not create {repo_id}")
        with self.state.lock:
            url = {"url": f"{self.origin}/{repo_id}", "name": repo_id, "id": repo_id}
            if repo_id in self.state.repositories:
                return self.send(409, url | {"error": "You already created this model repo"})
            private = bool(request.get("private")) or request.get("visibility") == "private"
            sha = hashlib.sha1(f"{repo_id} begins".encode()).hexdigest()
            self.state.repositories[repo_id] = Repository(private, {"main": sha}, {sha: {}}, [(sha, "initial commit")])
        self.send(200, url)

    @property
    def origin(self) -> str:
        return f"http://{self.headers['Host']}"

    @property
    def storage(self) -> str:
        """Large files are on another host than the Hub itself: here another name of this machine."""
        return self.origin.replace("127.0.0.1", "localhost")

    def info(self, repo: str):
        self.api(repo, "revision", "main")

    def api(self, repo: str, action: str, rest: str):
        if action in ("preupload", "commit", "branch"):
            repository = self.repository(repo, need_write=True)
        else:
            repository = self.repository(repo)
        getattr(self, f"api_{action}")(repo, repository, rest)

    def api_revision(self, repo_id: str, repository: Repository, revision: str):
        sha = self.commit_of(repository, revision)
        siblings = [{"rfilename": path} for path in repository.commits[sha]]
        answer = {"_id": "1", "id": repo_id, "modelId": repo_id, "sha": sha, "private": repository.private}
        self.send(200, answer | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def api_branch(self, repo_id: str, repository: Repository, name: str):
        if name in repository.branches:
            raise HubError(409, "Reference already exists")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repository.branches[name] = self.commit_of(repository, start)
        self.send(200, {})

    def api_tree(self, repo_id: str, repository: Repository, rest: str):
        revision = rest.split("/")[0]
        entries = []
        for path, (oid, is_lfs) in repository.commits[self.commit_of(repository, revision)].items():
            content = self.state.blobs[oid]
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
            if is_lfs:
                entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self.send(200, entries)

    def api_preupload(self, repo_id: str, repository: Repository, revision: str):
        present = repository.commits[self.commit_of(repository, revision)]
        files = []
        for file in json.loads(self.body)["files"]:
            is_lfs = file["path"].endswith((".safetensors", ".png"))
            answer = {"path": file["path"], "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
            if file["path"] in present:
                oid, was_lfs = present[file["path"]]
                answer["oid"] = oid if was_lfs else git_oid(self.state.blobs[oid])
            files.append(answer)
        self.send(200, {"files": files})

    def lfs_batch(self, repo: str):
        self.repository(repo, need_write=True)
        objects = []
        for item in json.loads(self.body)["objects"]:
            if item["oid"] not in self.state.blobs:
                item = item | {"actions": {"upload": {"href": f"{self.storage}/lfs/{item['oid']}"}}}
            objects.append(item)
        self.send(200, {"transfer": "basic", "objects": objects})

    def lfs_object(self, oid: str):
        if self.headers.get("Authorization"):
            raise HubError(400, "the token was sent to the storage's host")
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                raise HubError(400, "content does not match its name")
            self.state.blobs[oid] = self.body
            return self.send(200, {})
        return self.send_content(self.state.blobs[oid], {"ETag": f'"{oid}"'})

    def api_commit(self, repo_id: str, repository: Repository, revision: str):
        lines = [json.loads(line) for line in self.body.splitlines() if line]
        header = next(line["value"] for line in lines if line["key"] == "header")
        with self.state.lock:
            parent = self.commit_of(repository, revision)
            if header.get("parentCommit") not in (None, parent):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repository.commits[parent])
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    content = base64.b64decode(value["content"])
                    oid = hashlib.sha256(content).hexdigest()
                    self.state.blobs[oid] = content
                    files[value["path"]] = (oid, False)
                elif line["key"] == "lfsFile":
                    if value["oid"] not in self.state.blobs:
                        raise HubError(400, f"LFS object of {value['path']} was not uploaded")
                    files[value["path"]] = (value["oid"], True)
                elif line["key"] == "deletedFile":
                    files.pop(value["path"], None)
            self.state.counts[repo_id] += 1
            sha = hashlib.sha1(f"{parent}{sorted(files.items())}{self.state.counts[repo_id]}".encode()).hexdigest()
            repository.commits[sha] = files
            repository.branches[revision] = sha
            repository.history.append((sha, header["summary"]))
        self.send(200, {"commitUrl": f"{self.origin}/{repo_id}/commit/{sha}", "commitOid": sha})

    def resolve(self, repo: str, revision: str, path: str):
        repository = self.repository(repo)
        sha = self.commit_of(repository, revision)
        if path not in repository.commits[sha]:
            raise HubError(404, "Entry not found", "EntryNotFound")
        oid, is_lfs = repository.commits[sha][path]
        content = self.state.blobs[oid]
        headers = {"X-Repo-Commit": sha}
        if is_lfs:
            headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": len(content)}
            return self.send(302, b"", headers | {"Location": f"{self.storage}/lfs/{oid}"})
        return self.send_content(content, headers | {"ETag": f'"{git_oid(content)}"'})

    def send_content(self, content: bytes, headers: dict):
        content = content[: (self.fault or {}).get("shrink_to")]
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            return self.send(200, content, headers | {"Content-Length": len(content)})
        start = int(asked[1])
        if start >= len(content):
            return self.send(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        part = content[start : int(asked[2]) + 1 if asked[2] else None]
        stop = start + len(part) - 1
        headers |= {"Content-Range": f"bytes {start}-{stop}/{len(content)}", "Content-Length": len(part)}
        return self.send(206, part, headers)


def main():
    handler = type("StatefulHandler", (Handler,), {"state": State()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)  # noqa: T201
    sys.stdin.read()


if __name__ == "__main__":
    main()
