// Package bedrocktest is a Bedrock for tests: it speaks the service's HTTP, so that the real SDK talks to it.
//
// A Server answers every operation of bedrockruntime at the version in go.mod,
// with the paths, bodies, headers and event streams that the service has. Each
// request takes one Answer from a script: fine, throttled, slow, cut in the
// middle of a frame. The server remembers what arrived and keeps a bill of what
// it says was used, to compare with what a guard has counted.
//
// # What is billed
//
// A call is billed when its model ran, whether or not anybody heard the answer:
//
//   - an answer with an error Status bills nothing;
//   - any other answer bills one call, when the request has arrived and before
//     anything is sent. So does an answer that hangs up, that is garbage, and one
//     whose caller gave up while it was delayed: the model ran;
//   - a stream bills its input when it begins, and its output frame by frame: one
//     that was cut, or that its reader left, bills the tokens of the frames that
//     were sent whole. Of a reader that leaves, the server learns a frame or two
//     late, as the network does;
//   - a stream whose answer is Hangup or Garbage bills all of its usage;
//   - a bidirectional stream is billed when the first event has arrived;
//   - InvokeModel and Converse bill tokens, ApplyGuardrail and
//     InvokeGuardrailChecks text units, StartAsyncInvoke the call alone and once
//     for each client request token. The other operations are free.
//
// The SDK sends again what broke on the way: a Hangup is three requests and three
// bills, unless the script goes on with something better.
//
// # What the SDK does
//
// A response stream that is cut over HTTP/1.1 ends for the SDK as one that is
// complete: its Err is nil. Over HTTP/2 there is an error.
//
// A bidirectional stream has most of the traps:
//
//   - it leaves a goroutine behind for each, see BidirectionalLeak;
//   - it tries again after an error such as 429, but on a new pipe that the caller's
//     stream does not know: what is sent from then on fails with a closed pipe;
//   - a Hangup before the headers is not noticed until the caller sends or the
//     context ends, since net/http waits for the pipe.
package bedrocktest
