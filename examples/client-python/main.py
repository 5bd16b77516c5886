"""Starts runs, follows and confirms them, over gRPC with an API key."""

import argparse
import json
import os
import sys
from itertools import islice

import grpc
from runwarden.orchestrator.v1.approval_pb2 import ApprovalState
from runwarden.orchestrator.v1.run_event_pb2 import RunEvent
from runwarden.orchestrator.v1.run_pb2 import RunState
from runwarden.orchestrator.v1.tool_call_pb2 import ToolCallState
from runwarden.tools.v1.tool_pb2 import Effect, RiskClass

from client import Runwarden
from failure import describe

MAX_LISTED = 200
ENVIRONMENT = """\
environment:
  RUNWARDEN_API_KEY  whose key is used; required
  RUNWARDEN_URL      where the mesh is; http://127.0.0.1:7100 where it is not set

Ends with 0, with 1 for an error, and with 2 where a watched run did not succeed."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__,
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    start = commands.add_parser("start", help="start a run of one call, and print its id")
    start.add_argument("tool", help="such as orders/order.get")
    start.add_argument("arguments", nargs="?", default="{}", help="its arguments as JSON")
    watch = commands.add_parser("watch", help="follow a run until it has ended")
    watch.add_argument("run")
    confirm = commands.add_parser("confirm", help="show what a run waits for, and let it happen")
    confirm.add_argument("run")
    confirm.add_argument("--yes", action="store_true", help="do not ask")
    commands.add_parser("runs", help=f"list runs, newest first, at most {MAX_LISTED}")
    commands.add_parser("tools", help="list what runs may do")
    return made


def main() -> int:
    options = parser().parse_args()
    url = os.environ.get("RUNWARDEN_URL") or "http://127.0.0.1:7100"
    try:
        with Runwarden(url, os.environ.get("RUNWARDEN_API_KEY", "")) as runwarden:
            return run(runwarden, options)
    except grpc.RpcError as error:
        print(describe(error, url), file=sys.stderr)
    except json.JSONDecodeError as error:
        print(f"The arguments are not JSON: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def run(runwarden: Runwarden, options: argparse.Namespace) -> int:
    match options.command:
        case "start":
            print(runwarden.start(options.tool, json.loads(options.arguments)).run_id)
        case "watch":
            return watch(runwarden, options.run)
        case "confirm":
            return confirm(runwarden, options.run, options.yes)
        case "runs":
            for one in islice(runwarden.runs(), MAX_LISTED):
                state = RunState.Name(one.state).removeprefix("RUN_STATE_")
                # Quoted: what others named must not act on the terminal.
                print(one.run_id, state, json.dumps(one.plan_name))
        case "tools":
            for tool in runwarden.tools():
                risk = RiskClass.Name(tool.definition.risk_class).removeprefix("RISK_CLASS_")
                effect = Effect.Name(tool.definition.effect).removeprefix("EFFECT_")
                print(tool.full_name, risk, effect, json.dumps(tool.definition.title))
    return 0


def watch(runwarden: Runwarden, run_id: str) -> int:
    for event in runwarden.watch(run_id):
        if line := describe_event(event, run_id):
            print(line, flush=True)
    state = runwarden.get(run_id).state
    return 0 if state == RunState.RUN_STATE_SUCCEEDED else 2


def describe_event(event: RunEvent, run_id: str) -> str | None:
    match event.WhichOneof("kind"):
        case "run_state_changed":
            change = event.run_state_changed
            state = RunState.Name(change.state).removeprefix("RUN_STATE_")
            return f"run {state} {change.reason}".rstrip()
        case "tool_call_state_changed":
            call = event.tool_call_state_changed
            state = ToolCallState.Name(call.state).removeprefix("TOOL_CALL_STATE_")
            return f"step {call.step_index} {call.tool} {state} {call.reason}".rstrip()
        case "approval_state_changed":
            approval = event.approval_state_changed
            state = ApprovalState.Name(approval.state).removeprefix("APPROVAL_STATE_")
            hint = f" (as an approver: confirm {run_id})" if state == "PENDING" else ""
            return f"approval of step {approval.step_index} {state}{hint}"
        case _:
            return None


def confirm(runwarden: Runwarden, run_id: str, is_sure: bool) -> int:
    waiting = runwarden.pending_approvals(run_id)
    if not waiting:
        print("The run waits for nobody's yes.", file=sys.stderr)
        return 1
    for approval in waiting:
        print(json.dumps(json.loads(approval.preview), indent=2))
        if not is_sure and input("Let it happen? [y/N] ").strip().lower() != "y":
            return 1
        state = runwarden.confirm(approval).state
        print(approval.tool, ApprovalState.Name(state).removeprefix("APPROVAL_STATE_"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
