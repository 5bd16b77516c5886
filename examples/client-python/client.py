"""Runwarden over gRPC, as one member of one workspace."""

import time
import uuid
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Self
from urllib.parse import urlsplit

import grpc
from runwarden.gateway.v1.workspace_service_pb2 import ListWorkspacesRequest
from runwarden.gateway.v1.workspace_service_pb2_grpc import WorkspaceServiceStub
from runwarden.orchestrator.v1.approval_pb2 import Approval, ApprovalState
from runwarden.orchestrator.v1.approval_service_pb2 import (
    Answer,
    DecideRequest,
    GetApprovalRequest,
    ListApprovalsRequest,
)
from runwarden.orchestrator.v1.approval_service_pb2_grpc import ApprovalServiceStub
from runwarden.orchestrator.v1.plan_pb2 import Plan, PlanStep
from runwarden.orchestrator.v1.run_event_pb2 import RunEvent
from runwarden.orchestrator.v1.run_pb2 import Run
from runwarden.orchestrator.v1.run_service_pb2 import (
    GetRunRequest,
    ListRunsRequest,
    WatchRunRequest,
)
from runwarden.orchestrator.v1.run_service_pb2_grpc import RunServiceStub
from runwarden.orchestrator.v1.start_run_pb2 import StartRunRequest
from runwarden.tools.v1.registry_service_pb2 import RegistryServiceListToolsRequest
from runwarden.tools.v1.registry_service_pb2_grpc import RegistryServiceStub
from runwarden.tools.v1.tool_pb2 import Tool

TIMEOUT_SECONDS = 10
MAX_RECONNECTS = 30


class Runwarden:
    def __init__(self, url: str, api_key: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "https":
            credentials = grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(parts.netloc, credentials)
        else:
            self._channel = grpc.insecure_channel(parts.netloc)
        metadata = [("authorization", f"Bearer {api_key}")]
        self._stream = {"metadata": metadata}
        self._unary = {"metadata": metadata, "timeout": TIMEOUT_SECONDS}
        self._runs = RunServiceStub(self._channel)
        self._approvals = ApprovalServiceStub(self._channel)
        self._registry = RegistryServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    @cached_property
    def workspace_id(self) -> str:
        """An API key belongs to one workspace; the gateway tells which."""
        workspaces = WorkspaceServiceStub(self._channel)
        found = workspaces.ListWorkspaces(ListWorkspacesRequest(), **self._unary)
        return found.memberships[0].workspace.workspace_id

    def start(self, tool: str, arguments: dict[str, Any]) -> Run:
        request = StartRunRequest(
            workspace_id=self.workspace_id,
            # Sent again with the same id, the request would start no second run.
            request_id=str(uuid.uuid4()),
            plan=Plan(name=tool, steps=[PlanStep(tool=tool, arguments=arguments)]),
        )
        return self._runs.StartRun(request, **self._unary).run

    def watch(self, run_id: str) -> Iterator[RunEvent]:
        """The history until the run has ended; goes on where a lost connection has stopped."""
        last, failures = 0, 0
        while True:
            request = WatchRunRequest(
                workspace_id=self.workspace_id, run_id=run_id, after_sequence=last
            )
            try:
                for response in self._runs.WatchRun(request, **self._stream):
                    last, failures = response.event.sequence, 0
                    yield response.event
                return
            except grpc.RpcError as error:
                failures += 1
                if error.code() != grpc.StatusCode.UNAVAILABLE or failures > MAX_RECONNECTS:
                    raise
                time.sleep(1)

    def get(self, run_id: str) -> Run:
        request = GetRunRequest(workspace_id=self.workspace_id, run_id=run_id)
        return self._runs.GetRun(request, **self._unary).run

    def pending_approvals(self, run_id: str) -> list[Approval]:
        """What a run waits for, each with the exact call that would be made."""
        states = [ApprovalState.APPROVAL_STATE_PENDING]
        request = ListApprovalsRequest(workspace_id=self.workspace_id, run_id=run_id, states=states)
        return [
            self._approvals.GetApproval(
                GetApprovalRequest(
                    workspace_id=self.workspace_id, approval_id=approval.approval_id
                ),
                **self._unary,
            ).approval
            for approval in self._approvals.ListApprovals(request, **self._unary).approvals
        ]

    def confirm(self, approval: Approval) -> Approval:
        request = DecideRequest(
            workspace_id=self.workspace_id,
            request_id=str(uuid.uuid4()),
            approval_id=approval.approval_id,
            # If the call has changed since it was shown, the answer does not count.
            digest=approval.digest,
            answer=Answer.ANSWER_APPROVE,
        )
        return self._approvals.Decide(request, **self._unary).approval

    def runs(self) -> Iterator[Run]:
        token = ""
        while True:
            request = ListRunsRequest(workspace_id=self.workspace_id, page_token=token)
            page = self._runs.ListRuns(request, **self._unary)
            yield from page.runs
            if not (token := page.next_page_token):
                return

    def tools(self) -> Iterator[Tool]:
        token = ""
        while True:
            request = RegistryServiceListToolsRequest(
                workspace_id=self.workspace_id, page_token=token
            )
            page = self._registry.ListTools(request, **self._unary)
            yield from page.tools
            if not (token := page.next_page_token):
                return
