package bedrocktest

import (
	"net/http"
	"slices"
)

// Usage is what an answer says was used. The counts do not overlap, as Bedrock
// has them: Input is without what was read from the cache or written to it. Set
// only what the operation and the family can tell, if it is to be compared with
// the bill: Llama has no place for a cache.
type Usage struct {
	// Input is the tokens of the request that no cache had or took.
	Input int64
	// Output is the tokens that the model made. In a stream they are spread evenly
	// over the text frames.
	Output int64
	// CacheRead is the tokens that came out of the prompt cache.
	CacheRead int64
	// CacheWrite is all tokens that went into the prompt cache, for 5 minutes or an
	// hour. At least CacheWrite1h.
	CacheWrite int64
	// CacheWrite1h is those of CacheWrite that are kept for an hour.
	CacheWrite1h int64
	// TextUnits is the text units of a guardrail, which are what it is billed by.
	// Two policies share them. Models do not have any.
	TextUnits int64
}

func (u Usage) plus(v Usage) Usage {
	return Usage{
		Input:        u.Input + v.Input,
		Output:       u.Output + v.Output,
		CacheRead:    u.CacheRead + v.CacheRead,
		CacheWrite:   u.CacheWrite + v.CacheWrite,
		CacheWrite1h: u.CacheWrite1h + v.CacheWrite1h,
		TextUnits:    u.TextUnits + v.TextUnits,
	}
}

// total is all tokens, cached or not.
func (u Usage) total() int64 { return u.Input + u.CacheRead + u.CacheWrite + u.Output }

// A Bill is what the server says it has billed. The package's doc has the rules.
type Bill struct {
	// Calls is the paid calls whose model ran, each attempt of the SDK by itself.
	Calls int64
	// Tokens is their usage, summed.
	Tokens Usage
}

// An Answer is what the server does with one request. The zero Answer is fine:
// 200, 11 tokens in and 7 out, and 3 text units of a guardrail.
type Answer struct {
	// Status is an HTTP status other than 200 to refuse with; 0: 200. The error is the
	// one that the service has for it: 400 ValidationException, 403
	// AccessDeniedException, 404 ResourceNotFoundException, 408
	// ModelTimeoutException, 409 ConflictException, 424 ModelErrorException, 429
	// ThrottlingException, 500 InternalServerException, 503
	// ServiceUnavailableException. The service has none between 200 and 400.
	Status int
	// Error is the error's code, where the status has several, such as
	// ModelNotReadyException and 429; "": that of Status.
	Error string

	// Usage is what the answer reports and the server bills; zero: the default.
	Usage Usage
	// NoUsage keeps the answer from saying what it used: it has no header, no field in
	// the body, and no frame for it. It is billed all the same.
	NoUsage bool
	// NoHeaders leaves out what Bedrock adds to the answer of InvokeModel: the headers
	// X-Amzn-Bedrock-*-Token-Count, or in a stream the amazon-bedrock-invocationMetrics
	// of the last chunk. Only the family's own fields tell, if it has any.
	NoHeaders bool

	// Family is the body of InvokeModel: "claude" (which is also ""), "nova", "llama",
	// "titan", "mistral", "mistral7b", "cohere", "cohere-embed", "openai" or "image".
	// The bodies of mistral7b, cohere-embed and image have no usage. The last two make
	// no tokens by default, and a stream of them is refused with 400.
	Family string
	// Body is the body of InvokeModel as it is; "": one of Family's.
	Body string
	// Tier is the service tier that Converse and InvokeModel say has served them; "":
	// they do not say.
	Tier string
	// InvokedModel is the model that a prompt router chose, in the trace of Converse and
	// ConverseStream; "": no trace.
	InvokedModel string

	// Frames is how many frames of text a stream has, each with 20 bytes of it; 0: 5,
	// and a negative number: none. There are others around them: use Events.
	Frames int
	// CutAfter is after how many frames a stream's connection is closed abruptly, those
	// without text counted; 0: never; -1: after the headers, before any frame. More
	// than there are cuts at the end of the last.
	CutAfter int
	// CutInside cuts in the middle of the frame that follows the CutAfter first.
	CutInside bool
	// Exception is sent in place of the frame that follows the CutAfter first, and
	// ends the stream in order: throttlingException, modelStreamErrorException,
	// modelTimeoutException, internalServerException, serviceUnavailableException or
	// validationException; "": none.
	Exception string
	// ByteByByte sends each byte of a stream on its own.
	ByteByByte bool
	// Pace is called before each frame is sent, with its number from 0: a test may
	// block, cancel or turn a clock there. It runs on a goroutine of the server, and
	// must have returned before the test ends. nil: frames follow each other at once.
	Pace func(frame int)

	// Delay holds the answer back until it is closed, or the request's context ends, or
	// the test does; nil: no delay.
	Delay <-chan struct{}
	// Hangup closes the connection without an answer when the request has arrived.
	Hangup bool
	// Garbage answers 200 with a body that does not parse.
	Garbage bool
}

