package bedrock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"

	"github.com/quotad/quotad/client"
)

// The units that the guard charges. Calls, InputTokens and OutputTokens are charged unless Units says otherwise, Tokens and
// USDMicros with Prices, and the others where an answer tells of them.
const (
	// Calls counts calls as the app makes them, however often the SDK sends them.
	Calls = client.Calls
	// InputTokens are tokens read anew: not from a cache, nor written to one.
	InputTokens = "input_tokens"
	// OutputTokens are tokens that a model made.
	OutputTokens = "output_tokens"
	// CacheReadTokens are input tokens that came from a prompt cache.
	CacheReadTokens = "cache_read_tokens"
	// CacheWriteTokens are input tokens that were written to one, for any time.
	CacheWriteTokens = "cache_write_tokens" //nolint:gosec // tokens of a model, not of a login
	// TextUnits are what guardrails bill by.
	TextUnits = "text_units"
	// Tokens are all tokens of a call, weighted as AWS counts them against its own service quotas (burn-down).
	Tokens = "tokens"
	// USDMicros are millionths of a dollar, rounded up for each call.
	USDMicros = "usd_micros"
)

// BucketDefault is the bucket of a guard that was told none.
const BucketDefault = "bedrock"

// BrokenPolicy says how a call is settled that was sent and did not come back: the model may have run, and been billed.
type BrokenPolicy int

const (
	// BrokenSettles charges what was held, which is the estimate: the default, as money that may be gone is counted as gone.
	BrokenSettles BrokenPolicy = iota
	// BrokenReleases charges nothing.
	BrokenReleases
)

// EmptyPolicy says what becomes of a stream that goes on when its bucket has nothing left.
type EmptyPolicy int

const (
	// EmptyCuts ends the stream: its Err is the *DeniedError, and the connection is closed, so that the model stops.
	EmptyCuts EmptyPolicy = iota
	// EmptyFinishes lets it go on to its end; what it used beyond the limit is counted as overage.
	EmptyFinishes
)

// Call is what a guard knows of a call before it is made.
type Call struct {
	// Operation is that of the SDK: "Converse".
	Operation string
	// Model is the model id or ARN of the request; of a guardrail its ARN, or guardrail/ID; "guardrail-checks" of InvokeGuardrailChecks;
	// "" of an operation that the guard does not know.
	Model string
	// Tier is the service tier that was asked for; "default" without one.
	Tier string
	// Metadata is the request's RequestMetadata; nil where the operation has none.
	Metadata map[string]string
	// Estimate is what the call is taken to need.
	Estimate Estimate
	// Input is the SDK's own input, such as *bedrockruntime.ConverseInput. It must not be changed.
	Input any
}

// Option changes what a guard does. A guard with a faulty option refuses every call with that fault; Validate tells it at once.
type Option func(*guard) error

// Validate returns what is wrong with options; nil if nothing is.
func Validate(opts ...Option) error {
	_, err := newGuard(nil, opts)
	return err
}

// Bucket charges one bucket for every call: BucketDefault without it or one of its kin, of which the last that is given counts. Declare it
// to quotad: a name that nobody declared has the daemon's default.
func Bucket(name string) Option {
	return func(g *guard) error {
		if err := checkBucket(name); err != nil {
			return fmt.Errorf("Bucket: %w", err)
		}
		g.bucket = func(context.Context, Call) (string, error) { return name, nil }
		return nil
	}
}

// BucketBy has a function name the bucket of each call. Its error refuses the call. It must not panic: the SDK makes bidirectional calls
// on a goroutine of its own, where nobody recovers.
func BucketBy(f func(context.Context, Call) (string, error)) Option {
	return func(g *guard) error {
		if f == nil {
			return errors.New("BucketBy: the function is nil")
		}
		g.bucket = f
		return nil
	}
}

// BucketFromMetadata charges parent/VALUE, where VALUE is what the request's metadata says of key: a user, say. Bytes that a bucket's
// name may not have are written as =XX, so that no value reaches another's bucket. A request without the key is refused; only
// Converse, ConverseStream and the InvokeModel calls carry metadata.
func BucketFromMetadata(parent, key string) Option {
	return func(g *guard) error {
		if err := checkBucket(parent); err != nil {
			return fmt.Errorf("BucketFromMetadata: %w", err)
		}
		g.bucket = func(_ context.Context, c Call) (string, error) {
			value := c.Metadata[key]
			if value == "" {
				return "", fmt.Errorf("the request has no metadata %q, by which its bucket below %s is chosen", key, parent)
			}
			return parent + "/" + Segment(value), nil
		}
		return nil
	}
}

// BucketFromModel charges parent/MODEL, so that each model has a budget of its own below the shared one.
func BucketFromModel(parent string) Option {
	return func(g *guard) error {
		g.perModel = true
		return Bucket(parent)(g)
	}
}

