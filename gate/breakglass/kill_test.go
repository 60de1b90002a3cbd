package breakglass

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/auditlog"
	"github.com/seakeep/seakeep/internal/pki"
)

// reexecEnv names the configuration with which this test program plays a lane, to be killed.
const reexecEnv = "SEAKEEP_TEST_BREAK_GLASS"

func reexecMain() int {
	data, err := os.ReadFile(os.Getenv(reexecEnv))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var c v1alpha1.BreakGlassConfiguration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	registry := prometheus.NewRegistry()
	lane, err := New(Options{Config: &c, Log: discard(), Stderr: os.Stderr, Registerer: registry, Gatherer: registry})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(lane.Address())
	if err := lane.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 0
}

// firstLine hands over what a process writes up to its first line's end.
type firstLine struct {
	mu   sync.Mutex
	b    bytes.Buffer
	done chan string
}

func (f *firstLine) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	had := bytes.ContainsRune(f.b.Bytes(), '\n')
	f.b.Write(p)
	if line, _, ok := strings.Cut(f.b.String(), "\n"); ok && !had {
		f.done <- line
	}
	return len(p), nil
}

// What was acknowledged is on record whole, at whatever instant the lane is killed, and the next lane goes on where the
// chain ended.
func TestAuditSurvivesKill(t *testing.T) {
	const seed, rounds = 20241211, 12
	random := rand.New(rand.NewPCG(seed, seed))
	r := newRig(t)
	r.apiServer(func(http.ResponseWriter, *http.Request) {})
	file := r.path("lane.yaml")
	if err := os.WriteFile(file, must(yaml.Marshal(r.config))(t), 0o600); err != nil {
		t.Fatal(err)
	}
	client, _ := r.engineer(r.breakGlass, pki.Spec{})
	var acknowledged atomic.Int64
	for round := range rounds {
		work := time.Duration(random.IntN(100_000)) * time.Microsecond
		if round == 0 {
			work = time.Second // at least once something is on record for certain
		}
		killedLane(t, file, work, func(address string) bool {
			response, err := client.Post("https://"+address+"/api/v1/namespaces", "application/json", strings.NewReader("{}"))
			if err != nil {
				return false
			}
			response.Body.Close()
			acknowledged.Add(1)
			return true
		})
		client.CloseIdleConnections()
		if _, err := auditlog.Verify(r.config.AuditFile); err != nil {
			t.Fatalf("round %d, after kill -9: %v", round, err)
		}
	}
	t.Logf("%d requests were acknowledged in %d rounds", acknowledged.Load(), rounds)
	// The next lane goes on where the chain ended.
	file2, err := openChain(r.config.AuditFile, discard())
	if err != nil {
		t.Fatal(err)
	}
	if err := file2.Append(record{Event: eventStarted}); err != nil {
		t.Fatal(err)
	}
	if err := file2.Close(); err != nil {
		t.Fatal(err)
	}
	requests := 0
	for _, e := range readRecords(t, r.config.AuditFile) {
		if e.Event == eventRequest {
			requests++
		}
	}
	if n := int(acknowledged.Load()); requests < n || n < 20 {
		t.Errorf("%d requests acknowledged, %d on record", n, requests)
	}
}

// killedLane starts a lane, has four clients ask until it does not answer any more, and kills it after some work.
func killedLane(t *testing.T, file string, work time.Duration, ask func(address string) bool) {
	t.Helper()
	lane := exec.Command(os.Args[0], "-test.run=^$")
	lane.Env = append(os.Environ(), reexecEnv+"="+file)
	out := &firstLine{done: make(chan string, 1)}
	lane.Stdout, lane.Stderr = out, os.Stderr
	if err := lane.Start(); err != nil {
		t.Fatal(err)
	}
	killed := sync.OnceFunc(func() {
		lane.Process.Kill()
		lane.Wait() // it was killed; its exit says nothing
	})
	defer killed()
	var address string
	select {
	case address = <-out.done:
	case <-time.After(30 * time.Second):
		t.Fatal("the lane did not start")
	}
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for ask(address) {
			}
		})
	}
	<-time.After(work)
	killed()
	asking.Wait()
}
