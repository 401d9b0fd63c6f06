package bedrock

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/quotad/quotad/client"
)

// attempt is one sending of a call. Whether any of it left this machine decides whether a failure may have cost something.
type attempt struct {
	traced atomic.Bool // net/http tells of it
	wrote  atomic.Bool // it has begun to write
	ran    bool        // whether the model may have run: yes, until it has come back and says no
}

// attempt begins one, and has net/http tell how far it gets. Another HTTP client may tell nothing.
func (l *lease) attempt(ctx context.Context) (*attempt, context.Context) {
	a := &attempt{ran: true}
	l.mu.Lock()
	l.attempts = append(l.attempts, a)
	l.mu.Unlock()
	return a, httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:      func(string) { a.traced.Store(true) },
		WroteHeaders: func() { a.wrote.Store(true) },
	})
}

// attempted notes how one attempt ended. A status that is an error means that AWS refused it, which is not billed, unless it is one that
// Bedrock does not have, and that tells of a proxy which has lost the answer. Without an answer the model may have run, unless nothing of
// the call was sent.
func (l *lease) attempted(a *attempt, raw any, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	resp, called := raw.(*smithyhttp.Response)
	called = called && resp != nil && resp.Response != nil
	switch {
	case called && resp.StatusCode != 0:
		code := resp.StatusCode
		a.ran = code/100 == 2 || code == http.StatusBadGateway || code == http.StatusGatewayTimeout
	case a.traced.Load():
		a.ran = a.wrote.Load()
	case !called && err != nil:
		a.ran = false // once the SDK has called the HTTP client there is a response, an empty one at least
	default:
		a.ran = !dialling(err)
	}
}

// sendings is how many attempts there were.
func (l *lease) sendings() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.attempts)
}

// ran is how many attempts may have run a model, but for the last so many.
func (l *lease) ran(but int) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int64(0)
	for _, a := range l.attempts[:max(0, len(l.attempts)-but)] {
		if a.ran {
			n++
		}
	}
	return n
}

// refuse answers a bidirectional call in the place of AWS: with a stream that ends at once, for the reason why nothing was sent. An error
// instead would have the SDK (v1.63.11) close the pipe of what the app sends before it says why, so that now and then the app was told of
// a closed pipe alone; and the SDK would try some errors again.
func (l *lease) refuse(request any) middleware.DeserializeOutput {
	if req, ok := request.(*smithyhttp.Request); ok {
		if events, ok := req.GetStream().(*io.PipeReader); ok {
			_ = events.CloseWithError(l.refused) // it always succeeds
		}
	}
	return middleware.DeserializeOutput{RawResponse: &smithyhttp.Response{Response: &http.Response{
		StatusCode: http.StatusTooManyRequests, Header: http.Header{}, Body: io.NopCloser(refusedBody{l.refused}),
	}}}
}

// refusedBody is what there is to read of a stream that was refused.
type refusedBody struct{ err error }

// Read gives the reason.
func (b refusedBody) Read([]byte) (int, error) { return 0, b.err }

// dialling tells whether an error is one of making a connection.
func dialling(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// denied returns what a stream is cut with.
func (l *lease) denied(err error) error {
	if d, ok := errors.AsType[*client.DeniedError](err); ok {
		return &DeniedError{DeniedError: d, Operation: l.call.Operation, Model: l.call.Model}
	}
	return err
}

func headerOf(raw *smithyhttp.Response) http.Header {
	if raw == nil || raw.Response == nil {
		return nil
	}
	return raw.Header
}

// served is what an answer says of who gave it, where that decides the price; "" where it does not say.
type served struct {
	Model string // that a prompt router chose
	Tier  string // a call of a reserved tier may be served by the default one
}

// headerTier is where InvokeModel and its stream say their tier, as the SDK reads it.
const headerTier = "X-Amzn-Bedrock-Service-Tier"

func servedBy(result any) served {
	switch out := result.(type) {
	case *bedrockruntime.ConverseOutput:
		var by served
		if out.Trace != nil && out.Trace.PromptRouter != nil {
			by.Model = aws.ToString(out.Trace.PromptRouter.InvokedModelId)
		}
		if out.ServiceTier != nil {
			by.Tier = string(out.ServiceTier.Type)
		}
		return by
	case *bedrockruntime.InvokeModelOutput:
		return served{Tier: string(out.ServiceTier)}
	}
	return served{}
}

// times is the usage of n calls that used u each.
func times(u Usage, n int64) Usage {
	for _, p := range []*int64{
		&u.InputTokens, &u.OutputTokens, &u.CacheReadTokens, &u.CacheWriteTokens, &u.CacheWrite1hTokens, &u.TextUnits, &u.Images,
	} {
		if n > 1 && *p > math.MaxInt64/n {
			*p = math.MaxInt64
			continue
		}
		*p *= n
	}
	return u
}
