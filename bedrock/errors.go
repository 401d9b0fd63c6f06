package bedrock

import (
	smithy "github.com/aws/smithy-go"

	"github.com/quotad/quotad/client"
)

// DeniedError is what a guarded call returns for want of quota, inside a *smithy.OperationError: nothing was sent. As a
// smithy.APIError it has the code of ErrorCode and is the client's fault; no retryer of the SDK repeats it. Of a bidirectional stream,
// and of one that EmptyCuts has ended, it is in the stream's Err.
type DeniedError struct {
	*client.DeniedError // which limit, how much is left, when it resets

	// Operation is the SDK's name of the call that was not made, or of the stream that was cut.
	Operation string
	// Model is the model it was for.
	Model string
}

// Unwrap returns the client's denial.
func (e *DeniedError) Unwrap() error { return e.DeniedError }

// ErrorCode is "QuotaExceededException", which no service of AWS uses.
func (e *DeniedError) ErrorCode() string { return "QuotaExceededException" }

// ErrorMessage says which limit refused.
func (e *DeniedError) ErrorMessage() string { return e.Error() }

// ErrorFault is the client's: the service was not asked.
func (e *DeniedError) ErrorFault() smithy.ErrorFault { return smithy.FaultClient }
