"""Real object stores on free loopback ports: OpenStack Swift for S3, Azurite for Azure Blob.

Each test process has its own of each, from the first test that asks for one to the last of all.
Each is stopped by its own process id. For Google's store there is no server to be had.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest
from platform_process import free_port

START_TIMEOUT = 60.0  # seconds; a loaded machine starts slowly
_HERE = Path(__file__).resolve().parent
_AZURITE = _HERE / "azurite/node_modules/azurite/dist/src/blob/main.js"
_UNTIL_INPUT_ENDS = (
    "process.stdin.resume().on('end', () => process.exit()); require(process.argv[1])"
)
#: The account of every Azurite, known to everybody.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

_AZURE_VERSION = "2018-11-09"


@dataclass
class SwiftStore:
    """Swift with its S3 API."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> SwiftStore:
        self._open_port_file.unlink(missing_ok=True)
        command = [sys.executable, str(_HERE / "swift_server.py"), str(self.folder), str(self.port)]
        self.process = _start(self.folder, command, self._open_port_file.exists)
        return self

    def kill(self) -> None:
        _kill(self.process)

    def new_bucket(self) -> str:
        bucket = f"b{uuid.uuid4().hex}"
        self.behind("PUT", bucket)
        return bucket

    def settings(self, bucket: str, port: int | None = None) -> dict[str, str]:
        return {
            "BUCKET_HOST": "http://127.0.0.1",
            "BUCKET_PORT": str(port or self.port),
            "BUCKET_NAME": bucket,
            "AWS_ACCESS_KEY_ID": "test:tester",
            "AWS_SECRET_ACCESS_KEY": "testing",
        }

    def limit(self, bucket: str, **most: int) -> None:
        """Let the bucket hold so many `bytes`, and objects (`count`)."""
        limits = {f"X-Container-Meta-Quota-{what}": str(value) for what, value in most.items()}
        self.behind("POST", bucket, limits)

    def parts(self, bucket: str) -> list[str]:
        """What is there of uploads in parts, finished or not."""
        return self.behind("GET", f"{bucket}+segments").split() if self._has_parts(bucket) else []

    def behind(self, method: str, path: str, headers: dict[str, str] | None = None) -> str:
        """Ask Swift itself, past its S3 API."""
        url = f"http://127.0.0.1:{self._open_port_file.read_text()}/v1/AUTH_test/{path}"
        request = urllib.request.Request(url, method=method, headers=headers or {})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    def _has_parts(self, bucket: str) -> bool:
        return f"{bucket}+segments" in self.behind("GET", "").split()

    @property
    def _open_port_file(self) -> Path:
        return self.folder / "open-port"


@dataclass
class AzuriteStore:
    """Azurite's blob service."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> AzuriteStore:
        node = shutil.which("node")
        if node is None or not _AZURITE.exists():
            raise RuntimeError("azurite is not installed: `make test` installs it, with npm")
        command = [node, "--eval", _UNTIL_INPUT_ENDS, str(_AZURITE), "--location", str(self.folder)]
        command += ["--blobHost", "127.0.0.1", "--blobPort", str(self.port)]
        command += ["--skipApiVersionCheck", "--silent", "--disableTelemetry"]
        self.process = _start(self.folder, command, self._listens)
        return self

    def kill(self) -> None:
        _kill(self.process)

    def new_bucket(self) -> str:
        container = f"c{uuid.uuid4().hex}"
        url = f"{self.url()}/{container}?restype=container&{self._account_signature()}"
        request = urllib.request.Request(url, method="PUT", headers={"Content-Length": "0"})
        with urllib.request.urlopen(request, timeout=30):
            return container

    def settings(self, bucket: str, port: int | None = None) -> dict[str, str]:
        return {
            "AZURE_CONTAINER_NAME": bucket,
            "AZURE_STORAGE_CONNECTION_STRING": self.url(port),
            "AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY,
        }

    def url(self, port: int | None = None) -> str:
        """Of the account."""
        return f"http://127.0.0.1:{port or self.port}/{AZURE_ACCOUNT}"

    def signature(self, container: str, permissions: str = "rwdlac") -> str:
        """A shared access signature of a container, for an hour."""
        resource = f"/blob/{AZURE_ACCOUNT}/{container}"
        end = _in_an_hour()
        signed = [permissions, "", end, resource, "", "", "", _AZURE_VERSION, "c", *[""] * 6]
        fields = {"sv": _AZURE_VERSION, "sr": "c", "sp": permissions, "se": end}
        return urlencode(fields | {"sig": _sign(signed)})

    def _account_signature(self) -> str:
        """One of the account, which may make containers."""
        end = _in_an_hour()
        signed = [AZURE_ACCOUNT, "rwdlac", "b", "sco", "", end, "", "", _AZURE_VERSION, ""]
        fields = {"sv": _AZURE_VERSION, "ss": "b", "srt": "sco", "sp": "rwdlac", "se": end}
        return urlencode(fields | {"sig": _sign(signed)})

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False


def _in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _sign(fields: list[str]) -> str:
    key = base64.b64decode(AZURE_KEY)
    digest = hmac.new(key, "\n".join(fields).encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def _start(
    folder: Path, command: list[str], is_ready: Callable[[], bool]
) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as log:
        # With our end of the pipe its standard input ends, should this process die.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
    deadline = time.monotonic() + START_TIMEOUT
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            _kill(process)
            raise RuntimeError(f"{command} does not start:\n{(folder / 'log').read_text()}")
        time.sleep(0.01)  # polling another process: there is nothing to wait on
    return process


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.communicate()


@contextmanager
def running(make: type[SwiftStore] | type[AzuriteStore]) -> Iterator[SwiftStore | AzuriteStore]:
    """A store of one's own, to be killed and started again."""
    with tempfile.TemporaryDirectory(prefix="store", ignore_cleanup_errors=True) as folder:
        store = make(Path(folder))
        try:
            yield store.start()
        finally:
            store.kill()


@pytest.fixture(scope="session")
def swift() -> Iterator[SwiftStore]:
    with running(SwiftStore) as store:
        assert isinstance(store, SwiftStore)
        yield store


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzuriteStore]:
    with running(AzuriteStore) as store:
        assert isinstance(store, AzuriteStore)
        yield store


@pytest.fixture(params=["swift", "azurite"])
def object_store(request: pytest.FixtureRequest) -> SwiftStore | AzuriteStore:
    """Each of the stores."""
    store = request.getfixturevalue(request.param)
    assert isinstance(store, SwiftStore | AzuriteStore)
    return store
