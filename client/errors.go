package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// The names by which quotad's statuses are told from gRPC's own and from each other, as the contract's table of codes has them.
const (
	errorDomain         = "quotad"
	reasonLimitExceeded = "LIMIT_EXCEEDED"
	reasonUnknown       = "UNKNOWN_RESERVATION"
	reasonExpired       = "RESERVATION_EXPIRED"
)

// DeniedError is quotad's no: nothing was charged, and the call must not be made. It is never worth sending again at once, and says
// so to whoever asks an error: Temporary, Timeout and RetryableError are false, and its gRPC status is RESOURCE_EXHAUSTED.
type DeniedError struct {
	// Bucket is what refused: the bucket asked for, or one of its parents.
	Bucket string
	// Unit is of what there is not enough left. It is "reservations" where too many are open at a time.
	Unit string
	// Window is the kind of the window that is used up: "day", say.
	Window string
	// Limit is the cap that refused: the limit, the caller's ceiling, or what one reservation may hold.
	Limit int64
	// Ceiling tells whether it was the caller's own ceiling.
	Ceiling bool
	// Used is what was spent in the window.
	Used int64
	// Held is what open reservations hold.
	Held int64
	// Remaining is what is left below Limit, never below 0.
	Remaining int64
	// Requested is what was asked for.
	Requested int64
	// Never tells whether no wait can help: more is asked for than Limit itself, as always where that is 0, or the window never ends.
	Never bool
	// ResetTime is when the window ends and the count starts anew; zero if it never ends.
	ResetTime time.Time
	// RetryTime is the first instant at which the same request could pass, were nothing else taken; zero if never, or unknown.
	RetryTime time.Time
	// Message is the refusal in a sentence for an operator; it names the bucket.
	Message string
	// Others are the other limits that refused, as they stand; most often none.
	Others []Balance

	status *status.Status // as quotad sent it; nil for a denial that a Check reported
}

// Error says what refused, for a log.
func (e *DeniedError) Error() string {
	if e.Message != "" {
		return "quota denied: " + e.Message
	}
	return fmt.Sprintf("quota denied: %s of %s per %s: %d of %d used, %d held", e.Unit, e.Bucket, e.Window, e.Used, e.Limit, e.Held)
}

// UserMessage is what an end user may be told. It names neither buckets nor figures.
func (e *DeniedError) UserMessage() string {
	if e.Never && (e.Window != "ever" || e.Requested > e.Limit) {
		return "This request is more than the AI limit allows."
	}
	switch e.Window {
	case "minute", "hour":
		return fmt.Sprintf("The limit for this %s is reached. Try again later.", e.Window)
	case "day":
		return "Daily AI limit reached. Try again tomorrow."
	case "week", "month", "year":
		return fmt.Sprintf("The AI limit for this %s is reached.", e.Window)
	}
	return "The AI limit is reached."
}

// GRPCStatus lets status.FromError and status.Code read the denial. It is part of an interface of grpc-go.
func (e *DeniedError) GRPCStatus() *status.Status {
	if e.status == nil {
		return status.New(codes.ResourceExhausted, e.Message)
	}
	return e.status
}

// Temporary is false: the same request is denied again until somebody gives back or the window ends.
func (e *DeniedError) Temporary() bool { return false }

// Timeout is false.
func (e *DeniedError) Timeout() bool { return false }

// RetryableError is false. The retryers of the AWS SDK ask it.
func (e *DeniedError) RetryableError() bool { return false }

// UnreachableError says that quotad gave no answer within the deadline and the tries there are: by default the call must not be made
// (FailClosed). A denial is never one. Temporary is true, RetryableError false: the client has tried again already.
type UnreachableError struct {
	// Op is what was asked: "acquire", "reserve", "extend", "check", "settle", "release".
	Op string
	// Bucket is for what; the request id where there is no bucket.
	Bucket string
	// Tries is how often it was sent.
	Tries int
	// Err is why the last try failed: a gRPC status, most often UNAVAILABLE or DEADLINE_EXCEEDED.
	Err error
}

