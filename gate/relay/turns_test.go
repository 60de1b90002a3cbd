package relay

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		few := &turns{places: make(chan struct{}, 1)}
		quick := func() error { return nil }
		first, second := &turn{of: few}, &turn{of: few}
		if err := first.write(t.Context(), quick); err != nil {
			t.Fatal(err)
		}
		wrote := make(chan time.Duration, 1)
		began := time.Now()
		go func() {
			_ = second.write(context.Background(), quick)
			wrote <- time.Since(began)
		}()
		synctest.Wait()
		if err := first.write(t.Context(), quick); err != nil { // its turn goes on
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case <-wrote:
			t.Fatal("two write in one place")
		default:
		}
		// A client that takes nothing.
		release := make(chan struct{})
		stuck := make(chan error, 1)
		go func() { stuck <- first.write(context.Background(), func() error { <-release; return nil }) }()
		if after := <-wrote; after != turnBlocked {
			t.Errorf("a blocked writer kept its turn for %s", after)
		}
		close(release)
		if err := <-stuck; err != nil {
			t.Error(err)
		}
		// Whoever has had its time makes place when others wait.
		third := &turn{of: few}
		go func() { _ = third.write(context.Background(), quick); close(wrote) }()
		synctest.Wait()
		<-time.After(turnLasts + 1)
		if err := second.write(t.Context(), quick); err != nil {
			t.Fatal(err)
		}
		<-wrote
		third.lose()
		// Waiting ends with the context.
		if err := first.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := second.write(ctx, quick); err == nil {
			t.Error("a turn was given that was not free")
		}
		first.lose()
		if len(few.places) != 0 {
			t.Errorf("%d turns are lost", len(few.places))
		}
	})
}
