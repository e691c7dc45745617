"""A Hugging Face hub in this process: the protocol of repositories, uploads, downloads and model cards, and its faults.

Repositories are dictionaries of commits; large files (LFS) lie by their hash beside them, as on the hub.
"""

import base64
import hashlib
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

TOKEN = "hf_" + "s3cr3tS3CR3Ts3cr3t" * 2
LARGE_BYTES = 20_000  # from which on a file goes to LFS, as all safetensors do
KINDS = {"models": "model", "datasets": "dataset"}


@dataclass
class Repository:
    private: bool
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    messages: list[str] = field(default_factory=list)
    pull_requests: int = 0

    def commit_of(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[revision]]


@dataclass
class Fault:
    """Answers the next ``times`` requests that match ``pattern`` ("METHOD path") by ``status``, or by hanging up."""

    pattern: str
    status: int | None  # None: the connection breaks after half of the body
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}  # by kind and id
        self.large: dict[str, bytes] = {}  # by sha256
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.puts: Counter[str] = Counter()  # complete ones, by sha256
        self.lock = Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, kind: str, name: str, *versions: dict[str, bytes]) -> list[str]:
        """A repository with these commits; their hashes."""
        repository = self.repositories[kind, name] = Repository(private=False)
        return [self.commit(repository, "main", files) for files in versions]

    def commit(self, repository: Repository, branch: str, files: dict[str, bytes]) -> str:
        described = json.dumps([branch, len(repository.commits), sorted(files)])
        commit = hashlib.sha1(described.encode()).hexdigest()
        repository.commits[commit] = files
        repository.branches[branch] = commit
        return commit

    def handle_error(self, *_: Any) -> None:
        """A client that hung up is no news."""


