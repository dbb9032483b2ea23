"""Pairs of proxies in the test's own process, on free loopback ports."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from imaging_ingestion.tunnel.metrics import TunnelMetrics
from imaging_ingestion.tunnel.proxy import Proxy
from imaging_ingestion.tunnel.settings import proxy_settings

DEADLINE = 60.0  # seconds for whatever is waited for


@dataclass
class RunningProxy:
    """A proxy with its metrics."""

    proxy: Proxy
    registry: CollectorRegistry

    @property
    def port(self) -> int:
        """Where local peers call it."""
        return self.proxy.port

    def makes_wait(self) -> bool:
        """Whether it has let some peer wait, for its window is full."""
        streams = self.proxy.tunnel._streams.values()
        return any(one.core.room < one.core.window // 2 for one in streams)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one of the tunnel's metrics."""
        value = self.registry.get_sample_value(f"imaging_ingestion_tunnel_{name}", labels)
        return value or 0.0


@dataclass
class Pair:
    """`near` is on channel A, `far` on channel B."""

    root: str
    near: RunningProxy
    far: RunningProxy


@dataclass(frozen=True)
class Behind:
    """The entity behind a proxy."""

    port: int
    ae_title: str = "TARGET"
    host: str = "127.0.0.1"

    def values(self) -> dict[str, str]:
        return {
            "DIMSE_TARGET_HOST": self.host,
            "DIMSE_TARGET_PORT": str(self.port),
            "DIMSE_TARGET_AE": self.ae_title,
        }


def new_root() -> str:
    """A subject root that nobody else has."""
    return f"TEST.{secrets.token_hex(6)}"


@asynccontextmanager
async def running_proxy(
    servers: str, channel: str, root: str, **values: str
) -> AsyncIterator[RunningProxy]:
    """One proxy, connected."""
    registry = CollectorRegistry()
    settings = proxy_settings(
        {
            "DIMSE_NATS_URL": servers,
            "DIMSE_NATS_SUBJECT_ROOT": root,
            "DIMSE_NATS_SUBJECT_CHANNEL": channel,
            "DIMSE_HOST": "127.0.0.1",
            "DIMSE_PORT": "0",
            "DIMSE_DRAIN_TIMEOUT": "0",
            **values,
        }
    )
    proxy = Proxy(settings, TunnelMetrics(registry))
    await proxy.start()
    try:
        async with asyncio.timeout(DEADLINE):
            await proxy.tunnel.connected()
        yield RunningProxy(proxy, registry)
    finally:
        await proxy.stop()


@asynccontextmanager
async def proxies(
    servers: str,
    far: Behind | None,
    near: Behind | None = None,
    *,
    near_values: Mapping[str, str] | None = None,
    far_values: Mapping[str, str] | None = None,
) -> AsyncIterator[Pair]:
    """Both sides: `far` is whom calls of the near side reach, `near` the other way round."""
    root = new_root()
    async with AsyncExitStack() as stack:
        sides = []
        for channel, behind, values in (("A", near, near_values), ("B", far, far_values)):
            settings = {**(behind.values() if behind else {}), **(values or {})}
            one = running_proxy(servers, channel, root, **settings)
            sides.append(await stack.enter_async_context(one))
        yield Pair(root, *sides)


async def eventually(is_so: Callable[[], object], timeout: float = DEADLINE) -> None:
    """Wait until something is so that nothing tells of."""
    async with asyncio.timeout(timeout):
        while not is_so():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)


async def run(*command: str) -> tuple[int, str]:
    """Run a program; its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(4 * DEADLINE):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")
