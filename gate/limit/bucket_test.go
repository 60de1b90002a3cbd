package limit

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

func TestBucketKeys(t *testing.T) {
	unverified := func(address string) *flow.Request {
		return request("unverified:"+address, func(f *flow.Request) {
			f.Caller.Certainty, f.Source = flow.Unverified, netip.MustParseAddr(address)
		})
	}
	tests := map[string]struct {
		per    v1alpha1.LimitKey
		a, b   *flow.Request
		shared bool
	}{
		"user":                       {v1alpha1.PerUser, request("a"), request("b"), false},
		"user from elsewhere":        {v1alpha1.PerUser, request("a"), request("a", func(f *flow.Request) { f.Source = netip.MustParseAddr("10.9.9.9") }), true},
		"unverified, two addresses":  {v1alpha1.PerUser, unverified("10.0.0.1"), unverified("10.0.0.2"), false},
		"unverified, one IPv6 host":  {v1alpha1.PerUser, unverified("fd00::1"), unverified("fd00::2"), true},
		"unverified, two IPv6 hosts": {v1alpha1.PerUser, unverified("fd00:0:0:1::1"), unverified("fd00:0:0:2::1"), false},
		"user agent":                 {v1alpha1.PerUserAgent, request("a"), request("b"), true},
		"source":                     {v1alpha1.PerSource, request("a"), request("b"), true},
		"two sources":                {v1alpha1.PerSource, request("a"), request("a", func(f *flow.Request) { f.Source = netip.MustParseAddr("10.9.9.9") }), false},
		"rule":                       {v1alpha1.PerRule, request("a"), request("b", func(f *flow.Request) { f.Source = netip.MustParseAddr("10.9.9.9") }), true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			e := engine(t, newClock(), throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(1.0), Per: tc.per}))
			admit(t, e, tc.a).Done()
			if _, r := e.Admit(tc.b, nil); (r != nil) != tc.shared {
				t.Errorf("the bucket is shared: %t, want %t", r != nil, tc.shared)
			}
		})
	}
}

// Over any window the admitted requests are at most burst + rate × window, whatever the clients do and however the
// clock jumps.
func TestRateNeverExceeded(t *testing.T) {
	const rate, burst = 7.0, 20
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		c := newClock()
		e := engine(t, c, throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(rate), Burst: one(burst)}))
		var times []time.Time
		for range 2000 {
			switch random.IntN(10) {
			case 0:
				c.add(-time.Duration(random.Int64N(int64(time.Second)))) // NTP
			default:
				c.add(time.Duration(random.ExpFloat64() * float64(50*time.Millisecond)))
			}
			if p, _ := e.Admit(request("a"), nil); p != nil {
				times = append(times, c.Now())
				p.Done()
			}
		}
		latest := times[0]
		for i := range times { // the bucket's time does not run backwards, so neither does the window's
			if times[i].Before(latest) {
				times[i] = latest
			}
			latest = times[i]
		}
		for i := range times {
			for j := i; j < len(times); j++ {
				window := times[j].Sub(times[i]).Seconds()
				if got := j - i + 1; float64(got) > burst+rate*window+1e-6 {
					t.Fatalf("seed %d: %d requests in %.3f s, at most %.1f allowed", seed, got, window, burst+rate*window)
				}
			}
		}
	}
}

func TestBytesAreADebt(t *testing.T) {
	c := newClock()
	e := engine(t, c, throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{BytesPerSecond: quantity("1Mi"), BurstBytes: quantity("4Mi")}))
	p := admit(t, e, request("a"))
	p.Wrote(10 << 20) // never cut: 6 Mi of debt
	p.Done()
	r := reject(t, e, request("a"), ReasonBytes)
	if r.RetryAfter != 6*time.Second {
		t.Errorf("Retry-After %v, want the 6s the debt takes", r.RetryAfter)
	}
	c.add(5900 * time.Millisecond)
	reject(t, e, request("a"), ReasonBytes)
	c.add(200 * time.Millisecond)
	admit(t, e, request("a")).Done()
	admit(t, e, request("b")).Done() // another's bucket
}

func TestRetryAfterGrowsWithTheCrowd(t *testing.T) {
	c := newClock()
	e := engine(t, c, throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(10.0), Burst: one(1)}))
	admit(t, e, request("a")).Done()
	var first, last time.Duration
	for i := range 100 {
		r := reject(t, e, request("a"), ReasonRate)
		if i == 0 {
			first = r.RetryAfter
		}
		last = r.RetryAfter
	}
	if first != time.Second || last < 5*time.Second || last > 2*maxWait {
		t.Errorf("Retry-After went from %v to %v, want 1s and then what 100 clients take at 10/s", first, last)
	}
	e.rand = rand.Float64
	seen := make(map[time.Duration]bool)
	for range 50 {
		r := reject(t, e, request("a"), ReasonRate)
		seen[r.RetryAfter] = true
		if got := r.Status().Details.RetryAfterSeconds; got < 1 || time.Duration(got)*time.Second != r.RetryAfter {
			t.Fatalf("the body says %d s and the header %v", got, r.RetryAfter)
		}
	}
	if len(seen) < 3 {
		t.Errorf("no jitter: %v", seen)
	}
}

// A flood of names neither takes memory nor makes anybody's debt be forgotten.
func TestFullTable(t *testing.T) {
	c := newClock()
	b := bounds{perSecond: 1, burst: 1}
	tb := newTable(b, 4, nil)
	take := func(name string) bool {
		got, _ := tb.take(key{name: name}, c.Now)
		if got != nil {
			tb.release(got)
			tb.forget(got)
		}
		return got != nil
	}
	for i := range 4 {
		if !take(fmt.Sprint(i)) {
			t.Fatalf("newcomer %d is turned away", i)
		}
	}
	overflowed := 0
	for i := range 1000 {
		if take(fmt.Sprintf("flood-%d", i)) {
			overflowed++
		}
	}
	if overflowed != 1 {
		t.Errorf("the flood got %d requests, want the 1 of the shared bucket", overflowed)
	}
	if take("0") {
		t.Error("the flood made a spent bucket be forgotten")
	}
	if n, shared := tb.size(); n != 4 || shared != 1000 {
		t.Errorf("%d buckets and %d shared, want 4 and 1000", n, shared)
	}
	c.add(time.Hour) // all settled: they give way
	for i := range 4 {
		if !take(fmt.Sprintf("new-%d", i)) {
			t.Errorf("newcomer %d is turned away though the old buckets are settled", i)
		}
	}
}

// A bucket with a running response must not be forgotten: its bytes are still to come.
func TestOpenPassKeepsItsBucket(t *testing.T) {
	c := newClock()
	tb := newTable(bounds{bytesPerSecond: 1 << 20, burstBytes: 1 << 20}, 1, nil)
	first, _ := tb.take(key{name: "a"}, c.Now)
	c.add(time.Hour)
	second, _ := tb.take(key{name: "b"}, c.Now)
	if second == first || second != tb.overflow {
		t.Fatal("the bucket of a running response gave way")
	}
	first.written.Add(100 << 20)
	if _, r := tb.take(key{name: "a"}, c.Now); r == nil || r.reason != ReasonBytes {
		t.Errorf("the debt is forgotten: %+v", r)
	}
}
