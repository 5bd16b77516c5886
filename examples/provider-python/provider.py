"""What the orders service offers to runs, and how it answers them."""

import asyncio
import logging
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.json_format import MessageToDict, ParseDict
from opentelemetry import propagate, trace
from runwarden.tools.v1.tool_pb2 import Effect, RiskClass, ToolDefinition
from runwarden.tools.v1.tool_provider_service_pb2 import (
    ExecuteToolRequest,
    ExecuteToolResponse,
    GetOutcomeRequest,
    GetOutcomeResponse,
    ListToolsRequest,
    ListToolsResponse,
    Outcome,
)
from runwarden.tools.v1.tool_provider_service_pb2_grpc import ToolProviderServiceServicer

from identity import Caller, InvalidTokenError, verify_token
from orders import Answer, InterruptedCallError, Orders

log = logging.getLogger("orders")
tracer = trace.get_tracer("orders")


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


ORDER_ID = {"type": "string", "maxLength": 40, "description": "Such as A-1001."}
TEXT = {"type": "string", "minLength": 1, "maxLength": 500}
CENTS = {"type": "integer", "minimum": 0}
ORDER = _object(
    order_id=ORDER_ID,
    total_cents=CENTS,
    refunded_cents=CENTS,
    notes={"type": "array", "items": TEXT},
)

TOOLS = [
    ToolDefinition(
        name="order.get",
        version="1.0.0",
        title="Get an order",
        description="Returns an order, its refunds and its notes. Fails with order_not_found.",
        risk_class=RiskClass.RISK_CLASS_LOW,
        effect=Effect.EFFECT_READ,
        input_schema=_object(order_id=ORDER_ID),
        output_schema=ORDER,
    ),
    ToolDefinition(
        name="order.note",
        version="1.0.0",
        title="Add a note to an order",
        description="Adds a note and returns the order. Fails with order_not_found.",
        risk_class=RiskClass.RISK_CLASS_LOW,
        effect=Effect.EFFECT_KEYED,
        input_schema=_object(order_id=ORDER_ID, text=TEXT),
        output_schema=ORDER,
    ),
    ToolDefinition(
        name="order.refund",
        version="1.0.0",
        title="Refund an order",
        description="Pays money back and returns the order. "
        "Fails with order_not_found or refund_too_large.",
        risk_class=RiskClass.RISK_CLASS_HIGH,
        # The payment provider takes no key of ours: a lost answer of it cannot be asked for again.
        effect=Effect.EFFECT_UNSAFE,
        input_schema=_object(order_id=ORDER_ID, cents={**CENTS, "minimum": 1}),
        output_schema=ORDER,
    ),
]


class OrdersProvider(ToolProviderServiceServicer):
    """BatchExecuteTool is left out: Runwarden then sends calls one by one."""

    def __init__(self, orders: Orders, key: Ed25519PublicKey, name: str) -> None:
        self._orders = orders
        self._key = key
        self._name = name

    async def ListTools(
        self, request: ListToolsRequest, context: grpc.aio.ServicerContext
    ) -> ListToolsResponse:
        await self._caller(context)
        return ListToolsResponse(tools=TOOLS)

    async def ExecuteTool(
        self, request: ExecuteToolRequest, context: grpc.aio.ServicerContext
    ) -> ExecuteToolResponse:
        caller = await self._caller(context)
        parent = propagate.extract(dict(context.invocation_metadata()))
        name = f"execute {request.tool}"
        with tracer.start_as_current_span(name, parent, trace.SpanKind.SERVER) as span:
            trace_id = trace.format_trace_id(span.get_span_context().trace_id)
            about = f"tool={request.tool} key={request.idempotency_key}"
            for_whom = f"workspace={caller.workspace_id} actor={caller.actor_id}"
            left_ms = int((context.time_remaining() or 0) * 1000)
            details = f"run={request.run_id} trace={trace_id} left_ms={left_ms}"
            log.info("call %s %s %s", about, for_whom, details)
            try:
                return await self._execute(caller, request, context)
            except asyncio.CancelledError:
                # The caller has given up, or its deadline has passed.
                log.info("stopped %s", about)
                raise

    async def GetOutcome(
        self, request: GetOutcomeRequest, context: grpc.aio.ServicerContext
    ) -> GetOutcomeResponse:
        caller = await self._caller(context)
        try:
            known = self._orders.outcome(caller.workspace_id, request.idempotency_key)
        except InterruptedCallError:
            known = None
        # A call that is not recorded may still be on its way: NOT_EXECUTED would promise too much.
        if known is None:
            return GetOutcomeResponse(outcome=Outcome.OUTCOME_UNKNOWN)
        return GetOutcomeResponse(outcome=Outcome.OUTCOME_COMPLETED, response=_response(known))

    async def _execute(
        self, caller: Caller, request: ExecuteToolRequest, context: grpc.aio.ServicerContext
    ) -> ExecuteToolResponse:
        workspace_id, key = caller.workspace_id, request.idempotency_key
        # Runwarden has checked the arguments against the schema.
        match MessageToDict(request.arguments), f"{request.tool}@{request.version}":
            case {"order_id": order_id}, "order.get@1.0.0":
                return _response(await self._orders.get(workspace_id, order_id))
            case {"order_id": order_id, "text": text}, "order.note@1.0.0":
                return _response(self._orders.note(workspace_id, key, order_id, text))
            case {"order_id": order_id, "cents": cents}, "order.refund@1.0.0":
                try:
                    return _response(
                        await self._orders.refund(workspace_id, key, order_id, int(cents))
                    )
                except InterruptedCallError:
                    # INTERNAL leaves open whether the call took effect, and so it should.
                    await context.abort(grpc.StatusCode.INTERNAL, "The call was begun before.")
            case _, tool:
                message = f"There is no tool {tool} with such arguments."
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)

    async def _caller(self, context: grpc.aio.ServicerContext) -> Caller:
        token = dict(context.invocation_metadata()).get("runwarden-identity", "")
        try:
            return verify_token(str(token), self._key, self._name)
        except InvalidTokenError:
            message = "A valid token of the tools service is required."
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)
            raise


def _response(answer: Answer) -> ExecuteToolResponse:
    return ParseDict(answer, ExecuteToolResponse())