// Error says what was asked, how often, and why there was no answer.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("%s %s: quotad gave no answer in %d tries: %v", e.Op, e.Bucket, e.Tries, e.Err)
}

// Unwrap returns the status of the last try.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Temporary is true: quotad may come back.
func (e *UnreachableError) Temporary() bool { return true }

// RetryableError is false, as the client has its own retries. The retryers of the AWS SDK ask it.
func (e *UnreachableError) RetryableError() bool { return false }

// AccessError says that quotad does not let this client do what it asked, whatever is left of the quota: nothing was charged, and the
// call must not be made. Neither is it sent again nor let through by FailOpen, as it is an answer. Its gRPC status is UNAUTHENTICATED
// or PERMISSION_DENIED. A Settle or Release that is answered so is kept, and sent again (PendingError): what was spent is to be counted
// when it is let again.
type AccessError struct {
	// Op is what was asked, as in an UnreachableError.
	Op string
	// Bucket is for what; the request id where there is no bucket.
	Bucket string
	// Unknown tells whether quotad does not know who is calling (UNAUTHENTICATED): no token, a wrong one, no certificate. Otherwise it
	// does, and its policy does not allow this.
	Unknown bool
	// Principal is who quotad takes the client for; "" if it did not say.
	Principal string
	// Verb is what the policy would have to allow: "acquire", say; "" if it did not say.
	Verb string
	// Refused are the buckets for which it does not, as many as quotad listed; none where it is not about buckets.
	Refused []string
	// Err is the gRPC status.
	Err error
}

// Error says what was asked, and why it is refused. No token is in it.
func (e *AccessError) Error() string {
	return fmt.Sprintf("%s %s: not allowed: %v", e.Op, e.Bucket, e.Err)
}

// Unwrap returns the status.
func (e *AccessError) Unwrap() error { return e.Err }

// Temporary is false: it lasts until somebody changes the policy, or the client's token or certificate.
func (e *AccessError) Temporary() bool { return false }

// RetryableError is false. The retryers of the AWS SDK ask it.
func (e *AccessError) RetryableError() bool { return false }

// accessErrorOf returns the refusal in an error; nil if it is none.
func accessErrorOf(op, what string, err error) *AccessError {
	code := status.Code(err)
	if code != codes.Unauthenticated && code != codes.PermissionDenied {
		return nil
	}
	e := &AccessError{Op: op, Bucket: what, Unknown: code == codes.Unauthenticated, Err: err}
	if info := infoOf(err); info != nil {
		e.Principal, e.Verb = info.GetMetadata()["principal"], info.GetMetadata()["verb"]
		if refused := info.GetMetadata()["bucket"]; refused != "" {
			e.Refused = strings.Split(refused, ",")
		}
	}
	return e
}

// PendingError says that a Settle or Release has not reached quotad yet. It is kept and sent again until it has, so that there is
// nothing to do but to know it. What comes of it in the end is told to OnLost, if it is lost.
type PendingError struct {
	// RequestID is the reservation.
	RequestID string
	// Journaled tells whether it survives the end of this process: it stands in the journal. Otherwise it is kept in memory.
	Journaled bool
	// Err is why it was not delivered at once.
	Err error
}

// Error says what is kept, and where.
func (e *PendingError) Error() string {
	where := "in memory"
	if e.Journaled {
		where = "in the journal"
	}
	return fmt.Sprintf("reservation %s: not delivered yet, kept %s and sent again: %v", e.RequestID, where, e.Err)
}

// Unwrap returns why it was not delivered at once.
func (e *PendingError) Unwrap() error { return e.Err }

