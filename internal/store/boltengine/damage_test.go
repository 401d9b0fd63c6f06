package boltengine

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/quotad/quotad/internal/store"
)

// damages are the ways to spoil a file. pages is how many of its pages are in use or free; the rest is room to grow.
var damages = map[string]func(r *rand.Rand, b []byte, pageSize, pages int) []byte{
	"bit": func(r *rand.Rand, b []byte, pageSize, pages int) []byte {
		b[r.IntN(pages*pageSize)] ^= 1 << r.IntN(8)
		return b
	},
	"sector": func(r *rand.Rand, b []byte, pageSize, pages int) []byte {
		clear(b[r.IntN(pages*pageSize/512)*512:][:512])
		return b
	},
	"zeros": func(r *rand.Rand, b []byte, pageSize, pages int) []byte {
		clear(b[(2+r.IntN(pages-2))*pageSize:][:pageSize])
		return b
	},
	"garbage": func(r *rand.Rand, b []byte, pageSize, pages int) []byte {
		garble(r, b[(2+r.IntN(pages-2))*pageSize:][:pageSize])
		return b
	},
	"cut": func(r *rand.Rand, b []byte, pageSize, pages int) []byte { return b[:r.IntN(pages*pageSize)] },
	"header": func(r *rand.Rand, b []byte, pageSize, pages int) []byte {
		at := (2 + r.IntN(pages-2)) * pageSize
		garble(r, b[at+r.IntN(8)*2:][:2]) // id, flags, count or overflow
		return b
	},
	"element": func(r *rand.Rand, b []byte, pageSize, pages int) []byte {
		at := (2+r.IntN(pages-2))*pageSize + headerSize
		garble(r, b[at+r.IntN(40)*4:][:4]) // a position, a size, half a page number
		return b
	},
	"small number": func(r *rand.Rand, b []byte, pageSize, pages int) []byte {
		at := (2+r.IntN(pages-2))*pageSize + r.IntN(40)*4
		order.PutUint32(b[at:], r.Uint32N(uint32(pages)*2)) // likely another page
		return b
	},
	"swap": func(r *rand.Rand, b []byte, pageSize, pages int) []byte {
		x, y := (2+r.IntN(pages-2))*pageSize, (2+r.IntN(pages-2))*pageSize
		for i := range pageSize {
			b[x+i], b[y+i] = b[y+i], b[x+i]
		}
		return b
	},
	"meta": func(r *rand.Rand, b []byte, pageSize, _ int) []byte {
		garble(r, b[r.IntN(2)*pageSize+headerSize:][:metaSize])
		return b
	},
	"metas": func(r *rand.Rand, b []byte, pageSize, _ int) []byte {
		garble(r, b[headerSize:][:metaSize])
		garble(r, b[pageSize+headerSize:][:metaSize])
		return b
	},
	"signed meta": func(r *rand.Rand, b []byte, pageSize, _ int) []byte { // wrong, with a checksum that is right
		for i := range 2 {
			m := b[i*pageSize+headerSize:][:metaSize]
			at := []int{8, 16, 32, 40}[r.IntN(4)]
			order.PutUint32(m[at:], r.Uint32()>>r.IntN(32))
			sign(m)
		}
		return b
	},
}

func garble(r *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}

// wantDamaged are the ways that must be found whenever they meet a page in use. One in nine files meets one, for the rarest of
// them.
var wantDamaged = []string{"zeros", "garbage", "cut", "header", "element", "small number", "swap", "metas", "signed meta"}

