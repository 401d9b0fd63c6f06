package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// sending is a request that quotad knows by an id, so that all sendings of it are one.
type sending struct {
	id   string // "" means that every sending would count, so that it is sent once
	flag string // the flag that gives the id to the next run, where quotactl made it; else ""
	what string // of what the id is: "request" or "extension"
	done string // what may have been done: "charged"
	does string // what sending it again does: "charges"
}

// own gives a sending its id. Where the flag has its default, auto, it makes one, and notes that the next run would make another.
func (s *sending) own(flag, id string) error {
	s.id = id
	if id != "auto" {
		return nil
	}
	fresh, err := uuid.NewV7() // sorts by time, which is the cheapest for quotad to keep
	if err != nil {
		return fmt.Errorf("making an id: %w", err)
	}
	s.id, s.flag = fresh.String(), flag
	return nil
}

// send sends a request until it is answered or the time is up. A refusal is an answer.
func send[Req, Resp any](
	ctx context.Context, a *app, s sending, call func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req,
) (Resp, error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	patience, pause := a.timeout, 50*time.Millisecond
	if s.id != "" {
		patience = max(a.timeout/3, 100*time.Millisecond) // an answer may be lost on its way, so that one try does not get all of the time
	}
	var none Resp
	var last error
	lost := false // whether a sending may have been carried out without our hearing of it
	for {
		try, done := context.WithTimeout(ctx, patience)
		resp, err := call(try, req)
		done()
		code := status.Code(err)
		if err == nil {
			return resp, nil
		}
		lost = lost || outcomeUnknown(err)
		if last == nil || code != codes.DeadlineExceeded {
			last = err // what quotad said says more than that the time was up
		}
		again := code == codes.Unavailable || code == codes.DeadlineExceeded
		if again && s.id != "" && sleep(ctx, pause) == nil {
			pause = min(2*pause, time.Second)
			continue
		}
		if lost && (again || code == codes.Internal || code == codes.Canceled) {
			return none, &perhaps{err: last, sending: s}
		}
		return none, last
	}
}

// perhaps is a request without an answer: whether it was carried out is not known here, but quotad knows.
type perhaps struct {
	err error
	sending
}

func (e *perhaps) Error() string { return e.err.Error() }
func (e *perhaps) Unwrap() error { return e.err }

func (e *perhaps) hint() string {
	switch {
	case e.id == "":
		return fmt.Sprintf("whether it was %s is not known, and without %s id there is no way to ask", e.done, article(e.what))
	case e.flag != "":
		return fmt.Sprintf("whether it was %s is not known here: the same command with %s %s %s at most once, and tells", e.done, e.flag, e.id, e.does)
	}
	return fmt.Sprintf("whether it was %s is not known here: the same command may be run again, it %s at most once and tells", e.done, e.does)
}

func article(word string) string {
	if strings.ContainsAny(word[:1], "aeio") {
		return "an " + word
	}
	return "a " + word
}

// asDenied prints a denial as check would have, and passes other errors on.
func (a *app) asDenied(err error) error {
	if denial := denialIn(err); denial != nil {
		return errors.Join(a.emit(&quotadv1.CheckResponse{Denial: denial}, nil), err)
	}
	return err
}

// shellWord writes an operand so that a shell passes it on as it is, and a command does not take it for a flag.
func shellWord(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-"
	word := s
	if s == "" || strings.Trim(s, plain) != "" {
		word = "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	if strings.HasPrefix(s, "-") {
		word = "-- " + word
	}
	return word
}
