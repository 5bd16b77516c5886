package main

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/url"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	gatewayv1 "runwarden.dev/gen/go/runwarden/gateway/v1"
	orchestratorv1 "runwarden.dev/gen/go/runwarden/orchestrator/v1"
	toolsv1 "runwarden.dev/gen/go/runwarden/tools/v1"
)

const (
	timeout       = 10 * time.Second
	maxReconnects = 30
)

// Client is Runwarden over gRPC, as one member of one workspace.
type Client struct {
	conn        *grpc.ClientConn
	runs        orchestratorv1.RunServiceClient
	approvals   orchestratorv1.ApprovalServiceClient
	registry    toolsv1.RegistryServiceClient
	workspaceID string
}

// Connect finds the workspace of the key: an API key belongs to one.
func Connect(ctx context.Context, address, apiKey string) (*Client, error) {
	place, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	security := insecure.NewCredentials()
	if place.Scheme == "https" {
		security = credentials.NewTLS(nil)
	}
	authorize := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+apiKey)
	}
	conn, err := grpc.NewClient(place.Host,
		grpc.WithTransportCredentials(security),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, in, out any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
			ctx, cancel := context.WithTimeout(authorize(ctx), timeout)
			defer cancel()
			return invoke(ctx, method, in, out, conn, options...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, stream *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
			return open(authorize(ctx), stream, conn, method, options...)
		}),
	)
	if err != nil {
		return nil, err
	}
	found, err := gatewayv1.NewWorkspaceServiceClient(conn).ListWorkspaces(ctx, &gatewayv1.ListWorkspacesRequest{})
	if err == nil && len(found.Memberships) == 0 {
		err = errors.New("the owner of this key belongs to no workspace")
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Client{
		conn:        conn,
		runs:        orchestratorv1.NewRunServiceClient(conn),
		approvals:   orchestratorv1.NewApprovalServiceClient(conn),
		registry:    toolsv1.NewRegistryServiceClient(conn),
		workspaceID: found.Memberships[0].Workspace.WorkspaceId,
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Start starts a run of one call.
func (c *Client) Start(ctx context.Context, tool string, arguments *structpb.Struct) (*orchestratorv1.Run, error) {
	started, err := c.runs.StartRun(ctx, &orchestratorv1.StartRunRequest{
		WorkspaceId: c.workspaceID,
		// Sent again with the same id, the request would start no second run.
		RequestId: uuid.NewString(),
		Plan: &orchestratorv1.Plan{
			Name:  tool,
			Steps: []*orchestratorv1.PlanStep{{Tool: tool, Arguments: arguments}},
		},
	})
	return started.GetRun(), err
}

// Watch gives the history until the run has ended. It goes on where a lost connection has stopped.
func (c *Client) Watch(ctx context.Context, runID string) iter.Seq2[*orchestratorv1.RunEvent, error] {
	return func(yield func(*orchestratorv1.RunEvent, error) bool) {
		request := &orchestratorv1.WatchRunRequest{WorkspaceId: c.workspaceID, RunId: runID}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for failures := 0; ; {
			stream, err := c.runs.WatchRun(ctx, request)
			for err == nil {
				var next *orchestratorv1.WatchRunResponse
				if next, err = stream.Recv(); err != nil {
					break
				}
				request.AfterSequence = next.Event.Sequence
				failures = 0
				if !yield(next.Event, nil) {
					return
				}
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if failures++; status.Code(err) != codes.Unavailable || failures > maxReconnects {
				yield(nil, err)
				return
			}
			time.Sleep(time.Second)
		}
	}
}

// Get reads a run.
func (c *Client) Get(ctx context.Context, runID string) (*orchestratorv1.Run, error) {
	found, err := c.runs.GetRun(ctx, &orchestratorv1.GetRunRequest{WorkspaceId: c.workspaceID, RunId: runID})
	return found.GetRun(), err
}

// PendingApprovals tells what a run waits for, each with the exact call that would be made.
func (c *Client) PendingApprovals(ctx context.Context, runID string) ([]*orchestratorv1.Approval, error) {
	listed, err := c.approvals.ListApprovals(ctx, &orchestratorv1.ListApprovalsRequest{
		WorkspaceId: c.workspaceID,
		RunId:       runID,
		States:      []orchestratorv1.ApprovalState{orchestratorv1.ApprovalState_APPROVAL_STATE_PENDING},
	})
	if err != nil {
		return nil, err
	}
	approvals := make([]*orchestratorv1.Approval, 0, len(listed.Approvals))
	for _, approval := range listed.Approvals {
		found, err := c.approvals.GetApproval(ctx, &orchestratorv1.GetApprovalRequest{
			WorkspaceId: c.workspaceID,
			ApprovalId:  approval.ApprovalId,
		})
		if err != nil {
			return nil, err
		}
		approvals = append(approvals, found.Approval)
	}
	return approvals, nil
}

// Confirm says yes to what was shown. If the call has changed since, the answer does not count.
func (c *Client) Confirm(ctx context.Context, approval *orchestratorv1.Approval) (*orchestratorv1.Approval, error) {
	decided, err := c.approvals.Decide(ctx, &orchestratorv1.DecideRequest{
		WorkspaceId: c.workspaceID,
		RequestId:   uuid.NewString(),
		ApprovalId:  approval.ApprovalId,
		Digest:      approval.Digest,
		Answer:      orchestratorv1.Answer_ANSWER_APPROVE,
	})
	return decided.GetApproval(), err
}

// Runs lists the runs, newest first.
func (c *Client) Runs(ctx context.Context) iter.Seq2[*orchestratorv1.Run, error] {
	return pages(func(token string) ([]*orchestratorv1.Run, string, error) {
		request := &orchestratorv1.ListRunsRequest{WorkspaceId: c.workspaceID, PageToken: token}
		page, err := c.runs.ListRuns(ctx, request)
		return page.GetRuns(), page.GetNextPageToken(), err
	})
}

// Tools lists what runs may do.
func (c *Client) Tools(ctx context.Context) iter.Seq2[*toolsv1.Tool, error] {
	return pages(func(token string) ([]*toolsv1.Tool, string, error) {
		request := &toolsv1.RegistryServiceListToolsRequest{WorkspaceId: c.workspaceID, PageToken: token}
		page, err := c.registry.ListTools(ctx, request)
		return page.GetTools(), page.GetNextPageToken(), err
	})
}

func pages[T any](read func(token string) ([]T, string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for token := ""; ; {
			items, next, err := read(token)
			if err != nil {
				yield(*new(T), err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if token = next; token == "" {
				return
			}
		}
	}
}
