package bedrocktest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
)

// The headers of a frame.
const (
	typeHeader      = ":message-type"
	eventHeader     = ":event-type"
	exceptionHeader = ":exception-type"
	contentHeader   = ":content-type"
	signatureHeader = ":chunk-signature"
)

// stream answers with an event stream.
func (c *call) stream() {
	header := c.w.Header()
	header.Set("Content-Type", "application/vnd.amazon.eventstream")
	if c.op.Name == InvokeModelWithResponseStream {
		header.Set("X-Amzn-Bedrock-Content-Type", "application/json")
		if c.answer.Tier != "" {
			header.Set("X-Amzn-Bedrock-Service-Tier", c.answer.Tier)
		}
	}
	c.w.WriteHeader(http.StatusOK)
	c.sent(nil)
	c.play()
}

// play sends the frames until the end that the answer has for them.
func (c *call) play() {
	if c.answer.Garbage {
		c.sent(bytes.Repeat([]byte("no frame "), 20)) // longer than a frame's prelude
		return
	}
	frames := c.frames()
	after, early := c.answer.end()
	for i, f := range frames {
		if early && i == after {
			break
		}
		c.pace(i)
		c.charge(0, Usage{Output: f.tokens}) // first, so that what was read is on the bill
		if !c.sent(encodeFrame("event", eventHeader, f.event, f.body)) {
			c.charge(0, Usage{Output: -f.tokens})
			return
		}
	}
	if early {
		c.breakOff(frames, min(after, len(frames)))
	}
}

// breakOff ends the stream before frame i.
func (c *call) breakOff(frames []frame, i int) {
	switch {
	case c.answer.Exception != "":
		c.pace(i)
		message := object{"message": "the script says " + c.answer.Exception}
		c.sent(encodeFrame("exception", exceptionHeader, c.answer.Exception, message))
		return
	case c.answer.CutInside && i < len(frames):
		c.pace(i)
		whole := encodeFrame("event", eventHeader, frames[i].event, frames[i].body)
		c.sent(whole[:len(whole)/2])
	}
	hangUp()
}

func (c *call) pace(i int) {
	if c.answer.Pace != nil {
		c.answer.Pace(i)
	}
}

// sent sends bytes of a stream at once, and reports whether somebody still listens.
func (c *call) sent(b []byte) bool {
	if c.r.Context().Err() != nil {
		return false
	}
	size := max(len(b), 1)
	if c.answer.ByteByByte {
		size = 1
	}
	flush := http.NewResponseController(c.w).Flush
	for len(b) > size {
		if _, err := c.w.Write(b[:size]); err != nil || flush() != nil {
			return false
		}
		b = b[size:]
	}
	_, err := c.w.Write(b)
	return err == nil && flush() == nil
}

func encodeFrame(kind, nameHeader, name string, body object) []byte {
	var message eventstream.Message
	message.Headers.Set(nameHeader, eventstream.StringValue(name))
	message.Headers.Set(contentHeader, eventstream.StringValue("application/json"))
	message.Headers.Set(typeHeader, eventstream.StringValue(kind))
	message.Payload = encode(body)
	var buffer bytes.Buffer
	if err := eventstream.NewEncoder().Encode(&buffer, message); err != nil {
		panic("bedrocktest: a frame is small and its headers are short: " + err.Error())
	}
	return buffer.Bytes()
}

// bidirectional answers a bidirectional stream: the headers at once, and the frames
// when the first event has come. It does not wait for the last one, so that a
// client that only listens sees an end.
func (c *call) bidirectional() {
	if c.r.ProtoMajor < 2 {
		// Or net/http would read a body to its end that waits for the answer.
		_ = http.NewResponseController(c.w).EnableFullDuplex()
		c.refuse(http.StatusBadRequest, codeOf(http.StatusBadRequest))
		c.sent(nil)
		hangUp()
	}
	c.delay()
	switch {
	case c.answer.Status != http.StatusOK:
		c.refuse(c.answer.Status, c.answer.Error)
		return
	case c.answer.Hangup:
		c.chargeStart()
		hangUp()
	}
	c.w.Header().Set("Content-Type", "application/vnd.amazon.eventstream")
	c.w.WriteHeader(http.StatusOK)
	c.sent(nil)
	first, done := make(chan struct{}), make(chan struct{})
	go c.listen(first, done)
	defer func() {
		_ = c.r.Body.Close() // which ends the listening
		<-done
	}()
	select {
	case <-first:
	case <-done:
		select {
		case <-first: // and the end right after it
		default:
			return // the client had nothing to say, and no model ran
		}
	case <-c.stop:
		return
	}
	c.chargeStart()
	c.play()
}

// listen keeps what a bidirectional stream brings, until it ends. It closes first
// at the first event.
func (c *call) listen(first, done chan<- struct{}) {
	defer close(done)
	heard := false
	decoder := eventstream.NewDecoder()
	for {
		event, err := readEvent(decoder, c.r.Body)
		if err != nil {
			return
		}
		c.mu.Lock()
		c.request.Events = append(c.request.Events, event)
		c.mu.Unlock()
		if !heard {
			heard = true
			close(first)
		}
	}
}

// readEvent is the bytes of the next chunk. The SDK sends each in a frame within a
// frame, whose headers have the signature; an empty one ends the stream.
func readEvent(decoder *eventstream.Decoder, r io.Reader) ([]byte, error) {
	message, err := decoder.Decode(r, nil)
	if err != nil {
		return nil, err
	}
	if message.Headers.Get(signatureHeader) != nil {
		if len(message.Payload) == 0 {
			return nil, io.EOF
		}
		if message, err = eventstream.NewDecoder().Decode(bytes.NewReader(message.Payload), nil); err != nil {
			return nil, err
		}
	}
	var chunk struct {
		Bytes []byte `json:"bytes"`
	}
	if err := json.Unmarshal(message.Payload, &chunk); err != nil {
		return nil, err
	}
	return chunk.Bytes, nil
}
