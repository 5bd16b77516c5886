"""The orders service: serves its tools until SIGINT or SIGTERM."""

import asyncio
import logging
import os
import signal
from pathlib import Path

import grpc
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from runwarden.tools.v1.tool_provider_service_pb2_grpc import (
    add_ToolProviderServiceServicer_to_server,
)

from identity import read_tools_key
from orders import Orders
from provider import TOOLS, OrdersProvider

GRACE_SECONDS = 10

log = logging.getLogger("orders")


async def serve() -> None:
    env = os.environ
    if "RUNWARDEN_TRUSTED_KEYS" not in env:
        raise SystemExit('Set it first: export "$(npm start --silent -- --provider-env)"')
    name = env.get("ORDERS_NAME", "orders")
    file = env.get("ORDERS_DATABASE", str(Path(__file__).with_name("orders.sqlite")))
    lookup_seconds = int(env.get("ORDERS_LOOKUP_MS", "20")) / 1000
    payment_seconds = int(env.get("ORDERS_PAYMENT_MS", "200")) / 1000

    async def look_up() -> None:
        await asyncio.sleep(lookup_seconds)

    async def pay(cents: int) -> None:
        log.info("paying cents=%d", cents)
        await asyncio.sleep(payment_seconds)

    orders = Orders(file, look_up, pay)
    server = grpc.aio.server()
    provider = OrdersProvider(orders, read_tools_key(env["RUNWARDEN_TRUSTED_KEYS"]), name)
    add_ToolProviderServiceServicer_to_server(provider, server)
    port = server.add_insecure_port(env.get("ORDERS_LISTEN", "127.0.0.1:7201"))
    await server.start()
    log.info("serving name=%s tools=%d port=%d", name, len(TOOLS), port)

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await server.stop(GRACE_SECONDS)
    await orders.close()


def export_traces() -> TracerProvider | None:
    """Sends spans to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names, if there is one."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": "orders"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    traces = export_traces()
    try:
        asyncio.run(serve())
    finally:
        if traces is not None:
            traces.shutdown()
