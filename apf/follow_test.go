package apf

import (
	"context"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seakeep/seakeep/apf/plan"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

func (r *rig) follower(name string, level Level) *Follower {
	return &Follower{
		Writer: r.writer(name), Level: level, Servers: r.servers, Protected: plan.Protected,
		Pacing:  plan.Pacing{Min: 10, Change: 0.1, Quiet: 50 * time.Millisecond, Settle: time.Second, Hold: 2 * time.Second, Relax: 100 * time.Millisecond},
		Every:   100 * time.Millisecond,
		Timeout: 10 * time.Second,
		Log:     r.log().With("follower", name),
	}
}

// run starts a follower; stop ends it as SIGTERM does.
func run(t *testing.T, f *Follower) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(cancel)
	return func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(time.Minute):
			t.Fatal("the follower does not end")
			return nil
		}
	}
}

func TestFollowOnALab(t *testing.T) {
	r := start(t, lab.Options{})
	stock := r.specs()
	var says atomic.Int64
	gate := httptest.NewServer(gateSaying(&says))
	defer gate.Close()
	level := Gates{{Name: "gate", URL: gate.URL, Client: gate.Client()}}
	elsewhere := func() (sum float64) {
		for _, name := range ordinary {
			sum += r.about().Seats[name]
		}
		return sum
	}

	says.Store(40)
	stop := run(t, r.follower("one", level))
	testkit.Within(t, "40 seats are left", 30*time.Second, func() bool { s := elsewhere(); return s <= 40 && s > 35 })
	says.Store(100)
	testkit.Within(t, "100 seats are left", 30*time.Second, func() bool { s := elsewhere(); return s <= 100 && s > 95 })

	// A second one waits, and a jail does not.
	stopSecond := run(t, r.follower("two", Fixed(10)))
	if _, err := r.writer("jailer").Jail(t.Context(), Jail{User: "somebody", For: time.Hour}, false); err != nil {
		t.Fatal(err)
	}
	if s := elsewhere(); s < 90 {
		t.Errorf("the second follower writes: %v seats", s)
	}
	// Somebody deletes the ballast: it comes back.
	if _, err := r.writer("somebody").Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, "100 seats again", 30*time.Second, func() bool { s := elsewhere(); return s <= 100 && s > 95 })

	// The gate falls silent: nothing moves at first, then all is given back.
	says.Store(-1)
	testkit.Within(t, "the ballast is gone", 30*time.Second, func() bool { return r.state().Ballast == 0 })
	if err := r.writer("jailer").Unjail(t.Context(), r.state().Jails[0].Name); err != nil {
		t.Fatal(err)
	}
	r.wantStock(stock)

	says.Store(200)
	testkit.Within(t, "200 seats are left", 30*time.Second, func() bool { s := elsewhere(); return s <= 200 && s > 190 })
	if err := stop(); err != nil {
		t.Errorf("the first follower ended with %v", err)
	}
	testkit.Within(t, "the second follows now", 30*time.Second, func() bool { s := elsewhere(); return s <= 10 && s >= 4 })
	if err := stopSecond(); err != nil {
		t.Errorf("the second follower ended with %v", err)
	}
	r.wantStock(stock)
}
