// Package tracing sends a span of each call to an OpenTelemetry collector.
package tracing

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"

	"github.com/quotad/quotad/internal/auth"
)

// Bounds on what is kept for a collector. One that is slow or down loses spans, and holds up no call.
const (
	// QueueMax is how many spans wait to be sent at most; what comes while they do is lost.
	QueueMax = 2048
	// BatchMax is how many are sent at once at most.
	BatchMax = 512
	// SendEvery is how long a span waits at most for others to be sent with.
	SendEvery = time.Second
	// SendTimeout is how long sending a batch may take, tries again included.
	SendTimeout = 5 * time.Second

	saidEvery = 5 * time.Minute // how often it is logged that spans are lost
)

// Config says where spans go. Endpoint and Now are required.
type Config struct {
	// Endpoint is where the collector listens for OTLP over gRPC: http://HOST:PORT or HOST:PORT, in the clear, or https://HOST:PORT,
	// over TLS, with a certificate that the system's roots vouch for.
	Endpoint string
	Version  string           // service.version; "" leaves it out
	Log      *slog.Logger     // nil means nowhere
	Now      func() time.Time // a clock to measure by
}

// Tracing makes spans of calls and sends them. Start makes one; Close ends it. A nil *Tracing is one that is off.
type Tracing struct {
	provider *trace.TracerProvider
	handler  stats.Handler
	sender   *sender
}

// Start returns what traces calls. It does not wait for the collector: whether there is one shows when there is something to send.
// The error is about the endpoint. Nothing global of OpenTelemetry is set or used.
func Start(ctx context.Context, c Config) (*Tracing, error) {
	where, err := target(c.Endpoint)
	if err != nil {
		return nil, err
	}
	client, err := otlptracegrpc.New(ctx, append(where,
		otlptracegrpc.WithTimeout(SendTimeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: true, InitialInterval: 250 * time.Millisecond, MaxInterval: SendTimeout / 2, MaxElapsedTime: SendTimeout,
		}),
	)...)
	if err != nil {
		return nil, fmt.Errorf("sending traces to %s: %w", c.Endpoint, err)
	}
	s := newSender(client, c)
	provider := trace.NewTracerProvider(
		trace.WithResource(resourceOf(c.Version)),
		// The caller decides: a call with a trace of its own is recorded if that is. One without begins a trace, which is recorded.
		trace.WithSampler(trace.ParentBased(trace.AlwaysSample())),
		trace.WithRawSpanLimits(trace.SpanLimits{
			AttributeValueLengthLimit: 256, AttributeCountLimit: 32, EventCountLimit: 8, LinkCountLimit: 8,
			AttributePerEventCountLimit: 8, AttributePerLinkCountLimit: 8,
		}),
		trace.WithBatcher(s,
			trace.WithMaxQueueSize(QueueMax), trace.WithMaxExportBatchSize(BatchMax),
			trace.WithBatchTimeout(SendEvery), trace.WithExportTimeout(SendTimeout)),
	)
	return &Tracing{provider: provider, sender: s, handler: otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(provider),
		otelgrpc.WithMeterProvider(noop.NewMeterProvider()), // internal/metrics has what there is to measure
		otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithFilter(traced(auth.Methods())),
	)}, nil
}

// Handler makes a span of each call that it sees, for grpc.StatsHandler on the server; nil if tracing is off.
func (t *Tracing) Handler() stats.Handler {
	if t == nil {
		return nil
	}
	return t.handler
}

// Close sends what waits, until ctx ends, and then nothing more. The error says that some of it was lost.
func (t *Tracing) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	lost := t.sender.lost.Load()
	err := t.provider.Shutdown(ctx)
	if n := t.sender.lost.Load() - lost; n > 0 {
		err = errors.Join(err, fmt.Errorf("the last %d spans were not sent: %w", n, *t.sender.why.Load()))
	}
	return err
}

// traced lets only calls of quotad's own methods be seen. Probes ask each second and say nothing; and the name of a method that does
// not exist is whatever a caller made up, which must not become the name of a span, whether gRPC shows it or not.
func traced(methods auth.Table) otelgrpc.Filter {
	return func(info *stats.RPCTagInfo) bool {
		_, known := methods[info.FullMethodName]
		return known && strings.HasPrefix(info.FullMethodName, "/quotad.v1.")
	}
}

// resourceOf says which service the spans are of. OTEL_RESOURCE_ATTRIBUTES adds to it, as with every service that uses OpenTelemetry.
func resourceOf(version string) *resource.Resource {
	attributes := []attribute.KeyValue{attribute.String("service.name", "quotad")}
	if version != "" {
		attributes = append(attributes, attribute.String("service.version", version))
	}
	return resource.NewSchemaless(attributes...)
}

// target reads an endpoint. What it says holds whatever the environment says.
func target(endpoint string) ([]otlptracegrpc.Option, error) {
	// Without the endpoint itself: somebody may have put a password into it.
	want := errors.New("traces: the endpoint is not where a collector listens for OTLP over gRPC; want http://127.0.0.1:4317 (in the clear) or https://HOST:PORT")
	host, secure := endpoint, false
	if strings.Contains(endpoint, "://") {
		u, err := url.Parse(endpoint)
		if err != nil || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, want
		}
		host, secure = u.Host, u.Scheme == "https"
	}
	if name, port, err := net.SplitHostPort(host); err != nil || name == "" || port == "" {
		return nil, want
	}
	how := insecure.NewCredentials() // not WithInsecure, which a certificate in the environment would overrule
	if secure {
		how = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12})
	}
	return []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(host), otlptracegrpc.WithTLSCredentials(how)}, nil
}
