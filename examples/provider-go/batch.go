package main

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	toolsv1 "runwarden.dev/gen/go/runwarden/tools/v1"
)

const usualTimeout = 10 * time.Second

// BatchExecuteTool runs calls that are due at the same moment, each as if it had come alone. It may
// be left out: Runwarden then sends them one by one, which costs more under load.
func (p *Provider) BatchExecuteTool(batch *toolsv1.BatchExecuteToolRequest, stream grpc.ServerStreamingServer[toolsv1.BatchExecuteToolResponse]) error {
	if _, err := p.verifier.Caller(stream.Context()); err != nil {
		return err
	}
	slog.Info("batch", "items", len(batch.Items))
	// With room for all of them, so that none waits for a stream that has ended.
	results := make(chan *toolsv1.BatchExecuteToolResult, len(batch.Items))
	for index, item := range batch.Items {
		go func() {
			result := &toolsv1.BatchExecuteToolResult{Item: uint32(index)}
			if response, err := p.executeItem(stream.Context(), batch.Identities, item); err != nil {
				result.Outcome = &toolsv1.BatchExecuteToolResult_Error{Error: status.Convert(err).Proto()}
			} else {
				result.Outcome = &toolsv1.BatchExecuteToolResult_Response{Response: response}
			}
			results <- result
		}()
	}
	for range batch.Items {
		ready := []*toolsv1.BatchExecuteToolResult{<-results}
		if err := stream.Send(&toolsv1.BatchExecuteToolResponse{Results: ready}); err != nil {
			return err
		}
	}
	return nil
}

// executeItem gives an item its own caller, trace and deadline.
func (p *Provider) executeItem(ctx context.Context, identities []string, item *toolsv1.BatchExecuteToolItem) (*toolsv1.ExecuteToolResponse, error) {
	if int(item.Identity) >= len(identities) {
		return nil, errToken
	}
	caller, err := p.verifier.Verify(identities[item.Identity])
	if err != nil {
		return nil, err
	}
	carrier := propagation.MapCarrier{"traceparent": item.TraceParent}
	ctx = otel.GetTextMapPropagator().Extract(ctx, carrier)
	ctx, span := otel.Tracer("orders").Start(ctx, "execute "+item.Request.GetTool())
	defer span.End()
	timeout := time.Duration(item.TimeoutMillis) * time.Millisecond
	if timeout == 0 {
		timeout = usualTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return p.execute(ctx, caller, item.Request)
}