// specimen writes a file with all that the format has: small spaces, large ones, values of several pages, a free list.
func specimen(t *testing.T) (path string) {
	t.Helper()
	e := open(t, t.TempDir(), Options{Create: true})
	if err := e.Update(t.Context(), func(tx store.Tx) error {
		for i := range 3000 {
			if err := tx.Put("used/2026-11-22", fmt.Sprintf("acme/%05d", i*7919%3000), []byte(strconv.Itoa(i))); err != nil {
				return err
			}
		}
		for i := range 30 {
			if err := errors.Join(tx.Put(fmt.Sprintf("small/%02d", i), "k", []byte("v")),
				tx.Put("large", fmt.Sprint(i), []byte(strings.Repeat("x", i*700))), tx.Put("dropped", fmt.Sprint(i), make([]byte, 5000))); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := e.Update(t.Context(), func(tx store.Tx) error { return tx.Drop("dropped") }); err != nil {
		t.Fatal(err)
	}
	if err := put(e, "meta", "k", "v"); err != nil {
		t.Fatal(err)
	}
	shut(t, e)
	return e.Path()
}

// damagesMax is how many files are spoilt at most until the first of a wanted way is found damaged. That none of so many is means
// that the check is blind to it: the chance is one in 10^25.
const damagesMax = 500

// TestDamage spoils a file in some hundred ways, from seeds that it names. Each must be opened and read to the end, and written to,
// or refused with ErrDamaged; in a child process, as what it is about can end one.
func TestDamage(t *testing.T) {
	path := specimen(t)
	each := 25
	if os.Getenv("QUOTAD_LONG") != "" {
		each = 1000
	}
	for kind := range damages {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			lines, err := spawn(t, nil, "mutations", path, t.TempDir(), kind, fmt.Sprint(seed), fmt.Sprint(each))
			found := map[string]int{}
			for _, line := range lines {
				what, _, _ := strings.Cut(line, " ")
				found[what]++
				if what == "error:" || what == "wrong" {
					t.Errorf("seed %d: %s", seed, line)
				}
			}
			if err != nil {
				t.Errorf("seed %d, file %d: %v", seed, len(lines), err)
			}
			if found["damaged"] == 0 && slices.Contains(wantDamaged, kind) {
				t.Errorf("seed %d: none of %d files was found damaged", seed, len(lines))
			}
			t.Logf("seed %d: %d damaged, %d worked", seed, found["damaged"], found["worked"])
		})
	}
}

// TestDamageControl shows that the suite sees what bbolt alone does with such files: it ends the process.
func TestDamageControl(t *testing.T) {
	path := specimen(t)
	if lines, err := spawn(t, nil, "mutations-raw", path, t.TempDir(), "cut", "1", "40"); err == nil {
		t.Errorf("bbolt alone survived 40 files that were cut short: %v", lines)
	}
}

// playMutations spoils copies of a file and uses them: args are the file, a directory, the kind, the seed and the number.
func playMutations(out io.Writer, args []string) error {
	original, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	seed, err := strconv.ParseUint(args[3], 10, 64)
	n, err2 := strconv.Atoi(args[4])
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	metas, err := readMetas(strings.NewReader(string(original)), uint64(len(original)))
	if err != nil {
		return err
	}
	pages, pageSize := int(metas[0].pages), int(metas[0].pageSize)
	original = original[:pages*pageSize] // what is behind is room to grow
	found := !slices.Contains(wantDamaged, args[2])
	for i := 0; i < n || !found && i < damagesMax; i++ {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		spoilt := damages[args[2]](r, slices.Clone(original), pageSize, pages)
		if err := os.WriteFile(filepath.Join(args[1], FileName), spoilt, 0o600); err != nil {
			return err
		}
		use := useDir
		if os.Getenv(childVar) == "mutations-raw" {
			use = useRaw
		}
		done := make(chan error, 1)
		go func() { done <- use(args[1]) }()
		select {
		case err = <-done:
		case <-time.After(20 * time.Second):
			return fmt.Errorf("file %d: it hangs", i)
		}
		switch {
		case err == nil:
			fmt.Fprintln(out, "worked", i)
		case errors.Is(err, ErrDamaged):
			found = true
			fmt.Fprintln(out, "damaged", i, err)
		default:
			fmt.Fprintln(out, "wrong", i, err)
		}
	}
	return nil
}

// useDir opens a directory, reads all of it, and writes to each space.
func useDir(dir string) (err error) {
	e, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
		err = errors.Join(err, e.Close())
	}()
	var spaces []string
	if err := e.View(context.Background(), func(tx store.Tx) error {
		return tx.Spaces("", func(space string) bool {
			spaces = append(spaces, space)
			_ = tx.Scan(space, "", func(key string, _ []byte) bool { _, _ = tx.Get(space, key); return true })
			return true
		})
	}); err != nil {
		return err
	}
	for _, change := range []func(tx store.Tx, space string) error{
		func(tx store.Tx, space string) error { return tx.Put(space, "acme/01234x", make([]byte, 100)) },
		func(tx store.Tx, space string) error { return tx.Drop(space) },
	} {
		if err := e.Update(context.Background(), func(tx store.Tx) error {
			for _, space := range spaces {
				if err := change(tx, space); err != nil {
					return fmt.Errorf("space %s: %w", hex.EncodeToString([]byte(space)), err)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// useRaw reads with bbolt alone.
func useRaw(dir string) error {
	db, err := bolt.Open(filepath.Join(dir, FileName), 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	return db.View(func(t *bolt.Tx) error {
		return t.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	})
}

// TestChurn: no file that bbolt wrote itself is found damaged, whatever was put and taken away.
func TestChurn(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	rounds := 60
	if os.Getenv("QUOTAD_LONG") != "" {
		rounds = 3000
	}
	dir := t.TempDir()
	for round := range rounds {
		e, err := Open(dir, Options{Create: true})
		if err != nil {
			t.Fatalf("seed %d, round %d: %v", seed, round, err)
		}
		for range 1 + r.IntN(5) {
			if err := e.Update(t.Context(), func(tx store.Tx) error { return churn(r, tx) }); err != nil {
				t.Fatalf("seed %d, round %d: %v", seed, round, err)
			}
		}
		shut(t, e)
	}
}

// churn puts or deletes a run of keys, in order or not, or drops a space.
func churn(r *rand.Rand, tx store.Tx) error {
	space := fmt.Sprint("space/", r.IntN(4))
	kind, start, n := r.IntN(10), r.IntN(5000), r.IntN(2000)
	if kind == 0 {
		return tx.Drop(space)
	}
	for i := range n {
		k := start + i
		if kind%2 == 0 {
			k = r.IntN(5000)
		}
		key := fmt.Sprintf("%05d%s", k, strings.Repeat("k", k%50*k%7))
		var err error
		if kind <= 5 {
			err = tx.Delete(space, key)
		} else {
			err = tx.Put(space, key, make([]byte, r.IntN(100)*r.IntN(3)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// TestTornMeta: one meta page that is unreadable is told, and mended by two commits.
func TestTornMeta(t *testing.T) {
	path := specimen(t)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	metas, err := readMetas(strings.NewReader(string(b)), uint64(len(b)))
	if err != nil || len(metas) != 2 {
		t.Fatal(metas, err)
	}
	for slot := range uint64(2) {
		spoilt := slices.Clone(b)
		spoilt[slot*metas[0].pageSize+headerSize+20]++
		if err := os.WriteFile(path, spoilt, 0o600); err != nil {
			t.Fatal(err)
		}
		for i, want := range []bool{true, false} {
			e := open(t, filepath.Dir(path), Options{})
			if got := e.TornMeta(); got != want {
				t.Errorf("slot %d, opened for time %d: TornMeta() = %v", slot, i+1, got)
			}
			if err := errors.Join(put(e, "a", "k", "1"), put(e, "a", "k", "2")); err != nil {
				t.Error(err)
			}
			shut(t, e)
		}
	}
}

// sign gives a meta its checksum.
func sign(m []byte) {
	sum := fnv.New64a()
	_, _ = sum.Write(m[:metaSize-8])
	order.PutUint64(m[metaSize-8:], sum.Sum64())
}
