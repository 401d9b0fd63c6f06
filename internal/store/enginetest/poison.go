package enginetest

import (
	"context"

	"github.com/quotad/quotad/internal/store"
)

// Poison wraps an engine so that a slice that is kept too long shows it: what Get and Scan hand out are copies, which are
// overwritten when the function that got the transaction returns. Code that is right does not see a difference.
func Poison(e store.Engine) store.Engine { return poisoned{e} }

type poisoned struct{ store.Engine }

func (p poisoned) Update(ctx context.Context, fn func(store.Tx) error) error {
	return p.Engine.Update(ctx, poison(fn))
}

func (p poisoned) View(ctx context.Context, fn func(store.Tx) error) error {
	return p.Engine.View(ctx, poison(fn))
}

func poison(fn func(store.Tx) error) func(store.Tx) error {
	return func(tx store.Tx) error {
		p := &poisonTx{Tx: tx}
		defer p.end()
		return fn(p)
	}
}

type poisonTx struct {
	store.Tx
	out [][]byte
}

func (p *poisonTx) Get(space, key string) ([]byte, error) {
	v, err := p.Tx.Get(space, key)
	return p.hand(v), err
}

func (p *poisonTx) Scan(space, from string, fn func(key string, value []byte) bool) error {
	return p.Tx.Scan(space, from, func(key string, value []byte) bool { return fn(key, p.hand(value)) })
}

func (p *poisonTx) hand(v []byte) []byte {
	if v == nil {
		return nil
	}
	c := append(make([]byte, 0, len(v)), v...)
	p.out = append(p.out, c)
	return c
}

func (p *poisonTx) end() {
	for _, v := range p.out {
		for i := range v {
			v[i] = 0xDB
		}
	}
}
