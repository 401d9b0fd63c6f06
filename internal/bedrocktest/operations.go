package bedrocktest

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// The names of the operations, as the SDK has them.
const (
	ApplyGuardrail                     = "ApplyGuardrail"
	Converse                           = "Converse"
	ConverseStream                     = "ConverseStream"
	CountTokens                        = "CountTokens"
	GetAsyncInvoke                     = "GetAsyncInvoke"
	InvokeGuardrailChecks              = "InvokeGuardrailChecks"
	InvokeModel                        = "InvokeModel"
	InvokeModelWithBidirectionalStream = "InvokeModelWithBidirectionalStream"
	InvokeModelWithResponseStream      = "InvokeModelWithResponseStream"
	ListAsyncInvokes                   = "ListAsyncInvokes"
	StartAsyncInvoke                   = "StartAsyncInvoke"
)

// An Operation is one thing that can be asked of Bedrock.
type Operation struct {
	// Name is one of the constants of this package, and the name of the SDK's method.
	Name string
	// Paid is whether a call costs money.
	Paid bool
	// Streams is whether the answer is an event stream.
	Streams bool

	method, path string // the path has a name in braces where a segment is a value
}

// Operations lists all that the server knows, by name. The paths are those of the
// schemas in service/bedrockruntime v1.63.11; what is paid is in Bedrock's price list.
func Operations() []Operation {
	return []Operation{
		{ApplyGuardrail, true, false, http.MethodPost, "/guardrail/{guardrail}/version/{version}/apply"},
		{Converse, true, false, http.MethodPost, "/model/{model}/converse"},
		{ConverseStream, true, true, http.MethodPost, "/model/{model}/converse-stream"},
		{CountTokens, false, false, http.MethodPost, "/model/{model}/count-tokens"},
		{GetAsyncInvoke, false, false, http.MethodGet, "/async-invoke/{invocation}"},
		{InvokeGuardrailChecks, true, false, http.MethodPost, "/guardrail-checks/invoke"},
		{InvokeModel, true, false, http.MethodPost, "/model/{model}/invoke"},
		{InvokeModelWithBidirectionalStream, true, true, http.MethodPost, "/model/{model}/invoke-with-bidirectional-stream"},
		{InvokeModelWithResponseStream, true, true, http.MethodPost, "/model/{model}/invoke-with-response-stream"},
		{ListAsyncInvokes, false, false, http.MethodGet, "/async-invoke"},
		{StartAsyncInvoke, true, false, http.MethodPost, "/async-invoke"},
	}
}

// known reports whether name is an operation.
func known(name string) bool {
	return slices.ContainsFunc(Operations(), func(op Operation) bool { return op.Name == name })
}

// route finds the operation that is asked for, and the values in its path. The
// path is taken with its escapes, since an ARN has slashes within one segment.
// The zero Operation stands for a request that is none of Bedrock's.
func route(method, escaped string) (Operation, map[string]string) {
	segments := strings.Split(escaped, "/")
	for _, op := range Operations() {
		if op.method != method {
			continue
		}
		if values, ok := match(strings.Split(op.path, "/"), segments); ok {
			return op, values
		}
	}
	return Operation{}, nil
}

func match(pattern, segments []string) (map[string]string, bool) {
	if len(pattern) != len(segments) {
		return nil, false
	}
	values := make(map[string]string)
	for i, want := range pattern {
		name, isValue := strings.CutPrefix(want, "{")
		if !isValue {
			if segments[i] != want {
				return nil, false
			}
			continue
		}
		value, err := url.PathUnescape(segments[i])
		if err != nil || value == "" {
			return nil, false
		}
		values[strings.TrimSuffix(name, "}")] = value
	}
	return values, true
}