// Families lists what Answer.Family may be.
func Families() []string {
	return []string{"claude", "nova", "llama", "titan", "mistral", "mistral7b", "cohere", "cohere-embed", "openai", "image"}
}

// streamable reports whether models of the family answer in streams.
func streamable(family string) bool { return family != "cohere-embed" && family != "image" }

// fill replaces what is left zero by its default.
func (a Answer) fill() Answer {
	if a.Status == 0 {
		a.Status = http.StatusOK
	}
	if a.Error == "" {
		a.Error = codeOf(a.Status)
	}
	if a.Family == "" {
		a.Family = "claude"
	}
	if a.Usage == (Usage{}) {
		a.Usage = Usage{Input: 11, Output: 7, TextUnits: 3}
		if !streamable(a.Family) {
			a.Usage.Output = 0
		}
	}
	a.Usage.CacheWrite = max(a.Usage.CacheWrite, a.Usage.CacheWrite1h)
	if a.Frames == 0 {
		a.Frames = 5
	}
	a.Frames = max(a.Frames, 0)
	return a
}

// wrong says what a script has that no answer can be, or "".
func (a Answer) wrong() string {
	switch {
	case a.Status < 0 || a.Status > 599 || a.Status > 0 && a.Status < 200:
		return "a Status that HTTP does not have"
	case a.Status > 200 && a.Status < 400:
		return "a Status that is neither 200 nor an error"
	case a.Family != "" && !slices.Contains(Families(), a.Family):
		return "the unknown Family " + a.Family
	case a.CutAfter < -1:
		return "a CutAfter under -1"
	case a.Exception != "" && a.CutInside:
		return "both Exception and CutInside"
	case a.Exception != "" && !slices.Contains(exceptions(), a.Exception):
		return "the unknown Exception " + a.Exception
	default:
		return ""
	}
}

func exceptions() []string {
	return []string{
		"throttlingException", "modelStreamErrorException", "modelTimeoutException",
		"internalServerException", "serviceUnavailableException", "validationException",
	}
}

// end is after how many frames a stream does not go on, and whether it ends early
// at all.
func (a Answer) end() (after int, early bool) {
	return max(a.CutAfter, 0), a.CutAfter != 0 || a.CutInside || a.Exception != ""
}

// codeOf is the error that the service has for a status.
func codeOf(status int) string {
	switch status {
	case http.StatusForbidden:
		return "AccessDeniedException"
	case http.StatusNotFound:
		return "ResourceNotFoundException"
	case http.StatusRequestTimeout:
		return "ModelTimeoutException"
	case http.StatusConflict:
		return "ConflictException"
	case http.StatusFailedDependency:
		return "ModelErrorException"
	case http.StatusTooManyRequests:
		return "ThrottlingException"
	case http.StatusServiceUnavailable:
		return "ServiceUnavailableException"
	}
	if status >= http.StatusInternalServerError {
		return "InternalServerException"
	}
	return "ValidationException"
}
