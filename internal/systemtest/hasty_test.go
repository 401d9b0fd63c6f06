package systemtest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/boltengine"
)

// A hastyEngine says that it is done when a transaction has decided, and makes it durable afterwards: what the crash tests
// must catch. In all else it is the engine of the daemon.
type hastyEngine struct {
	*boltengine.Engine
	last chan error // the outcome of the Update before, once it is durable
}

// Update is store.Engine's, but for its promise.
func (e *hastyEngine) Update(ctx context.Context, fn func(store.Tx) error) error {
	if err := <-e.last; err != nil {
		e.last <- err
		return err
	}
	decided := make(chan error, 1)
	go func() {
		err := e.Engine.Update(ctx, func(tx store.Tx) error {
			err := fn(tx)
			decided <- err
			// What a sync costs on a slow disk: the time in which an answer is out and its write is not.
			time.Sleep(20 * time.Millisecond)
			return err
		})
		var refusal error
		if errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrUnknown) {
			refusal = err
		}
		e.last <- refusal
	}()
	return <-decided
}

// Close is store.Engine's.
func (e *hastyEngine) Close() error { return errors.Join(<-e.last, e.Engine.Close()) }

// serveHasty is a daemon on a hasty engine: data directory and socket are its arguments.
func serveHasty(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%d arguments, want a directory and a socket", len(args))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	inner, err := boltengine.Open(args[0], boltengine.Options{Create: true})
	if err != nil {
		return err
	}
	engine := &hastyEngine{inner, make(chan error, 1)}
	engine.last <- nil
	ledger, err := store.Open(ctx, engine, store.Options{})
	if err != nil {
		return err
	}
	if err := os.Remove(args[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", args[1])
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(asLocal))
	service.New(service.Config{Ledger: ledger, Version: "hasty", Engine: "bbolt"}).Register(server)
	context.AfterFunc(ctx, server.GracefulStop)
	return errors.Join(server.Serve(listener), ledger.Close())
}

func asLocal(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	return handle(auth.NewContext(ctx, auth.Local()), request)
}
