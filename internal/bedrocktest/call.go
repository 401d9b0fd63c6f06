package bedrocktest

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"
)

// think is how long a request of a client that is not from Config has to wait.
// smithy-go breaks the connection of an answer that comes before net/http has done
// with the request, as plainBody tells; no real model is that quick. On a machine
// that compiles meanwhile three milliseconds were not always enough.
const think = 10 * time.Millisecond

// object is a JSON object.
type object = map[string]any

// A call is one request and what becomes of it.
type call struct {
	*Server
	op      Operation
	values  map[string]string // in the path
	request *Request
	answer  Answer
	w       http.ResponseWriter
	r       *http.Request
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	op, values := route(r.Method, r.URL.EscapedPath())
	c := &call{Server: s, op: op, values: values, w: w, r: r, request: &Request{
		Operation: op.Name,
		ModelID:   values["model"],
		Method:    r.Method,
		Path:      r.URL.EscapedPath(),
		Header:    r.Header.Clone(),
	}}
	w.Header().Set("X-Amzn-Requestid", "00000000-0000-4000-8000-000000000000")
	if op.Name == InvokeModelWithBidirectionalStream {
		s.record(c.request)
		c.answer = s.next(op.Name)
		c.bidirectional()
		return
	}
	body, err := io.ReadAll(r.Body)
	c.request.Body = body
	if op.Name == StartAsyncInvoke {
		c.request.ModelID = asyncModel(body)
	}
	s.record(c.request)
	if err != nil {
		hangUp() // half a request runs no model
	}
	if _, own := s.dialled.Load(r.RemoteAddr); !own {
		time.Sleep(think)
	}
	if op.Name == "" {
		c.refuse(http.StatusNotFound, "UnknownOperationException")
		return
	}
	c.answer = s.next(op.Name)
	c.run()
}

// hangUp closes the connection, or resets the stream in HTTP/2. It does not return.
func hangUp() {
	// The way in which net/http lets a handler break off.
	panic(http.ErrAbortHandler)
}

// run bills the call and answers it.
func (c *call) run() {
	switch {
	case c.answer.Status != http.StatusOK:
		c.delay()
		c.refuse(c.answer.Status, c.answer.Error)
		return
	case c.op.Name == InvokeModelWithResponseStream && !streamable(c.answer.Family):
		c.refuse(http.StatusBadRequest, codeOf(http.StatusBadRequest))
		return
	case c.op.Name == ApplyGuardrail, c.op.Name == InvokeGuardrailChecks:
		c.charge(1, Usage{TextUnits: c.answer.Usage.TextUnits})
	case c.op.Name == StartAsyncInvoke:
		c.submit()
	case c.op.Streams:
		c.chargeStart()
	case c.op.Paid:
		c.charge(1, c.tokens())
	}
	c.delay()
	if c.answer.Hangup {
		hangUp()
	}
	if c.op.Streams {
		c.stream()
		return
	}
	c.plain()
}

// tokens is the usage of a model: no text units.
func (c *call) tokens() Usage {
	used := c.answer.Usage
	used.TextUnits = 0
	return used
}

// chargeStart bills what a stream costs before its first frame.
func (c *call) chargeStart() {
	used := c.tokens()
	if !c.answer.Hangup && !c.answer.Garbage {
		used.Output = 0 // frame by frame
	}
	c.charge(1, used)
}

// delay waits as long as the answer says. A request that was given up meanwhile
// gets no answer.
func (c *call) delay() {
	if c.answer.Delay == nil {
		return
	}
	select {
	case <-c.answer.Delay:
	case <-c.r.Context().Done():
		hangUp()
	case <-c.stop:
		hangUp()
	}
}

// refuse answers with an error, in the form of AWS' REST protocol: the code in a
// header, the message in the body.
func (c *call) refuse(status int, code string) {
	c.w.Header().Set("X-Amzn-Errortype", code+":http://internal.amazon.com/coral/com.amazon.bedrock/")
	c.write(status, encode(object{"message": "the script says " + code}))
}

// plain answers an operation that is no stream.
func (c *call) plain() {
	var body object
	switch c.op.Name {
	case Converse:
		body = c.converseBody()
	case InvokeModel:
		c.invoke()
		return
	case ApplyGuardrail:
		body = c.guardrailBody()
	case InvokeGuardrailChecks:
		body = c.checksBody()
	case CountTokens:
		body = object{}
		if !c.answer.NoUsage {
			body["inputTokens"] = c.answer.Usage.Input
		}
	case StartAsyncInvoke, GetAsyncInvoke, ListAsyncInvokes:
		var found bool
		if body, found = c.asyncBody(); !found {
			c.refuse(http.StatusNotFound, codeOf(http.StatusNotFound))
			return
		}
	}
	c.send(encode(body))
}

// invoke answers InvokeModel, whose usage is in headers that the service adds to
// what the model has said.
func (c *call) invoke() {
	if c.answer.Tier != "" {
		c.w.Header().Set("X-Amzn-Bedrock-Service-Tier", c.answer.Tier)
	}
	if !c.answer.NoUsage && !c.answer.NoHeaders {
		c.setCount("Invocation-Latency", 1)
		c.setCount("Input-Token-Count", c.answer.Usage.Input)
		if streamable(c.answer.Family) {
			c.setCount("Output-Token-Count", c.answer.Usage.Output)
		}
		if c.answer.Usage.CacheRead > 0 {
			c.setCount("Cache-Read-Input-Token-Count", c.answer.Usage.CacheRead)
		}
		if c.answer.Usage.CacheWrite > 0 {
			c.setCount("Cache-Write-Input-Token-Count", c.answer.Usage.CacheWrite)
		}
	}
	if c.answer.Body != "" {
		c.send([]byte(c.answer.Body))
		return
	}
	c.send(encode(c.familyBody()))
}

func (c *call) setCount(name string, n int64) {
	c.w.Header().Set("X-Amzn-Bedrock-"+name, strconv.FormatInt(n, 10))
}

// send answers 200, with half of the body if it is to be garbage.
func (c *call) send(body []byte) {
	if c.answer.Garbage {
		body = body[:len(body)/2]
	}
	c.write(http.StatusOK, body)
}

func (c *call) write(status int, body []byte) {
	c.w.Header().Set("Content-Type", "application/json")
	c.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(status)
	_, _ = c.w.Write(body) // a caller that has gone is not missed
}

func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic("bedrocktest: an answer is made of what JSON has: " + err.Error())
	}
	return text
}