// ErrEnded is the error of a Settle or Extend of a reservation that this process has settled or released before, and of a Reserve with
// an id (WithRequestID) whose reservation was settled, or has expired and was charged: its call was perhaps made then, and for another
// one the id has to be another.
var ErrEnded = errors.New("the reservation has ended before")

// ErrClosed is the error of every call on a client that was closed.
var ErrClosed = errors.New("the quotad client is closed")

// reasonOf returns the reason by which quotad tells one status of a code from another; "" if quotad did not give one.
func reasonOf(err error) string { return infoOf(err).GetReason() }

// infoOf returns what quotad says about a status; nil if it is not quotad's.
func infoOf(err error) *errdetails.ErrorInfo {
	s, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			return info
		}
	}
	return nil
}

// deniedBy returns the denial in an error; false if it is none. gRPC itself uses RESOURCE_EXHAUSTED for other things, so that only
// quotad's ErrorInfo makes it one.
func deniedBy(err error) (*DeniedError, bool) {
	s, ok := status.FromError(err)
	if !ok || s.Code() != codes.ResourceExhausted || reasonOf(err) != reasonLimitExceeded {
		return nil, false
	}
	denied := &DeniedError{Message: s.Message(), status: s}
	for _, d := range s.Details() {
		if d, ok := d.(*quotadv1.Denial); ok {
			denied = denialOf(d)
			denied.status = s
		}
	}
	return denied, true
}

// denialOf tells of the violation that lasts longest, as what ends sooner helps nobody.
func denialOf(d *quotadv1.Denial) *DeniedError {
	e := &DeniedError{Message: d.GetMessage(), RetryTime: instant(d.GetRetryAt())}
	first := 0
	for i, v := range d.GetViolations() {
		if later(v, d.GetViolations()[first]) {
			first = i
		}
	}
	for i, v := range d.GetViolations() {
		b := balanceOf(v.GetBalance())
		if i != first {
			e.Others = append(e.Others, b)
			continue
		}
		e.Bucket, e.Unit, e.Window, e.ResetTime = b.Bucket, b.Unit, b.Window, b.End
		e.Limit, e.Ceiling, e.Requested, e.Used, e.Held = v.GetCap(), v.GetCeiling(), v.GetRequested(), b.Used, b.Held
		e.Never = v.GetNever()
		e.Remaining = max(0, v.GetCap()-b.Used-b.Held)
	}
	return e
}

// later tells whether a stands in the way for longer than b.
func later(a, b *quotadv1.Violation) bool {
	if a.GetNever() != b.GetNever() {
		return a.GetNever()
	}
	ends, than := instant(a.GetBalance().GetEnd()), instant(b.GetBalance().GetEnd())
	if ends.IsZero() != than.IsZero() {
		return than.IsZero() // what open reservations hold may be given back at any time
	}
	return ends.After(than)
}

// worthRetrying tells whether an error leaves it open what was decided, or says that quotad cannot decide now, so that sending the
// same id again helps.
func worthRetrying(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

// undecided tells whether an error is no decision of quotad's, at which an application decides for itself: the contract's table of
// codes names the three.
func undecided(err error) bool { return worthRetrying(err) || status.Code(err) == codes.Internal }

// refused tells whether an error says that this sending charged nothing, as the contract's table of codes has it. CANCELLED, UNKNOWN
// and the like come from gRPC or a proxy, and so does a RESOURCE_EXHAUSTED that is no denial: an answer that is too large, say.
func refused(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.OutOfRange, codes.DataLoss,
		codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented:
		return true
	}
	_, denied := deniedBy(err)
	return denied
}

// ofContext prefers the caller's own reason, where it was the caller who gave up: that it has, and why if that was said.
func ofContext(ctx context.Context, err error) error {
	ended, cause := ctx.Err(), context.Cause(ctx)
	switch {
	case ended == nil:
		return err
	case errors.Is(cause, ended):
		return cause
	}
	return fmt.Errorf("%w: %w", ended, cause)
}
