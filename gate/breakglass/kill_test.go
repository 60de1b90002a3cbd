package breakglass

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
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

// What was acknowledged is on record whole, however the lane ends.
func TestAuditSurvivesKill(t *testing.T) {
	r := newRig(t)
	r.apiServer(func(http.ResponseWriter, *http.Request) {})
	file := r.path("lane.yaml")
	if err := os.WriteFile(file, must(yaml.Marshal(r.config))(t), 0o600); err != nil {
		t.Fatal(err)
	}
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
	client, _ := r.engineer(r.breakGlass, pki.Spec{})
	var mu sync.Mutex
	acknowledged := 0
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				response, err := client.Post("https://"+address+"/api/v1/namespaces", "application/json", strings.NewReader("{}"))
				if err != nil {
					return
				}
				response.Body.Close()
				mu.Lock()
				acknowledged++
				enough := acknowledged >= 50
				mu.Unlock()
				if enough {
					killed()
				}
			}
		})
	}
	wg.Wait()
	if _, err := auditlog.Verify(r.config.AuditFile); err != nil {
		t.Fatalf("after kill -9: %v", err)
	}
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
	if requests < acknowledged {
		t.Errorf("%d requests acknowledged, %d on record", acknowledged, requests)
	}
}
