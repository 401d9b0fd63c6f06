package bedrocktest

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
)

// BidirectionalLeak is the function of a goroutine that the SDK leaves behind for
// each call of InvokeModelWithBidirectionalStream, at v1.63.11: it ranges over a
// channel that nobody closes. A test of its own for leaks passes it to
// goleak.IgnoreAnyFunction.
const BidirectionalLeak = "github.com/aws/aws-sdk-go-v2/service/bedrockruntime.newAsyncEventStreamReader.func1"

// A Server is a Bedrock on loopback. New and NewH2 make one; it is safe for
// concurrent use.
type Server struct {
	t         testing.TB
	http      *httptest.Server
	transport *http.Transport
	dialled   sync.Map      // the addresses from which clients of Config have connected
	stop      chan struct{} // closed when the test ends

	mu       sync.Mutex
	script   []Answer            // the next answers; the last one stays
	scripts  map[string][]Answer // those of operations that have their own
	requests []*Request
	bill     Bill
	jobs     []job
}

// A Request is one that has arrived, whether or not it was answered.
type Request struct {
	// Operation is its name, such as "Converse"; "" if the path is none of Bedrock's.
	Operation string
	// ModelID is the model's id or ARN, without the path's escapes; "" where the
	// operation has none, as a guardrail's.
	ModelID string
	// Method is HTTP's: GET or POST.
	Method string
	// Path is as it was sent, with its escapes, without the query.
	Path string
	// Body is all of the body; empty for a bidirectional stream.
	Body []byte
	// Events is what a bidirectional stream has brought so far: the chunks' bytes, out
	// of their frames.
	Events [][]byte
	// Header is as net/http has it.
	Header http.Header
}

// New starts a server that speaks HTTP/1.1. It ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	return start(t, false)
}

// NewH2 starts one that speaks HTTP/2 over TLS, which a bidirectional stream
// needs. Every other operation works too.
func NewH2(t testing.TB) *Server {
	t.Helper()
	return start(t, true)
}

func start(t testing.TB, h2 bool) *Server {
	t.Helper()
	s := &Server{t: t, stop: make(chan struct{}), scripts: make(map[string][]Answer)}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.transport = &http.Transport{MaxIdleConnsPerHost: 1000} // a crowd keeps its connections
	if h2 {
		s.http.EnableHTTP2 = true
		s.http.StartTLS()
		if trusting, ok := s.http.Client().Transport.(*http.Transport); ok {
			s.transport.TLSClientConfig = trusting.TLSClientConfig
		}
		s.transport.ForceAttemptHTTP2 = true
	} else {
		s.http.Start()
	}
	s.transport.DialContext = s.dial
	t.Cleanup(s.close)
	return s
}

// close ends what is still going on, so that no goroutine outlives the test.
func (s *Server) close() {
	close(s.stop)
	s.transport.CloseIdleConnections()
	s.http.CloseClientConnections()
	s.http.Close()
}

func (s *Server) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		s.dialled.Store(conn.LocalAddr().String(), true)
	}
	return conn, err
}

// URL is where the server listens, without a slash at its end: for the variable
// AWS_ENDPOINT_URL_BEDROCK_RUNTIME of programs that make their own configuration.
func (s *Server) URL() string { return s.http.URL }

// Config is what bedrockruntime.NewFromConfig needs to talk to the server. It
// makes three attempts a millisecond apart, however often they were needed before.
func (s *Server) Config() aws.Config {
	return aws.Config{
		Region:       "us-east-1",
		Credentials:  credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", ""),
		BaseEndpoint: aws.String(s.http.URL),
		HTTPClient:   &http.Client{Transport: plainBody{s.transport}},
		Retryer: func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				o.MaxAttempts = 3
				o.RateLimiter = ratelimit.None
				o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return time.Millisecond, nil })
			})
		},
	}
}

// plainBody hides that the SDK's request bodies can write themselves. smithy-go
// closes the body right after the response's headers have come, and WriteTo of a
// closed one then fails with io.EOF. net/http calls it once more when everything
// is sent, to see that no byte is left, takes the error for a broken request, and
// closes the connection in the middle of the answer: of streams from a server as
// quick as this one, some would be cut at random.
type plainBody struct{ http.RoundTripper }

// RoundTrip sends r.
func (p plainBody) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.WithContext(r.Context()) // a copy: the caller's is not ours to change
		r.Body = struct {
			io.Reader
			io.Closer
		}{r.Body, r.Body}
	}
	return p.RoundTripper.RoundTrip(r)
}

// Script sets what the next requests are answered with, one each, whatever their
// operation. The last answer repeats; without any, all is fine. It replaces what
// was left of the script before.
func (s *Server) Script(answers ...Answer) {
	s.t.Helper()
	s.check(answers)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = slices.Clone(answers)
}

// ScriptFor is Script for one operation, whose requests then take nothing from
// the script for all. Without answers, they do again.
func (s *Server) ScriptFor(operation string, answers ...Answer) {
	s.t.Helper()
	if !known(operation) {
		s.t.Errorf("bedrocktest: a script for %q, which is no operation", operation)
	}
	s.check(answers)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scripts[operation] = slices.Clone(answers)
}

func (s *Server) check(answers []Answer) {
	s.t.Helper()
	for i, a := range answers {
		if wrong := a.wrong(); wrong != "" {
			s.t.Errorf("bedrocktest: answer %d of the script has %s", i, wrong)
		}
	}
}

// next takes an answer from the script.
func (s *Server) next(operation string) Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	script := s.scripts[operation]
	if len(script) == 0 {
		operation, script = "", s.script
	}
	if len(script) == 0 {
		return Answer{}.fill()
	}
	answer := script[0].fill()
	if len(script) == 1 {
		return answer
	}
	if operation == "" {
		s.script = script[1:]
	} else {
		s.scripts[operation] = script[1:]
	}
	return answer
}

// Requests returns what has arrived so far, in order. A request is there before
// it is answered.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Request, len(s.requests))
	for i, r := range s.requests {
		all[i] = *r
		all[i].Events = slices.Clone(r.Events)
	}
	return all
}

// Billed returns the bill so far. What a client has been sent is on it.
func (s *Server) Billed() Bill {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bill
}

func (s *Server) charge(calls int64, used Usage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bill.Calls += calls
	s.bill.Tokens = s.bill.Tokens.plus(used)
}

func (s *Server) record(r *Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r)
}
