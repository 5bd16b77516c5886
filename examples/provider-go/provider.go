package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	toolsv1 "runwarden.dev/gen/go/runwarden/tools/v1"
)

var (
	orderID = map[string]any{"type": "string", "maxLength": 40, "description": "Such as A-1001."}
	text    = map[string]any{"type": "string", "minLength": 1, "maxLength": 500}
	cents   = map[string]any{"type": "integer", "minimum": 0}
	payment = map[string]any{"type": "integer", "minimum": 1}
	order   = object(map[string]any{
		"order_id":       orderID,
		"total_cents":    cents,
		"refunded_cents": cents,
		"notes":          map[string]any{"type": "array", "items": text},
	})
)

var tools = []*toolsv1.ToolDefinition{
	{
		Name:         "order.get",
		Version:      "1.0.0",
		Title:        "Get an order",
		Description:  "Returns an order, its refunds and its notes. Fails with order_not_found.",
		RiskClass:    toolsv1.RiskClass_RISK_CLASS_LOW,
		Effect:       toolsv1.Effect_EFFECT_READ,
		InputSchema:  object(map[string]any{"order_id": orderID}),
		OutputSchema: order,
	},
	{
		Name:         "order.note",
		Version:      "1.0.0",
		Title:        "Add a note to an order",
		Description:  "Adds a note and returns the order. Fails with order_not_found.",
		RiskClass:    toolsv1.RiskClass_RISK_CLASS_LOW,
		Effect:       toolsv1.Effect_EFFECT_KEYED,
		InputSchema:  object(map[string]any{"order_id": orderID, "text": text}),
		OutputSchema: order,
	},
	{
		Name:        "order.refund",
		Version:     "1.0.0",
		Title:       "Refund an order",
		Description: "Pays money back and returns the order. Fails with order_not_found or refund_too_large.",
		RiskClass:   toolsv1.RiskClass_RISK_CLASS_HIGH,
		// The payment provider takes no key of ours: a lost answer of it cannot be asked for again.
		Effect:       toolsv1.Effect_EFFECT_UNSAFE,
		InputSchema:  object(map[string]any{"order_id": orderID, "cents": payment}),
		OutputSchema: order,
	},
}

// Provider serves the tools of the orders service.
type Provider struct {
	toolsv1.UnimplementedToolProviderServiceServer
	orders   *Orders
	verifier *Verifier
}

// ListTools answers with all definitions, the same whoever asks.
func (p *Provider) ListTools(ctx context.Context, _ *toolsv1.ListToolsRequest) (*toolsv1.ListToolsResponse, error) {
	if _, err := p.verifier.Caller(ctx); err != nil {
		return nil, err
	}
	return &toolsv1.ListToolsResponse{Tools: tools}, nil
}

// ExecuteTool runs one call.
func (p *Provider) ExecuteTool(ctx context.Context, call *toolsv1.ExecuteToolRequest) (*toolsv1.ExecuteToolResponse, error) {
	caller, err := p.verifier.Caller(ctx)
	if err != nil {
		return nil, err
	}
	return p.execute(ctx, caller, call)
}

// GetOutcome tells what became of an earlier call.
func (p *Provider) GetOutcome(ctx context.Context, call *toolsv1.GetOutcomeRequest) (*toolsv1.GetOutcomeResponse, error) {
	caller, err := p.verifier.Caller(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := p.orders.Outcome(ctx, caller.WorkspaceID, call.IdempotencyKey)
	// A call that is not recorded may still be on its way: NOT_EXECUTED would promise too much.
	if errors.Is(err, errInterrupted) || (err == nil && answer == nil) {
		return &toolsv1.GetOutcomeResponse{Outcome: toolsv1.Outcome_OUTCOME_UNKNOWN}, nil
	}
	response, err := toResponse(answer, err)
	if err != nil {
		return nil, err
	}
	return &toolsv1.GetOutcomeResponse{Outcome: toolsv1.Outcome_OUTCOME_COMPLETED, Response: response}, nil
}

func (p *Provider) execute(ctx context.Context, caller *Caller, call *toolsv1.ExecuteToolRequest) (*toolsv1.ExecuteToolResponse, error) {
	log := slog.With("tool", call.GetTool(), "key", call.GetIdempotencyKey())
	deadline, _ := ctx.Deadline()
	log.Info("call", "workspace", caller.WorkspaceID, "actor", caller.Subject, "run", call.GetRunId(),
		"trace", trace.SpanContextFromContext(ctx).TraceID(), "left_ms", time.Until(deadline).Milliseconds())
	answer, err := p.answer(ctx, caller.WorkspaceID, call)
	if ctx.Err() != nil {
		// The caller has given up, or its deadline has passed.
		log.Info("stopped")
	}
	return toResponse(answer, err)
}

func (p *Provider) answer(ctx context.Context, workspaceID string, call *toolsv1.ExecuteToolRequest) (*Answer, error) {
	// Runwarden has checked the arguments against the schema.
	arguments := call.GetArguments().GetFields()
	id := arguments["order_id"].GetStringValue()
	switch call.GetTool() + "@" + call.GetVersion() {
	case "order.get@1.0.0":
		return p.orders.Get(ctx, workspaceID, id)
	case "order.note@1.0.0":
		note := arguments["text"].GetStringValue()
		return p.orders.Note(ctx, workspaceID, call.IdempotencyKey, id, note)
	case "order.refund@1.0.0":
		amount := int64(arguments["cents"].GetNumberValue())
		return p.orders.Refund(ctx, workspaceID, call.IdempotencyKey, id, amount)
	default:
		return nil, status.Errorf(codes.InvalidArgument, "There is no tool %s@%s.", call.GetTool(), call.GetVersion())
	}
}

func toResponse(answer *Answer, err error) (*toolsv1.ExecuteToolResponse, error) {
	if err != nil {
		if _, isStatus := status.FromError(err); isStatus {
			return nil, err
		}
		if code := status.FromContextError(err).Code(); code != codes.Unknown {
			return nil, status.Error(code, err.Error())
		}
		// INTERNAL leaves open whether the call took effect, and so it should.
		slog.Error("call failed", "error", err)
		return nil, status.Error(codes.Internal, "Internal error.")
	}
	encoded, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	response := &toolsv1.ExecuteToolResponse{}
	return response, protojson.Unmarshal(encoded, response)
}

func object(properties map[string]any) *structpb.Struct {
	// In the same order always: a definition that changes under its version is not taken.
	var required []any
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		required = append(required, name)
	}
	schema, err := structpb.NewStruct(map[string]any{
		"type": "object", "properties": properties, "required": required, "additionalProperties": false,
	})
	if err != nil {
		panic(err)
	}
	return schema
}
