package bedrock

import (
	"context"
	"errors"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/quotad/quotad/client"
)

// attempt is one sending of a call. Whether any of it left this machine decides whether a failure may have cost something.
type attempt struct {
	traced atomic.Bool // net/http tells of it
	wrote  atomic.Bool // it has begun to write
	ran    bool        // whether the model may have run; set when it has come back
}

// watch has net/http tell how far an attempt gets. Another HTTP client may tell nothing.
func watch(ctx context.Context) (*attempt, context.Context) {
	a := new(attempt)
	return a, httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:      func(string) { a.traced.Store(true) },
		WroteHeaders: func() { a.wrote.Store(true) },
	})
}

// attempted notes how one attempt ended. A status that is an error means that AWS refused it before the model ran, which is not billed;
// without an answer it may have run, unless nothing of it was sent.
func (l *lease) attempted(a *attempt, raw any, err error) {
	resp, answered := raw.(*smithyhttp.Response)
	switch {
	case answered && resp != nil && resp.Response != nil && resp.StatusCode != 0:
		a.ran = resp.StatusCode/100 == 2
	case a.traced.Load():
		a.ran = a.wrote.Load()
	default:
		a.ran = !dialling(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts = append(l.attempts, a)
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

// modelOf is the model that answered: a prompt router chooses one.
func modelOf(result any, asked string) string {
	out, ok := result.(*bedrockruntime.ConverseOutput)
	if !ok || out.Trace == nil || out.Trace.PromptRouter == nil || out.Trace.PromptRouter.InvokedModelId == nil {
		return asked
	}
	return *out.Trace.PromptRouter.InvokedModelId
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
