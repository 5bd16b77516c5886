// The orders service: serves its tools until SIGINT or SIGTERM.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.39.0"
	"google.golang.org/grpc"
	toolsv1 "runwarden.dev/gen/go/runwarden/tools/v1"
)

const grace = 10 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	trustedKeys := os.Getenv("RUNWARDEN_TRUSTED_KEYS")
	if trustedKeys == "" {
		return errors.New(`set it first: export "$(npm start --silent -- --provider-env)"`)
	}
	name := cmp.Or(os.Getenv("ORDERS_NAME"), "orders")
	verifier, err := NewVerifier(trustedKeys, name)
	if err != nil {
		return err
	}
	flush, err := exportTraces(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, flush(context.Background())) }()

	orders, err := OpenOrders(cmp.Or(os.Getenv("ORDERS_DATABASE"), "orders.sqlite"), pretended{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, orders.Close()) }()

	listener, err := net.Listen("tcp", cmp.Or(os.Getenv("ORDERS_LISTEN"), "127.0.0.1:7201"))
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.StatsHandler(otelgrpc.NewServerHandler()))
	toolsv1.RegisterToolProviderServiceServer(server, &Provider{orders: orders, verifier: verifier})
	defer context.AfterFunc(ctx, func() {
		defer time.AfterFunc(grace, server.Stop).Stop()
		server.GracefulStop()
	})()
	slog.Info("serving", "name", name, "tools", len(tools), "address", listener.Addr())
	return server.Serve(listener)
}

// exportTraces continues the traces of the callers, and sends spans to the collector that
// OTEL_EXPORTER_OTLP_ENDPOINT names, if there is one. It returns what sends the last ones.
func exportTraces(ctx context.Context) (func(context.Context) error, error) {
	otel.SetTextMapPropagator(propagation.TraceContext{})
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		return func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, err
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(semconv.ServiceName("orders"))),
	)
	otel.SetTracerProvider(provider)
	return provider.Shutdown, nil
}

// pretended stands for the shop's own systems and its payment provider.
type pretended struct{}

func (pretended) LookUp(ctx context.Context) error {
	select {
	case <-time.After(milliseconds("ORDERS_LOOKUP_MS", 20)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (pretended) Pay(cents int64) {
	slog.Info("paying", "cents", cents)
	time.Sleep(milliseconds("ORDERS_PAYMENT_MS", 200))
}

func milliseconds(name string, otherwise int) time.Duration {
	number, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		number = otherwise
	}
	return time.Duration(number) * time.Millisecond
}
