"""What to tell a person about a call that failed: what, why, and what to do."""

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

ADVICE = {
    "UNAUTHENTICATED": "Set RUNWARDEN_API_KEY to a valid key; `npm start` prints some.",
    "ROLE_TOO_LOW": "Use the key of somebody with the role that it needs.",
    "APPROVER_NOT_ALLOWED": "Have somebody else confirm it, such as an approver who did not ask.",
    "UNKNOWN_TOOL": "See which there are: tools",
    "AMBIGUOUS_TOOL": "Write the full name, provider/tool: tools",
    "TOOL_ARGUMENTS_INVALID": "Correct the arguments; the tool's input schema says what fits.",
    "INVALID_REQUEST": "Correct the fields that are named.",
    "NOT_FOUND": "See which runs there are: runs",
    "APPROVAL_NOT_PENDING": "Look how the run stands: watch",
}


def describe(error: grpc.RpcError, url: str) -> str:
    """Reads the google.rpc details that every error of Runwarden carries."""
    status = rpc_status.from_call(error)
    if status is None:
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            return f"Nothing answers at {url}. Start a mesh with `npm start`, or set RUNWARDEN_URL."
        return f"{error.code().name}: {error.details()}"
    info, lines = ErrorInfo(), []
    for detail in status.details:
        bad = BadRequest()
        if detail.Unpack(info):
            lines.insert(0, f"{info.reason}: {status.message}")
        elif detail.Unpack(bad):
            lines += [f"  {it.field}: {it.description}" for it in bad.field_violations]
    if advice := ADVICE.get(info.reason):
        lines.append(advice)
    return "\n".join(lines or [status.message])
