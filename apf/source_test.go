package apf

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// apiServerSaying is an API server's metrics, with the resident memory a test wants.
func apiServerSaying(t *testing.T, resident, started *atomic.Int64) Endpoint {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if resident.Load() < 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "process_cpu_seconds_total 10\nprocess_resident_memory_bytes %d\nprocess_start_time_seconds %d\n", resident.Load(), started.Load())
		fmt.Fprint(w, "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 3\napiserver_current_inflight_requests{request_kind=\"mutating\"} 1\n")
	}))
	t.Cleanup(server.Close)
	return Endpoint{Name: "API server", URL: server.URL, Client: server.Client()}
}

func TestSignals(t *testing.T) {
	var first, second, started atomic.Int64
	started.Store(1_700_000_000)
	s := &Signals{Servers: Servers{apiServerSaying(t, &first, &started), apiServerSaying(t, &second, &started)}, Memory: 1000}
	s.Bound(10, 400, 2)
	first.Store(100)
	second.Store(900)
	if seats, err := s.Level(t.Context()); err == nil {
		t.Errorf("one reading says nothing of use over time, got %v", seats)
	}
	if seats, err := s.Level(t.Context()); err != nil || seats != 2*280 {
		t.Errorf("one of two is near its memory: want 280 for each, got %v, %v", seats, err)
	}
	second.Store(-1)
	if seats, err := s.Level(t.Context()); err == nil {
		t.Errorf("one of two is not read: want an error, got %v", seats)
	}
	second.Store(100)
	if seats, err := s.Level(t.Context()); err != nil || seats != 2*300 {
		t.Errorf("both are idle: want 300 for each, got %v, %v", seats, err)
	}
	started.Add(60)
	if seats, err := s.Level(t.Context()); err == nil {
		t.Errorf("they restarted: want an error, got %v", seats)
	}
}

func ExampleJail() {
	jail := Jail{ServiceAccount: "monitoring/telemetry", Verbs: []string{"list"}, For: 30 * time.Minute, Reason: "INC-42"}
	fmt.Println(jail.Validate(), jail.Name())
	// Output: <nil> seakeep-jail-monitoring-telemetry-033ae12f
}
