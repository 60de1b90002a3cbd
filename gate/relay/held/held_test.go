package held

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// write appends the text in parts of random size, as an API server's frames come.
func write(t *testing.T, b *Body, rng *rand.Rand, text []byte, end error) {
	t.Helper()
	for len(text) > 0 {
		space, err := b.Space(t.Context(), time.Minute)
		if err != nil {
			t.Errorf("Space: %v", err)
			break
		}
		n := copy(space[:min(len(space), 1+rng.IntN(20000))], text)
		text = text[n:]
		b.Commit(n)
	}
	b.End(end)
}

func readAll(ctx context.Context, r *Reader) ([]byte, error) {
	var all []byte
	for {
		p, err := r.Next(ctx)
		all = append(all, p...)
		if err != nil {
			return all, err
		}
	}
}

func text(rng *rand.Rand, n int) []byte {
	p := make([]byte, n)
	source := rand.NewChaCha8([32]byte{byte(rng.Uint32())})
	_, _ = source.Read(p) // never fails
	return p
}

func TestEveryReaderSeesEverything(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, size := range []int{0, 1, firstChunk - 1, firstChunk, firstChunk + 1, firstChunk + chunkSize, 3 << 20} {
		for _, retained := range []bool{false, true} {
			want := text(rng, size)
			budget := NewBudget(64<<20, nil)
			b := NewBody(budget, retained, nil)
			var reading sync.WaitGroup
			for range 20 {
				r := b.NewReader(nil)
				reading.Go(func() {
					defer r.Close()
					got, err := readAll(t.Context(), r)
					if err != io.EOF || !bytes.Equal(got, want) {
						t.Errorf("size %d, retained %t: read %d bytes, %v", size, retained, len(got), err)
					}
				})
			}
			write(t, b, rng, want, nil)
			if retained {
				r := b.NewReader(nil)
				if got, err := readAll(t.Context(), r); err != io.EOF || !bytes.Equal(got, want) {
					t.Errorf("size %d: a late reader read %d bytes, %v", size, len(got), err)
				}
				r.Close()
				b.Release()
			}
			reading.Wait()
			if budget.Used() != 0 {
				t.Errorf("size %d, retained %t: %d bytes are still taken", size, retained, budget.Used())
			}
			if size > 0 && b.NewReader(nil) != nil {
				t.Errorf("size %d: a body that was given back took another reader", size)
			}
		}
	}
}

func TestAFailedBodyNeverLooksComplete(t *testing.T) {
	cut := errors.New("connection reset")
	b := NewBody(NewBudget(1<<20, nil), false, nil)
	r := b.NewReader(nil)
	write(t, b, rand.New(rand.NewPCG(1, 1)), make([]byte, 100000), cut)
	got, err := readAll(t.Context(), r)
	if !errors.Is(err, cut) {
		t.Fatalf("want the writer's error, got %v after %d bytes", err, len(got))
	}
	r.Close()
}

func TestWhatAllHaveReadIsGivenBack(t *testing.T) {
	budget := NewBudget(4*chunkSize, nil)
	b := NewBody(budget, false, nil)
	r := b.NewReader(nil)
	done := make(chan []byte)
	go func() {
		got, _ := readAll(context.Background(), r)
		r.Close()
		done <- got
	}()
	rng := rand.New(rand.NewPCG(2, 2))
	want := text(rng, 100*chunkSize)
	write(t, b, rng, want, nil)
	if got := <-done; !bytes.Equal(got, want) {
		t.Fatalf("a body of 25 times the budget with one reader: read %d of %d bytes", len(got), len(want))
	}
	if budget.Used() != 0 {
		t.Fatalf("%d bytes are still taken", budget.Used())
	}
}

func TestTheHindmostReaderIsDroppedForRoom(t *testing.T) {
	budget := NewBudget(8*chunkSize, nil)
	b := NewBody(budget, false, nil)
	cut := make(chan struct{})
	fast, stuck := b.NewReader(nil), b.NewReader(func() { close(cut) })
	if _, err := func() ([]byte, error) { // it begins, and then takes nothing more
		space, _ := b.Space(t.Context(), time.Minute)
		b.Commit(len(space))
		return stuck.Next(t.Context())
	}(); err != nil {
		t.Fatal(err)
	}
	done := make(chan int)
	go func() {
		got, err := readAll(context.Background(), fast)
		if err != io.EOF {
			t.Errorf("the fast reader: %v", err)
		}
		fast.Close()
		done <- len(got)
	}()
	write(t, b, rand.New(rand.NewPCG(3, 3)), make([]byte, 40*chunkSize), nil)
	if got := <-done; got != firstChunk+40*chunkSize {
		t.Fatalf("the fast reader got %d bytes", got)
	}
	<-cut
	if _, err := stuck.Next(t.Context()); !errors.Is(err, ErrBehind) {
		t.Fatalf("the reader that took nothing: want %v, got %v", ErrBehind, err)
	}
	stuck.Close()
	if budget.Used() != 0 {
		t.Fatalf("%d bytes are still taken", budget.Used())
	}
}

func TestKeptIsGivenUpBeforeReaders(t *testing.T) {
	torn := false
	var idle *Body
	evicted := 0
	budget := NewBudget(6*chunkSize, nil)
	budget.evict = func() bool {
		if idle == nil {
			return false
		}
		evicted++
		idle.Release()
		idle = nil
		return true
	}
	idle = NewBody(budget, true, nil)
	write(t, idle, rand.New(rand.NewPCG(4, 4)), make([]byte, 3*chunkSize), nil)
	b := NewBody(budget, true, func() { torn = true })
	r := b.NewReader(nil)
	done := make(chan error)
	go func() { _, err := readAll(context.Background(), r); r.Close(); done <- err }()
	write(t, b, rand.New(rand.NewPCG(5, 5)), make([]byte, 20*chunkSize), nil)
	if err := <-done; err != io.EOF {
		t.Fatalf("the reader: %v", err)
	}
	if evicted != 1 || !torn {
		t.Fatalf("want one eviction and then the own beginning given up, got %d and %t", evicted, torn)
	}
	if budget.Used() != 0 {
		t.Fatalf("%d bytes are still taken", budget.Used())
	}
}

func TestNoMemoryEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(2*chunkSize, nil)
		b := NewBody(budget, false, nil)
		r := b.NewReader(nil) // takes nothing, and nobody is ahead of it
		began := time.Now()
		var err error
		for err == nil {
			var space []byte
			if space, err = b.Space(t.Context(), 3*time.Second); err == nil {
				b.Commit(len(space))
			}
		}
		if !errors.Is(err, ErrNoMemory) || time.Since(began) != 3*time.Second {
			t.Fatalf("want %v after 3s, got %v after %s", ErrNoMemory, err, time.Since(began))
		}
		b.End(err)
		r.Close()
		if budget.Used() != 0 {
			t.Fatalf("%d bytes are still taken", budget.Used())
		}
	})
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	b := NewBody(NewBudget(1<<20, nil), false, nil)
	r := b.NewReader(nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("client gone")
	cancel(gone)
	if _, err := r.Next(ctx); !errors.Is(err, gone) {
		t.Fatalf("want the context's cause, got %v", err)
	}
	r.Close()
	b.End(nil)
}