// PerModel charges a child of the bucket for each model, NAME/MODEL, so that usage is reported by model. What is declared for NAME
// holds for all of them together, and must be: a name that nobody declared, nor a parent of it, has the daemon's default for itself.
func PerModel() Option {
	return func(g *guard) error {
		g.perModel = true
		return nil
	}
}

// Units charges these units alone, in whatever a call uses: Units(Calls) counts calls and nothing else. Tokens and USDMicros need
// WithPrices. An operation that is estimated to use none of them is reserved as one of Calls all the same: nothing is sent that was not
// granted.
func Units(units ...string) Option {
	return func(g *guard) error {
		all := []string{Calls, InputTokens, OutputTokens, CacheReadTokens, CacheWriteTokens, TextUnits, Tokens, USDMicros}
		if len(units) == 0 {
			return errors.New("Units: none is named")
		}
		for _, u := range units {
			if !slices.Contains(all, u) {
				return fmt.Errorf("Units: %q is not one of %q", u, all)
			}
		}
		g.units = slices.Clone(units)
		return nil
	}
}

// WithPrices charges USDMicros and Tokens too, by a table of prices and burn-down weights.
func WithPrices(p *Prices) Option {
	return func(g *guard) error {
		if p == nil {
			return errors.New("WithPrices: the table is nil")
		}
		g.prices = p
		return nil
	}
}

// MaxTokens is how many output tokens a call is taken to make at most whose request does not say, 1 to 1,000,000,000. Without it such
// a call holds the bucket's estimate of OutputTokens, which is 1 where the bucket has none: give one of the two, or set max_tokens in
// every request.
func MaxTokens(n int64) Option {
	return func(g *guard) error {
		if n < 1 || n > 1e9 {
			return fmt.Errorf("MaxTokens: %d; want 1 to 1,000,000,000", n)
		}
		g.maxTokens = n
		return nil
	}
}

// CountTokens asks Bedrock's free CountTokens for the input of Converse and InvokeModel calls, instead of guessing it from the request's
// size. It costs a round trip to AWS before each call. Where it fails (not every model has it), the size is taken.
func CountTokens(c *bedrockruntime.Client) Option {
	return func(g *guard) error {
		if c == nil {
			return errors.New("CountTokens: the client is nil")
		}
		g.counter = c
		return nil
	}
}

// Hold is for how long a reservation is held, 1 ms to 24 hours: longer than any call may take. Without it the bucket says, and 15
// minutes where it does not.
func Hold(d time.Duration) Option {
	return func(g *guard) error {
		if d < time.Millisecond || d > 24*time.Hour {
			return fmt.Errorf("Hold: %v; want 1ms to 24h", d)
		}
		g.hold = d
		return nil
	}
}

// OnBroken says how a call is settled that was sent and did not come back; BrokenSettles without it.
func OnBroken(p BrokenPolicy) Option {
	return func(g *guard) error {
		if p != BrokenSettles && p != BrokenReleases {
			return fmt.Errorf("OnBroken: there is no policy %d", p)
		}
		g.broken = p
		return nil
	}
}

// Slices has a stream hold so many output tokens at first, at least 1, and as many again whenever these have passed, instead of all
// that it may make; and says what becomes of it when the bucket has nothing left. Tokens are estimated from the text as it passes, so
// a cut comes about where the limit is. No more is held than the request's own max_tokens. A quotad that does not answer counts as an
// empty bucket. One of OutputTokens, Tokens and USDMicros has to be charged.
func Slices(tokens int64, whenEmpty EmptyPolicy) Option {
	return func(g *guard) error {
		if tokens < 1 || tokens > 1e9 {
			return fmt.Errorf("Slices: %d tokens; want 1 to 1,000,000,000", tokens)
		}
		if whenEmpty != EmptyCuts && whenEmpty != EmptyFinishes {
			return fmt.Errorf("Slices: there is no policy %d", whenEmpty)
		}
		g.slice, g.whenEmpty = tokens, whenEmpty
		return nil
	}
}

// SettleFirst has a call return only when its settlement has reached quotad, or is kept to be sent again: for a process that is
// frozen between calls, such as a function of AWS Lambda. Without it quotad is told in the background, and the client's Flush or
// Close wait for it.
func SettleFirst() Option {
	return func(g *guard) error {
		g.settleFirst = true
		return nil
	}
}

// Observe is told how each call ended: for logs and metrics. It is called once for each call, on the goroutine on which the call or its
// stream ended, which may be one of the SDK's, and must neither block nor panic.
func Observe(f func(Record)) Option {
	return func(g *guard) error {
		if f == nil {
			return errors.New("Observe: the function is nil")
		}
		g.observe = f
		return nil
	}
}

// WithClock sets the clock by which the price in force is chosen; time.Now without it.
func WithClock(now func() time.Time) Option {
	return func(g *guard) error {
		if now == nil {
			return errors.New("WithClock: the clock is nil")
		}
		g.now = now
		return nil
	}
}