@contextmanager
def hub() -> Iterator[HubServer]:
    server = HubServer()
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class RefusalError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_GET(self) -> None:
        self.respond()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the names that the base class calls

    def log_message(self, *_: object) -> None:
        pass

    def respond(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.server.requests.append(f"{self.command} {path}")
        if fault := self.due(f"{self.command} {path}"):
            return self.fail(fault)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        try:
            for method, pattern, answer in ROUTES:
                if self.command in method.split("|") and (found := re.fullmatch(pattern, path)):
                    return answer(self, body, **found.groupdict())
            raise RefusalError(404, "", f"no route {self.command} {path}")
        except RefusalError as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self.send(refusal.status, {"error": refusal.message}, {k: v for k, v in headers.items() if v})

    def due(self, request: str) -> Fault | None:
        with self.server.lock:
            for fault in self.server.faults:
                if fault.times > 0 and re.match(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None

    def fail(self, fault: Fault) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length if fault.status else length // 2)
        self.close_connection = True
        if fault.status:
            # A careless proxy that says in its error what it was sent.
            said = {"error": f"refused: {self.headers.get('Authorization')}"}
            return self.send(fault.status, said, fault.headers | {"Connection": "close"})
        self.connection.shutdown(socket.SHUT_RDWR)
        return None

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def check_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise RefusalError(401, "", "Invalid credentials in Authorization header")

    def repository(self, kind: str, name: str) -> Repository:
        found = self.server.repositories.get((KINDS[kind], name))
        if found is None or (found.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            raise RefusalError(404, "RepoNotFound", "Repository not found")
        return found

    def commit_of(self, kind: str, name: str, revision: str) -> tuple[Repository, str]:
        repository = self.repository(kind, name)
        commit = repository.commit_of(revision)
        if commit is None:
            raise RefusalError(404, "RevisionNotFound", "Invalid rev id")
        return repository, commit


def whoami(handler: Handler, body: bytes) -> None:
    handler.check_token()
    handler.send(200, {"type": "user", "name": "someone", "orgs": [{"name": "org"}], "auth": {"type": "access_token"}})


def create(handler: Handler, body: bytes) -> None:
    handler.check_token()
    asked = json.loads(body)
    name = f"{asked['organization'] or 'someone'}/{asked['name']}"
    key = (asked.get("type", "model"), name)
    if key in handler.server.repositories:
        return handler.send(409, {"error": "You already created this repo", "url": f"{handler.server.url}/{name}"})
    private = asked.get("visibility") == "private" or asked.get("private", False)
    handler.server.repositories[key] = Repository(private=private)
    return handler.send(200, {"url": f"{handler.server.url}/{name}", "name": name, "id": "1"})


def branch(handler: Handler, body: bytes, kind: str, name: str, branch: str) -> None:
    handler.check_token()
    repository = handler.repository(kind, name)
    if branch in repository.branches:
        return handler.send(409, {"error": "Reference already exists"})
    repository.branches[branch] = repository.branches["main"]
    return handler.send(200, {})


def validate_yaml(handler: Handler, body: bytes) -> None:
    errors = list(card_errors(json.loads(body)["content"]))
    handler.send(400 if errors else 200, {"errors": [{"message": error} for error in errors], "warnings": []})


def card_errors(content: str) -> Iterator[str]:
    """What is wrong with the metadata of a model card, by the rules that the hub documents."""
    found = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    if not found:
        return
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        yield f"not YAML: {error}"
        return
    for key in ("license", "license_name", "license_link", "library_name", "pipeline_tag", "base_model_relation"):
        if not isinstance(data.get(key, ""), str):
            yield f'"{key}" must be a string'
    for key in ("tags", "datasets"):
        if not all(isinstance(item, str) for item in data.get(key, [])):
            yield f'"{key}" must be an array of strings'
    if data.get("license") == "other" and not re.fullmatch(r"[a-z0-9._-]+", data.get("license_name", "")):
        yield '"license_name" is required when license is "other"'
    bases = data.get("base_model", [])
    for base in [bases] if isinstance(bases, str) else bases:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
            yield f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.'
    if data.get("base_model_relation", "finetune") not in ("finetune", "adapter", "merge", "quantized"):
        yield '"base_model_relation" must be one of [finetune, adapter, merge, quantized]'
    for result in (item for model in data.get("model-index", []) for item in model.get("results", [{}])):
        for part in ("task", "dataset", "metrics"):
            if not result.get(part):
                yield f'"model-index[0].results[0].{part}" is required'
        if not all(isinstance(metric.get("value"), (int, float)) for metric in result.get("metrics", [])):
            yield "a metric has no number"
    if "model-index" in data:
        model_index_to_eval_results(data["model-index"])


def preupload(handler: Handler, body: bytes, kind: str, name: str, revision: str) -> None:
    handler.check_token()
    repository, commit = handler.commit_of(kind, name, revision)
    files = []
    for file in json.loads(body)["files"]:
        large = file["size"] >= LARGE_BYTES or file["path"].endswith(".safetensors")
        old = repository.commits[commit].get(file["path"])
        # Of a large file its LFS hash, of another that of the git blob.
        git = old is not None and hashlib.sha1(b"blob %d\0" % len(old) + old).hexdigest()
        oid = (hashlib.sha256(old).hexdigest() if large else git) if old is not None else None
        mode = "lfs" if large else "regular"
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    handler.send(200, {"files": files})


def lfs_batch(handler: Handler, body: bytes, name: str, prefix: str | None = None) -> None:
    handler.check_token()
    objects = []
    for wanted in json.loads(body)["objects"]:
        oid = wanted["oid"]
        actions = {
            "upload": {"href": f"{handler.server.url}/lfs/{oid}", "header": {}},
            "verify": {"href": f"{handler.server.url}/lfs-verify", "header": {}},
        }
        objects.append(wanted | ({} if oid in handler.server.large else {"actions": actions}))
    handler.send(200, {"transfer": "basic", "objects": objects})


def lfs_put(handler: Handler, body: bytes, oid: str) -> None:
    if hashlib.sha256(body).hexdigest() != oid:
        raise RefusalError(400, "", "BadDigest")
    handler.server.large[oid] = body
    handler.server.puts[oid] += 1
    handler.send(200, b"")


def lfs_verify(handler: Handler, body: bytes) -> None:
    asked = json.loads(body)
    whole = len(handler.server.large.get(asked["oid"], b"")) == asked["size"]
    handler.send(200 if whole else 404, {})


def commit(handler: Handler, body: bytes, kind: str, name: str, revision: str) -> None:
    handler.check_token()
    repository, parent = handler.commit_of(kind, name, revision)
    files = dict(repository.commits[parent])
    branch = revision
    for line in (json.loads(line) for line in body.splitlines()):
        key, value = line["key"], line["value"]
        if key == "header":
            repository.messages.append(value["summary"])
        elif key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = handler.server.large[value["oid"]]
        elif key == "deletedFile":
            del files[value["path"]]
        else:
            raise RefusalError(400, "", f"unknown operation {key}")
    answer: dict[str, Any] = {"success": True}
    if handler.query.get("create_pr") == ["1"]:
        repository.pull_requests += 1
        branch = f"refs/pr/{repository.pull_requests}"
        answer["pullRequestUrl"] = f"{handler.server.url}/{name}/discussions/{repository.pull_requests}"
    oid = handler.server.commit(repository, branch, files)
    handler.send(200, answer | {"commitUrl": f"{handler.server.url}/{name}/commit/{oid}", "commitOid": oid})


def info(handler: Handler, body: bytes, kind: str, name: str, revision: str = "main") -> None:
    repository, commit = handler.commit_of(kind, name, revision)
    siblings = [{"rfilename": path} for path in repository.commits[commit]]
    handler.send(200, {"id": name, "sha": commit, "private": repository.private, "siblings": siblings, "tags": []})


def tree(handler: Handler, body: bytes, kind: str, name: str, revision: str, folder: str | None = None) -> None:
    repository, commit = handler.commit_of(kind, name, revision)
    start = f"{folder.strip('/')}/" if folder else ""
    entries = {}
    for path, content in repository.commits[commit].items():
        if not path.startswith(start):
            continue
        inner = path.removeprefix(start)
        if "/" in inner:
            place = start + inner.split("/")[0]
            entries[place] = {"type": "directory", "path": place, "oid": "0" * 40, "size": 0}
        if "/" not in inner or handler.query.get("recursive", ["false"])[0].lower() == "true":
            entries[path] = {
                "type": "file",
                "path": path,
                "oid": hashlib.sha1(content).hexdigest(),
                "size": len(content),
            }
    if start and not entries:
        raise RefusalError(404, "EntryNotFound", "not there")
    handler.send(200, list(entries.values()))


def resolve(handler: Handler, body: bytes, name: str, revision: str, path: str, kind: str = "models") -> None:
    repository, commit = handler.commit_of(kind or "models", name, revision)
    content = repository.commits[commit].get(path)
    if content is None:
        return handler.send(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
    headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
    if found := re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", "")):
        content = content[int(found[1]) : int(found[2]) + 1 if found[2] else None]
        return handler.send(206, content, headers)
    return handler.send(200, content, headers)


NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
REPO = rf"/api/(?P<kind>models|datasets)/{NAME}"
ROUTES = (
    ("GET", r"/api/whoami-v2", whoami),
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", validate_yaml),
    ("POST", rf"{REPO}/branch/(?P<branch>.+)", branch),
    ("POST", rf"{REPO}/preupload/(?P<revision>.+)", preupload),
    ("POST", rf"{REPO}/commit/(?P<revision>.+)", commit),
    ("POST", rf"/(?P<prefix>datasets/)?{NAME}\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", lfs_put),
    ("POST", r"/lfs-verify", lfs_verify),
    ("GET", REPO, info),
    ("GET", rf"{REPO}/revision/(?P<revision>.+)", info),
    ("GET", rf"{REPO}/tree/(?P<revision>[^/]+)(?P<folder>/.+)?", tree),
    ("GET|HEAD", rf"/(?P<kind>datasets)/{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
    ("GET|HEAD", rf"/{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
)
